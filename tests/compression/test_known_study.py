"""The study of networks that people know: order of rows, stages of a row, what is written, and the cost of a step."""

import argparse
import io
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

from benchmarks.networks import full_width, known, restore_cost, study_gpu  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny network's weights, and a tar of small images."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    found, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    save_file(known.CifarResNet(1).state_dict(), found / "tiny.safetensors")
    with tarfile.open(found / "images.tar", "w") as archive:
        for part, name, n in ((p, c, k) for p in ("train", "test") for c in "ba" for k in range(6)):
            stream = io.BytesIO()
            value = np.full((12, 12, 3), 40 if name == "a" else 200) + rng.integers(0, 20, (12, 12, 3))
            image_module.fromarray(value.astype(np.uint8)).save(stream, "PNG")
            entry = tarfile.TarInfo(f"data/{part}/{name}/{n}.png")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))
    return found


def test_rows_come_in_the_order_of_their_importance():
    found = study_gpu.tasks(["one", "two"], ["tc", "cp3", "btd"], [3.0, 5.0], seeds=2)
    assert len(set(found)) == len(found) == 2 + 2 * (2 * 2 * 2 * 2) + 2 * 2 + 2 * 2
    assert [task.method for task in found[:6]] == ["dense", "dense", "tc", "tc", "tc", "tc"]
    assert {task.times for task in found[2:12]} == {3.0}
    assert all(task.method in ("tc", "cp3") for task in found if task.seed > 0)


def test_fits_can_be_chosen(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(study_gpu, "_decode", lambda options, into: None)
    monkeypatch.setattr(study_gpu, "_done", lambda row: asked.append(row) or True)
    wanted = []
    monkeypatch.setattr(study_gpu, "_key", lambda row: wanted.append((row["method"], row["fit"])))
    arguments = [str(folder / "tiny.safetensors"), "--path", "none", "--out", str(tmp_path), "--methods", "tc", "btd"]
    assert study_gpu.main([*arguments, "--seeds", "1", "--times", "3", "--fits", "stabilised"]) == 0
    assert wanted == [("dense", "dense"), ("tc", "stabilised"), ("btd", "stabilised")]
    assert len(asked) == 3


def test_images_and_weights_are_read(folder):
    pixels, labels = known.images(folder / "images.tar", "test", 0, np.random.default_rng(1))
    assert pixels.shape == (12, 3, 12, 12)
    # "a" comes first in the alphabet, and is dark.
    assert all((image.mean() > 0) == bool(label) for image, label in zip(pixels, labels, strict=True))
    net = known.load(folder / "tiny.safetensors")
    assert net(pixels).shape == (12, 10)
    wide = known.resnet18(width=8)
    assert wide(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    (folder / "other.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes())
    state = {name: value for name, value in net.state_dict().items() if "linear" not in name}
    from safetensors.torch import save_file

    save_file(state, folder / "other.safetensors")
    with pytest.raises(ValueError, match="linear"):
        known.load(folder / "other.safetensors")


def test_a_row_goes_through_all_stages_and_is_written(folder, tmp_path):
    options = argparse.Namespace(
        path=folder / "images.tar", images=0, test=0, jobs=1, device="cpu", calibration=8, candidates=2, epochs=1,
        rate=0.01, batch=6,
    )  # fmt: skip
    study_gpu._decode(options, tmp_path)
    torch.set_num_threads(1)
    bench = study_gpu.Bench(options, tmp_path)
    task = study_gpu.Task(str(folder / "tiny.safetensors"), "tucker2", "stabilised", 2.0, 0)
    whole = {}
    for found in bench.stages(task):
        whole.update(found)
    assert set(whole) == {*study_gpu.COLUMNS} - {"network", "method", "fit", "times", "seed", "dense", "device"}
    assert whole["macs"] <= 0.5
    row = {"network": "tiny", "method": "tucker2", "fit": "stabilised", "times": 2.0, "seed": 0, **whole}
    rows = {study_gpu._key(row): {name: str(value) for name, value in row.items()}}
    study_gpu._write(tmp_path / "rows.csv", rows)
    again = study_gpu._rows(tmp_path / "rows.csv")
    assert list(again) == list(rows)
    assert study_gpu._done(again[study_gpu._key(row)])
    # Each pass has an order of its own.
    generator = torch.Generator().manual_seed(0)
    passes = [torch.cat([labels for _, labels in bench.batches(generator)]).tolist() for _ in range(4)]
    assert len({tuple(one) for one in passes}) > 1
    assert len({tuple(sorted(one)) for one in passes}) == 1


def test_costs_are_printed(folder, capsys):
    weights = str(folder / "tiny.safetensors")
    assert restore_cost.main([weights, "--device", "cpu", "--methods", "cp3", "--batch", "2", "--steps", "4"]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].split("|")
    assert float(cells[4]) > 0.0
    assert int(cells[7]) > 0


def test_time_and_memory_of_a_compression_are_printed(folder, capsys, monkeypatch):
    def run(command, **options):
        """What the new process would do, here."""
        monkeypatch.setattr("sys.argv", ["-c", *command[3:]])
        exec(command[2], {})
        return argparse.Namespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(full_width.subprocess, "run", run)
    assert full_width.main([str(folder / "tiny.safetensors"), "--methods", "tucker2"]) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")]
    assert cells[1:3] == ["tiny", "tucker2"]
    assert float(cells[6]) <= 0.33
