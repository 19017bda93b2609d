"""Live progress: one line in a terminal, one output in a notebook, nothing elsewhere; and the fit is the same."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tensorchain as tc
from tensorchain.fit import StopReason
from tensorchain.progress import Progress, curves

T = 7.0 * np.random.default_rng(0).standard_normal((4, 3, 5))
SOLVER = tc.ALS(max_iter=12, tol=0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(progress: Progress, **options: Any) -> tc.Fit:
    with progress:
        return tc.decompose(T, "tc", 2, solver=SOLVER, rng=0, callback=progress, **options)


def test_a_terminal_has_one_line_that_ends_with_the_last_iterate() -> None:
    stream = Terminal()
    fit = run(Progress(interval=0.0, stream=stream, norm=float(np.linalg.norm(T))))
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    lines = text.strip().split("\r")
    # Each iterate, and the last once more at the end.
    assert len(lines) == len(fit.history) + 1
    assert f"iteration {fit.iterations}  error {fit.history.error[-1]:.3e}" in lines[-1]
    assert f"sensitivity {fit.history.sensitivity[-1]:.2e} " in lines[-1]


def test_a_shorter_line_wipes_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    run(Progress(interval=0.0, stream=stream))
    lines = stream.getvalue().rstrip("\n").split("\r")[1:]
    lengths = [len(line) for line in lines]
    assert lengths == sorted(lengths)
    assert max(lengths) < 40


def test_it_is_renewed_now_and_then_and_at_the_end() -> None:
    stream = Terminal()
    progress = Progress(interval=1e6, stream=stream)
    fit = run(progress)
    assert stream.getvalue().count("\r") == 2
    assert f"iteration {fit.iterations} " in stream.getvalue()
    assert progress.seen == len(fit.history)


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["log", "stderr"])
def test_elsewhere_nothing_is_shown(stream: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run(Progress(interval=0.0, stream=stream))
    assert tuple(capfd.readouterr()) == ("", "")
    assert stream is None or stream.getvalue() == ""


def test_the_fit_is_the_same_with_and_without() -> None:
    alone = tc.decompose(T, "tc", 2, solver=SOLVER, rng=0)
    shown = run(Progress(interval=0.0, stream=Terminal()))
    assert_array_equal(alone.history.error, shown.history.error)
    for one, other in zip(alone.model.blocks, shown.model.blocks, strict=True):
        assert_array_equal(one, other)


def test_starts_are_counted() -> None:
    stream = Terminal()
    run(Progress(starts=2, interval=0.0, stream=stream), starts=2)
    for start in (1, 2):
        assert f"start {start} of 2  iteration 12" in stream.getvalue()


def test_another_callback_is_asked_too() -> None:
    asked = []

    def third(iterate: tc.Iterate) -> bool:
        asked.append(iterate.iteration)
        return iterate.iteration == 3

    fit = run(Progress(interval=0.0, stream=Terminal(), callback=third))
    assert asked == [0, 1, 2, 3]
    assert fit.reason is StopReason.CALLBACK


class Notebook:
    """What IPython shows, written down."""

    def __init__(self, kernel: Any) -> None:
        self.outputs: list[dict[str, str]] = []
        self.updates = 0
        shell = SimpleNamespace(kernel=kernel)
        self.module = SimpleNamespace(get_ipython=lambda: shell)
        self.display_module = SimpleNamespace(display=self.display)

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Notebook:
        assert raw
        assert display_id
        self.outputs.append(content)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.updates += 1
        self.outputs[-1] = content


def test_a_notebook_has_one_output_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", notebook.module)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook.display_module)
    fit = run(Progress(interval=0.0))
    (output,) = notebook.outputs
    assert notebook.updates == len(fit.history)
    assert f"iteration {fit.iterations}" in output["text/plain"]
    tree = ET.fromstring(f"<body>{output['text/html']}</body>")
    assert f"{fit.history.error[-1]:.3e}" in list(tree.itertext())
    assert len(list(tree.iter("polyline"))) == 2
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_shell_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, stream = Notebook(kernel=None), Terminal()
    monkeypatch.setitem(sys.modules, "IPython", notebook.module)
    monkeypatch.setattr(sys, "stderr", stream)
    run(Progress(interval=0.0))
    assert notebook.outputs == []
    assert "iteration 12" in stream.getvalue()


def test_long_curves_are_thinned() -> None:
    progress = Progress(stream=io.StringIO())
    model = tc.CP.random((3, 4), 2, 0)
    for n in range(5000):
        progress(tc.Iterate(model, error=1.0 / (n + 1), sensitivity=1.0, iteration=n))
    errors = [error for error, _ in progress._curve]
    assert 70 <= len(errors) <= 151
    steps = np.diff([1.0 / error for error in errors])
    assert np.allclose(steps, steps[0])


def test_curves_leave_out_what_has_no_logarithm() -> None:
    assert curves([]) == curves([(1.0, 2.0)]) == curves([(0.0, 0.0)] * 5) == ""
    drawn = curves([(1.0, 0.0), (0.0, 0.0), (0.1, float("inf"))])
    assert drawn.count("<polyline") == 1
    (points,) = re.findall('points="([^"]*)"', drawn)
    assert len(points.split()) == 2


def test_an_interval_must_be_a_time() -> None:
    with pytest.raises(ValueError, match="interval is -1"):
        Progress(interval=-1)
