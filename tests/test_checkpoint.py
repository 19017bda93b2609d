"""Runs that are interrupted and resumed end as if they had not been."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.archives import read_archive, write_archive
from tensorchain.solvers import checkpoint as module
from tensorchain.solvers import sealed
from tests.cases import combined, mostly_slow


@pytest.fixture(autouse=True)
def write_always(monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.0)


@pytest.fixture
def tensor():
    return tc.datasets.matmul(2, 2, 2)


def run_in_pieces(path, length, **arguments):
    """Interrupt after every `length` iterations until the run is through."""
    for pieces in range(1, 200):
        count = 0

        def stop(iterate):
            nonlocal count
            count += 1
            return count >= length

        fit = tc.decompose(checkpoint=path, callback=stop, **arguments)
        if all(start.reason is not tc.StopReason.CALLBACK for start in (fit.starts or (fit,))) and (
            len(fit.starts) == arguments.get("starts", 1) or not fit.starts
        ):
            return fit, pieces
    raise AssertionError("the run makes no progress")


SOLVERS = [
    (tc.ALS(max_iter=60), None),
    (tc.ALS(max_iter=60), tc.Penalty(1e-3)),
    (tc.LM(max_iter=60), None),
    (tc.LM(max_iter=60), tc.Penalty(1e-3)),
    (tc.Path(stage_iter=20), None),
    (tc.Path(stage_iter=20), tc.SensitivityBound(400.0)),
    (tc.Auto(), None),
    (tc.Auto(), tc.Penalty(1e-3)),
]

PAIRS = combined(SOLVERS, [1, 2], every=2)
SHORT = [PAIRS[n] for n in (0, 3, 4, 7, *(n for n in range(len(PAIRS)) if n not in (0, 3, 4, 7)))]
"""One way of each solver first."""


@pytest.mark.parametrize(("way", "starts"), mostly_slow(SHORT, 4))
def test_the_same_result(tmp_path, tensor, way, starts):
    solver, constraint = way
    arguments = {"tensor": tensor, "model": "cp", "rank": 7, "rng": 5, "starts": starts, "jobs": 1}
    arguments |= {"solver": solver, "constraint": constraint}
    whole = tc.decompose(**arguments)
    longest = 60 if isinstance(solver, (tc.Path, tc.Auto)) else 7
    pieced, pieces = run_in_pieces(tmp_path / "run.ckpt", longest, **arguments)
    assert pieces > 1
    assert pieced.error == whole.error
    assert pieced.reason is whole.reason
    assert all(np.array_equal(a, b) for a, b in zip(pieced.model.blocks, whole.model.blocks, strict=True))
    assert np.array_equal(pieced.history.error, whole.history.error)
    assert np.array_equal(pieced.history.sensitivity, whole.history.sensitivity)
    assert [s.error for s in pieced.starts] == [s.error for s in whole.starts]


@pytest.mark.parametrize("length", mostly_slow([60, 110]))
def test_the_default_goes_on_on_its_core(tmp_path, length):
    rng = np.random.default_rng(0)
    T = tc.TensorChain.random((14, 15, 16), 2, rng).full()
    T += 0.5 * np.linalg.norm(T) / np.sqrt(T.size) * rng.standard_normal(T.shape)
    arguments = {"tensor": T, "model": "tc", "rank": 2, "rng": 1, "solver": tc.Auto(slack=0)}
    whole = tc.decompose(**arguments)
    assert "core" in whole.solver
    pieced, pieces = run_in_pieces(tmp_path / "run.ckpt", length, **arguments)
    assert pieces > 1
    assert pieced.error == whole.error
    assert np.array_equal(pieced.history.error, whole.history.error)
    assert all(np.array_equal(a, b) for a, b in zip(pieced.model.blocks, whole.model.blocks, strict=True))


def test_a_finished_run_is_read_back(tmp_path, tensor):
    path = tmp_path / "run.ckpt"
    first = tc.decompose(tensor, "cp", 7, rng=0, checkpoint=path)
    calls = []
    again = tc.decompose(tensor, "cp", 7, rng=1, checkpoint=path, callback=calls.append)
    assert again.error == first.error
    assert calls == []


def runs():
    """Arguments of runs that differ in one thing each; all data have one norm and one shape."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 4, 4))
    mask = rng.random(data.shape) < 0.9
    plain = {"tensor": data, "model": "cp", "rank": 3, "solver": tc.ALS(max_iter=3)}
    start = tc.CP.random(data.shape, 3, 1)
    return plain, {
        "data": [
            {"tensor": -data},
            {"tensor": data.transpose(1, 0, 2).copy()},
            {"tensor": tc.Masked(data)},
            {"tensor": tc.Masked(data, mask)},
            {"tensor": tc.Lazy(data)},
            {"tensor": tc.Masked(data, weights=1.0 + mask)},
        ],
        "model": [{"rank": 2}, {"model": "tucker", "rank": 3}],
        "init": [{"init": "svd"}, {"init": start}, {"init": start.scaled(2.0)}],
        "solver": [{"solver": tc.ALS(max_iter=4)}, {"solver": tc.LM(max_iter=3)}],
        "constraint": [{"constraint": tc.Penalty(1e-3)}, {"constraint": tc.SensitivityBound(50.0)}],
        "starts": [{"starts": 2}],
    }


