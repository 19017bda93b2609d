"""Runs that are interrupted and resumed end as if they had not been."""

from __future__ import annotations

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers import checkpoint as module


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


@pytest.mark.parametrize(
    ("solver", "constraint"),
    [
        (tc.ALS(max_iter=60), None),
        (tc.ALS(max_iter=60), tc.Penalty(1e-3)),
        (tc.LM(max_iter=60), None),
        (tc.LM(max_iter=60), tc.Penalty(1e-3)),
        (tc.Path(stage_iter=20), None),
        (tc.Path(stage_iter=20), tc.SensitivityBound(400.0)),
    ],
)
@pytest.mark.parametrize("starts", [1, 3])
def test_the_same_result(tmp_path, tensor, solver, constraint, starts):
    arguments = {"tensor": tensor, "model": "cp", "rank": 7, "rng": 5, "starts": starts, "jobs": 1}
    arguments |= {"solver": solver, "constraint": constraint}
    whole = tc.decompose(**arguments)
    longest = 60 if isinstance(solver, tc.Path) else 7
    pieced, pieces = run_in_pieces(tmp_path / "run.ckpt", longest, **arguments)
    assert pieces > 1
    assert pieced.error == whole.error
    assert pieced.reason is whole.reason
    assert all(np.array_equal(a, b) for a, b in zip(pieced.model.blocks, whole.model.blocks, strict=True))
    assert np.array_equal(pieced.history.error, whole.history.error)
    assert np.array_equal(pieced.history.sensitivity, whole.history.sensitivity)
    assert [s.error for s in pieced.starts] == [s.error for s in whole.starts]


def test_a_finished_run_is_read_back(tmp_path, tensor):
    path = tmp_path / "run.ckpt"
    first = tc.decompose(tensor, "cp", 7, rng=0, checkpoint=path)
    calls = []
    again = tc.decompose(tensor, "cp", 7, rng=1, checkpoint=path, callback=calls.append)
    assert again.error == first.error
    assert calls == []


def test_another_problem_is_refused(tmp_path, tensor):
    path = tmp_path / "run.ckpt"
    tc.decompose(tensor, "cp", 7, rng=0, checkpoint=path, solver=tc.ALS(max_iter=3))
    with pytest.raises(ValueError, match="another problem"):
        tc.decompose(tensor, "cp", 6, rng=0, checkpoint=path, solver=tc.ALS(max_iter=3))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused(tmp_path, tensor, content):
    path = tmp_path / "run.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint"):
        tc.decompose(tensor, "cp", 7, checkpoint=path)


def test_parallel_starts_equal_serial_ones(tensor):
    arguments = {"tensor": tensor, "model": "cp", "rank": 7, "rng": 3, "starts": 4, "solver": tc.ALS(max_iter=30)}
    serial, parallel = tc.decompose(**arguments, jobs=1), tc.decompose(**arguments, jobs=2)
    assert sorted(s.error for s in serial.starts) == sorted(s.error for s in parallel.starts)
    assert np.array_equal(serial.model.full(), parallel.model.full())
    assert not parallel.model.matrices[0].flags.writeable


def test_max_seconds_over_parallel_starts(tensor):
    fit = tc.decompose(
        tensor, "cp", 7, rng=3, starts=50, jobs=2, max_seconds=3.0, solver=tc.LM(max_iter=10**6, tol=0.0)
    )
    assert 1 <= max(len(fit.starts), 1) <= 50


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
