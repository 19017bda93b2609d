"""Figures of networks that others trained: whose means they are, and that all of it is legible."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.networks.rows import RESULTS
from paper_figures import known_bits, known_files, known_methods, known_rows, known_stages
from paper_figures.results import Results, Settings, column, groups
from paper_figures.style import WIDTH, style

MODULES = (known_stages, known_methods, known_bits, known_files)
IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = [module.__name__.rpartition(".")[2] for module in MODULES]


def stored_rows(module: Any) -> list[dict[str, str]]:
    """The rows of all jobs, as the runner stores them."""
    found = []
    for job in module.jobs(Settings()):
        found += [{name: str(value) for name, value in {**job.key, **row}.items()} for row in job.run()]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of two rates and two devices."""
    columns = ("network", "method", "fit", "times", "seed", "dense", "compressed", "refitted", "restored",
               *known_rows.BITS, "device")  # fmt: skip
    common = {"network": "resnet20-cifar10", "fit": "stabilised", "times": "3.0", "compressed": "1", "device": "GPU"}

    def row(method: str, refitted: float, restored: object, device: str = "GPU", **other: object) -> dict[str, object]:
        return {**common, "method": method, "refitted": refitted, "restored": restored, "device": device, **other}

    files = {
        "known-own-rate.csv": [
            {**common, "method": "dense", "fit": "dense", "times": "1.0", "dense": "81", "bits8": "80.5"},
            row("tc", 70, 80), row("tc", 72, 84), row("tc", 10, "", seed=2), row("tc", 20, 20, "processor"),
            row("btd", 60, ""),
        ],
        "known.csv": [row("tc", 0, 0), row("btd", 61, 75), row("cp3", 77, "")],
    }  # fmt: skip
    for name, rows in files.items():
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path


def test_a_mean_is_over_seeds_of_one_rate_and_device_that_have_all_stages(folder: Path) -> None:
    found = {row["method"]: row for row in known_rows.cases(("refitted", "restored"), ("own", "0.02"), folder)}
    assert list(found) == ["dense", "tc", "btd"]
    # Neither the seed that was not restored, nor the other device, nor the other rate.
    assert [found["tc"][name] for name in ("refitted", "restored", "seeds", "rate", "device")] == [
        71.0, 82.0, 2, "own", "GPU",
    ]  # fmt: skip
    assert [found["btd"][name] for name in ("refitted", "restored", "seeds", "rate")] == [61.0, 75.0, 1, "0.02"]
    assert (found["dense"]["dense"], found["dense"]["rate"]) == ("81", "")
    # With less asked for there are more cases, and more seeds.
    more = {row["method"]: row for row in known_rows.cases(("refitted",), ("own", "0.02"), folder)}
    assert list(more) == ["dense", "tc", "btd", "cp3"]
    assert more["tc"]["seeds"] == 3
    assert more["btd"]["rate"] == "own"
    assert list(known_rows.jobs(("refitted",), ("own",), folder / "absent")) == []


def test_texts_say_which_rows_they_are(folder: Path) -> None:
    rows = known_rows.cases(("refitted",), ("own", "0.02"), folder)
    assert known_rows.device_text(rows) == "Measured on one GPU."
    rows[-1]["device"] = "processor"
    assert known_rows.device_text(rows) == "Measured on one GPU; on a processor: CPD, order 3 of ResNet-20."
    assert "curvature of its loss and a rate of 0.02" in known_rows.rate_text(rows)
    assert known_rows.seed_text(rows) == "Seeds of the means: ResNet-20 1 to 3 at 3 times fewer multiplications."
    assert "ResNet-18" not in known_rows.data_text(rows)