@pytest.mark.parametrize("part", runs()[1])
def test_another_problem_is_refused(tmp_path, part):
    plain, others = runs()
    path = tmp_path / "run.ckpt"
    for k, other in enumerate(others[part]):
        path.unlink(missing_ok=True)
        first, second = (plain, plain | other) if k % 2 == 0 else (plain | other, plain)
        tc.decompose(**first, rng=0, checkpoint=path)
        with pytest.raises(ValueError, match=rf"another problem \(.*{part} then"):
            tc.decompose(**second, rng=0, checkpoint=path)
        again = tc.decompose(**first, rng=0, checkpoint=path)
        assert again.model.shape == (4, 4, 4)


def stopping_after(count):
    """A callback that stops a run after some iterates."""
    left = [count]

    def stop(iterate):
        left[0] -= 1
        return left[0] <= 0

    return stop


def test_a_full_disk_costs_no_fit(tmp_path, tensor, monkeypatch):
    def full(path, header, arrays):
        raise OSError(28, "No space left on device")

    expected = tc.decompose(tensor, "cp", 5, rng=0, solver=tc.ALS(max_iter=9), starts=2, jobs=1)
    monkeypatch.setattr(sealed, "write_archive", full)
    with pytest.warns(RuntimeWarning, match="No space left") as caught:
        fit = tc.decompose(
            tensor, "cp", 5, rng=0, solver=tc.ALS(max_iter=9), starts=2, checkpoint=tmp_path / "run.ckpt"
        )
    assert fit.error == expected.error
    # Once a run of failures, not once an iteration.
    assert len(caught) <= 3


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path, tensor):
    for path in (tmp_path / "nowhere" / "run.ckpt", tmp_path):
        with pytest.raises(ValueError, match="folder"):
            tc.decompose(tensor, "cp", 5, checkpoint=path, callback=lambda iterate: pytest.fail("the work began"))


def test_two_runs_on_one_file(tmp_path, tensor):
    path = tmp_path / "run.ckpt"
    arguments = {"tensor": tensor, "model": "cp", "rank": 5, "rng": 0, "checkpoint": path}

    def other(iterate):
        if iterate.iteration == 3:
            tc.decompose(**arguments, solver=tc.ALS(max_iter=9))

    with pytest.warns(RuntimeWarning, match="another run has written"):
        fit = tc.decompose(**arguments, solver=tc.ALS(max_iter=9), callback=other)
    assert fit.iterations == 9
    # The file is that of the run that has it, and whole.
    assert tc.decompose(**arguments, solver=tc.ALS(max_iter=9)).error == pytest.approx(fit.error, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["current"]["figures"].clear(),
        lambda h: h["current"]["figures"].update(dict.fromkeys(h["current"]["figures"])),
        lambda h: h["current"]["best"].pop("error"),
        lambda h: h["current"].update(rows=[[1]]),
        lambda h: h.update(current={}),
        lambda h: h.update(seeds=[]),
        lambda h: h.update(finished=[{}]),
        lambda h: h.pop("problem"),
        lambda h: h.pop("checkpoint"),
        lambda h: h.update(digest=3),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_a_changed_file_is_refused(tmp_path, tensor, change, signed):
    """Also where the digest was made anew: no KeyError, no IndexError."""
    path = tmp_path / "run.ckpt"
    arguments = {"tensor": tensor, "model": "cp", "rank": 5, "rng": 0, "checkpoint": path}
    tc.decompose(**arguments, solver=tc.LM(max_iter=30), callback=stopping_after(6))
    header, arrays = read_archive(path)
    change(header)
    if signed and header.get("digest") != 3:
        header.pop("digest")
        header["digest"] = sealed.digest(header, arrays)
    write_archive(path, json.dumps(header), arrays)
    with pytest.raises(ValueError, match=r"run\.ckpt"):
        tc.decompose(**arguments, solver=tc.LM(max_iter=30))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused(tmp_path, tensor, content):
    path = tmp_path / "run.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint"):
        tc.decompose(tensor, "cp", 7, checkpoint=path)


