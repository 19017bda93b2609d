"""Loaders on small files of each format, and the networks' layout of names."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.networks import adopt, data, resnet, train


def write_idx(path, array, compress=False):
    raw = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if compress else raw)


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files(tmp_path, compress):
    for part, count in (("train", 24), ("t10k", 6)):
        suffix = ".gz" if compress else ""
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", pixels((count, 28, 28)), compress)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 3, compress)
    splits = data.load("fashion-mnist", tmp_path, validation=0.25)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 6, 6)
    assert (splits.channels, splits.side, splits.classes) == (1, 28, 3)
    assert not set(splits.train.indices) & set(splits.validation.indices)
    assert np.array_equal(splits.test.read(np.arange(6))[:, 0], pixels((6, 28, 28)))
    again = data.load("fashion-mnist", tmp_path, validation=0.25)
    assert np.array_equal(again.train.indices, splits.train.indices)


def test_damaged_idx_files_are_refused(tmp_path):
    path = tmp_path / "images"
    write_idx(path, pixels((3, 4, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        data.read_idx(path)
    path.write_bytes(b"PNG and so on")
    with pytest.raises(ValueError, match="not an IDX"):
        data.read_idx(path)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_files(tmp_path, classes):
    labels = 1 if classes == 10 else 2
    names = (
        [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
        if classes == 10
        else ["train.bin", "test.bin"]
    )
    images, fine = pixels((4, 3, 32, 32)), np.array([3, 1, 7, 5], np.uint8)
    records = np.concatenate([np.full((4, labels - 1), 99, np.uint8), fine[:, None], images.reshape(4, -1)], axis=1)
    for name in names:
        (tmp_path / name).write_bytes(records.tobytes())
    train_part, test = data.cifar(tmp_path, classes)
    assert len(train_part) == (20 if classes == 10 else 4)
    assert np.array_equal(test.labels, fine)
    assert np.array_equal(test.pixels, images)
    assert data.load(f"cifar{classes}", tmp_path, validation=0.25).channels == 3
    (tmp_path / names[0]).write_bytes(b"short")
    with pytest.raises(ValueError, match="records"):
        data.cifar(tmp_path, classes)


def test_image_folders(tmp_path):
    for part, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("n01", "n02")):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(np.full((40, 60 + k, 3), 50 * (label + 1), np.uint8)).save(
                    tmp_path / part / name / f"{k}.png"
                )
    splits = data.load("imagenet", tmp_path, validation=0.2)
    assert (len(splits.train), len(splits.test), splits.classes, splits.side) == (5, 2, 2, 224)
    read = splits.test.read(np.arange(2))
    assert [int(image.mean()) for image in read] == [50, 100]
    assert splits.test.labels.tolist() == [0, 1]


def test_missing_files_and_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images"):
        data.load("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match="needs path"):
        data.load("cifar10")
    with pytest.raises(ValueError, match="unknown"):
        data.load("svhn")
    with pytest.raises(ValueError, match="10 or 100"):
        data.cifar(tmp_path, 20)


def test_augmentation_moves_and_mirrors():
    image = np.arange(30, dtype=np.uint8).reshape(1, 1, 5, 6)
    moved = data.augmented(np.repeat(image, 60, axis=0), 1, np.random.default_rng(0))
    padded = np.pad(image[0, 0], 1)
    allowed = {
        padded[r : r + 5, c : c + 6][:, ::flip].tobytes() for r in range(3) for c in range(3) for flip in (1, -1)
    }
    seen = {one[0].tobytes() for one in moved}
    assert seen <= allowed
    assert len(seen) > 12


@pytest.mark.parametrize(("name", "width", "parameters"), [("resnet18", 64, 11_689_512), ("resnet34", 64, 21_797_672)])
def test_full_networks_have_the_parameters_of_the_published_ones(name, width, parameters):
    net = resnet.NETWORKS[name](width=width, num_classes=1000, stem="imagenet")
    assert sum(p.numel() for p in net.parameters()) == parameters
    names = set(net.state_dict())
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.1.running_mean", "fc.bias"} <= names


@pytest.mark.slow
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    splits = data.load("digits", validation=0.8)
    recipe = {
        "network": "resnet20", "width": 8, "stem": "cifar", "data": "digits", "classes": 10, "channels": 1, "epochs": 2,
        "batch": 16, "rate": 0.05, "decay": 5e-4, "seed": 0, "precision": "float32",
    }  # fmt: skip
    whole, _ = train.train(splits, recipe, tmp_path / "whole")
    one_epoch, calls = train._epoch, []

    def stops(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return one_epoch(*arguments)

    monkeypatch.setattr(train, "_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        train.train(splits, recipe, tmp_path / "cut")
    monkeypatch.undo()
    resumed, _ = train.train(splits, recipe, tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    train.save(resumed, tmp_path / "net.safetensors", recipe)
    loaded, header = train.trained(tmp_path / "net.safetensors")
    assert header == recipe
    assert train.accuracy(loaded, splits) == train.accuracy(resumed, splits) > 0.1
    with pytest.raises(ValueError, match="another run"):
        train.train(splits, {**recipe, "seed": 1}, tmp_path / "cut")


def test_the_rate_warms_up_and_falls_to_zero():
    rates = [train.rate_at(epoch, 10, 0.1) for epoch in np.linspace(0, 10, 101)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.1, rel=2e-3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("name", "width", "stem"), [("resnet34", 4, "imagenet"), ("resnet18", 8, "cifar")])
def test_weights_from_elsewhere_are_adopted(tmp_path, capsys, name, width, stem):
    net = resnet.NETWORKS[name](width=width, num_classes=7, in_channels=3, stem=stem)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pth")
    assert adopt.main([str(tmp_path / "a.pth"), "--data", "cifar10", "--out", str(tmp_path / "b.safetensors")]) == 0
    again, header = train.trained(tmp_path / "b.safetensors")
    assert torch.equal(again(images), net.eval()(images))
    assert (header["network"], header["width"], header["stem"], header["classes"]) == (name, width, stem, 7)
    assert adopt.recipe_of(adopt.read_state(tmp_path / "b.safetensors"), "cifar10") == header
    assert name in capsys.readouterr().out


def test_other_networks_are_not_adopted():
    state = dict(resnet.resnet18(width=4).state_dict())
    with pytest.raises(ValueError, match="three convolutions"):
        adopt.recipe_of({**state, "layer1.0.conv3.weight": state["conv1.weight"]}, "cifar10")
    with pytest.raises(ValueError, match="no known network"):
        adopt.recipe_of({**state, "layer1.2.conv1.weight": state["conv1.weight"]}, "cifar10")
    del state["fc.weight"]
    with pytest.raises(ValueError, match=r"fc\.weight is missing"):
        adopt.recipe_of(state, "cifar10")


def test_another_cycle_begins_with_given_weights(tmp_path, monkeypatch):
    recipe = {"network": "resnet20", "width": 4, "stem": "cifar", "data": "digits", "classes": 10, "channels": 1}
    first = train.build(recipe)
    train.save(first, tmp_path / "first.safetensors", recipe)
    monkeypatch.setattr(train, "_epoch", lambda *arguments: 0.0)
    out = tmp_path / "second.safetensors"
    options = ["--network", "resnet20", "--width", "4", "--data", "digits", "--epochs", "1"]
    assert train.main([*options, "--start", str(tmp_path / "first.safetensors"), "--out", str(out)]) == 0
    second, header = train.trained(out)
    assert header["start"] == recipe
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.slow
def test_wide_kernels_and_the_digits_are_measured(capsys):
    from benchmarks.networks import wide, without_training

    assert wide.main(["--channels", "12", "--plain", "--methods", "tucker2", "cp3"]) == 0
    assert "| 12 | cp3 |" in capsys.readouterr().out
    words = ["--plain", "--methods", "tucker2", "--shares", "0.5", "--calibration", "40", "--test", "50", "--before"]
    assert without_training.main(words) == 0
    dense, *lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert rows[-1][:2] == ["tucker2", "0.50"]
    assert float(rows[-1][4]) > float(rows[-1][2])
    # The same network as an ONNX file.
    words = [*words[:-1], "--onnx"]
    assert without_training.main(words) == 0
    other = capsys.readouterr().out.splitlines()
    assert other[0] == dense
    assert abs(float(other[-1].split()[4]) - float(rows[-1][4])) < 8.0
    for wrong in (["net.safetensors"], [*words, "--before"], ["net.safetensors", "--path", "none", "--onnx"]):
        with pytest.raises(SystemExit):
            without_training.main(wrong)