@pytest.mark.parametrize("module", [known_stages, known_bits], ids=["known_stages", "known_bits"])
def test_curves_are_means_of_the_shipped_rows(module: Any) -> None:
    stages, found = module.STAGES, stored_rows(module)
    [case] = [row for row in found if (row["network"], row["method"], row["fit"], row["times"]) == (
        "resnet20-cifar10", "cp3", "stabilised", "3.0")]  # fmt: skip
    with (RESULTS / "known-own-rate.csv").open(encoding="utf-8", newline="") as stream:
        wanted = ("resnet20-cifar10", "cp3", "stabilised", "3.0")
        mine = [row for row in csv.DictReader(stream)
                if tuple(row[name] for name in ("network", "method", "fit", "times")) == wanted
                and row["device"] == case["device"]]  # fmt: skip
    assert len(mine) == int(case["seeds"]) >= 3
    for stage in stages:
        assert float(case[stage]) == pytest.approx(np.mean(column(mine, stage)), abs=1e-3)
    with style():
        figure = module.draw(found)
    drawn = [line.get_ydata() for panel in figure.axes for line in panel.lines]
    assert any(np.array_equal(line, [float(case[stage]) for stage in stages]) for line in drawn)
    assert set(groups(known_rows.compressed(found), "rate")) == {"own"}


def test_every_method_is_there_once() -> None:
    found = stored_rows(known_methods)
    keys = [(row["network"], row["method"], row["times"]) for row in found]
    assert len(set(keys)) == len(keys)
    with style():
        figure = known_methods.draw(found)
    for panel, (network, title) in zip(figure.axes, known_rows.NETWORKS.items(), strict=True):
        assert panel.get_title() == title
        mine = known_rows.compressed([row for row in found if row["network"] == network])
        marks = sorted(float(line.get_xdata()[0]) for line in panel.lines if len(line.get_xdata()) == 1 and
                       line.get_marker() in known_methods.MARKERS.values())  # fmt: skip
        values = [float(row[name]) for row in mine for name in ("refitted", "restored") if row.get(name)]
        # A case that was not restored has one mark, which is also its line.
        assert set(values) == set(marks)


def files_rows() -> list[dict[str, str]]:
    """Sizes and times that nobody measured, in the form of the result file."""
    common = {"dense_bytes": "1000000", "rounds": "9", "processor": "a processor"}
    models = {
        "dense": ("dense", 1, 1.0), "tc-3x": ("tc", 3, 1.5), "tc-3x fold": ("tc", 3, 1.2), "tc-5x": ("tc", 5, 2.0),
        "auto-5x": ("auto", 5, 2.5),
    }  # fmt: skip
    return [
        {
            **common, "network": network, "batch": batch, "model": model, "method": method, "times": str(times),
            "file_bytes": str(1000000 // times), "speed_up": str(speed),
        }
        for network in ("resnet20-cifar10", "resnet56-cifar10") for batch in ("1", "32")
        for model, (method, times, speed) in models.items()
    ]  # fmt: skip


def test_sizes_and_speeds_are_drawn() -> None:
    rows = files_rows()
    with style():
        figure = known_files.draw(rows)
    assert len(figure.axes) == 2 * 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "TC",
        "TC, folded",
        "auto",
    ]
    size, speed = (
        [float(line.get_xdata()[0]) for line in figure.axes[k].lines if line.get_marker() == "o"] for k in (0, 1)
    )
    np.testing.assert_allclose(sorted(size), [3.0, 3.0, 5.0, 5.0], rtol=1e-5)
    assert sorted(speed) == [1.2, 1.5, 2.0, 2.5]
    caption = known_files.describe(rows)
    assert "ResNet-20 1,000, ResNet-56 1,000" in caption
    assert "over 9 or more rounds" in caption


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_shipped_pictures_are_those_of_the_shipped_rows(module: Any) -> None:
    name = module.__name__.rpartition(".")[2]
    again = f"draw it again: python -m paper_figures {name} --restart --images docs/images"
    shown, now = Results(IMAGES, name, None).rows, stored_rows(module)
    assert [{key: value for key, value in row.items() if value} for row in shown] == [
        {key: value for key, value in row.items() if value} for row in now
    ], again


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_all_is_legible(module: Any) -> None:
    with style():
        figure: Figure = module.draw(stored_rows(module))
        figure.draw_without_rendering()
    assert figure.get_figwidth() == WIDTH
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    texts = [*figure.texts, *legends]
    for panel in figure.axes:
        texts += [panel.title, panel._left_title, panel.xaxis.label, panel.yaxis.label, *panel.texts]
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            # Ticks beyond the ends of an axis are not drawn.
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