def test_parallel_starts_equal_serial_ones(tensor):
    arguments = {"tensor": tensor, "model": "cp", "rank": 7, "rng": 3, "starts": 4, "solver": tc.ALS(max_iter=30)}
    serial, parallel = tc.decompose(**arguments, jobs=1), tc.decompose(**arguments, jobs=2)
    # In the order of their seeds, whichever worker was first.
    assert [s.error for s in serial.starts] == [s.error for s in parallel.starts]
    assert np.array_equal(serial.model.full(), parallel.model.full())
    assert not parallel.model.matrices[0].flags.writeable


@pytest.mark.slow
def test_max_seconds_over_parallel_starts():
    tensor = np.random.default_rng(0).standard_normal((30, 30, 30))
    fit = tc.decompose(
        tensor, "cp", 20, rng=3, starts=50, jobs=2, max_seconds=2.0, solver=tc.ALS(max_iter=10**6, tol=0.0)
    )
    # Without the limit not one of the starts would end.
    assert fit.reason is tc.StopReason.TIME_LIMIT
    assert len(fit.starts) < 50
    # On a busy machine the workers may have had time for nothing but their starting points.
    assert np.isfinite(fit.error)
    assert fit.error == min([start.error for start in fit.starts], default=fit.error)


def test_a_limit_shorter_than_the_way_to_the_workers(tensor):
    fit = tc.decompose(tensor, "cp", 7, rng=3, starts=3, jobs=2, max_seconds=1e-6)
    assert fit.model.shape == tensor.shape
    assert fit.reason is tc.StopReason.TIME_LIMIT


class Interrupted:
    """joblib's Parallel, interrupted before the first result."""

    def __init__(self, **options):
        pass

    def __call__(self, calls):
        yield from ()
        raise KeyboardInterrupt


def test_an_interrupt_before_the_first_start_is_done(tensor, monkeypatch):
    """There is nothing to return: the interrupt goes on to the caller."""
    monkeypatch.setattr("joblib.Parallel", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        tc.decompose(tensor, "cp", 7, rng=3, starts=3, jobs=2)


def test_an_interrupt_keeps_a_start_from_before_the_others_went_to_workers(tensor, monkeypatch):
    alone = tc.decompose(tensor, "cp", 7, rng=3, starts=3, jobs=1)
    monkeypatch.setattr("tensorchain.solvers.multistart._WORTHWHILE", 0.0)
    monkeypatch.setattr("tensorchain.solvers.multistart.can_run_parallel", lambda: True)
    monkeypatch.setattr("joblib.Parallel", Interrupted)
    fit = tc.decompose(tensor, "cp", 7, rng=3, starts=3)
    assert fit.error == alone.starts[0].error


def test_an_interrupt_between_starts_says_so(tensor):
    seen = []

    def interrupt(iterate):
        seen.append(iterate.iteration)
        if len(seen) == 12:
            raise KeyboardInterrupt

    fit = tc.decompose(tensor, "cp", 5, rng=0, starts=4, solver=tc.ALS(max_iter=7), callback=interrupt)
    assert fit.reason is tc.StopReason.INTERRUPTED
    assert len(fit.starts) == 2
    assert fit.error == min(start.error for start in fit.starts)
