"""The same work in other packages, from the same start where they take one.

Ours computes error and sensitivity in every sweep; so pyttb does with its error, and TensorLy unless it is given no
tolerance to reach and no callback, which is measured beside (`errors=False`).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np

import tensorchain as tc
from benchmarks.timing import Contestant, Outcome

Array = Any

_NEVER = 1e-300


def ours(tensor: Array, start: tc.Model, sweeps: int) -> Contestant:
    def run() -> Outcome:
        fit = tc.decompose(tensor, init=start, solver=tc.ALS(max_iter=sweeps, tol=0.0))
        return Outcome(fit.iterations, lambda: fit.error)

    return run


def tensorly_cp(tensor: Array, start: tc.CP, sweeps: int, *, errors: bool = True) -> Contestant:
    from tensorly.cp_tensor import CPTensor, cp_to_tensor
    from tensorly.decomposition import parafac

    def run() -> Outcome:
        init = CPTensor((np.ones(start.rank), [np.array(factor) for factor in start.factors]))
        # A tolerance makes it compute errors; this one is never met.
        tol = _NEVER if errors else 0
        found = parafac(tensor, start.rank, n_iter_max=sweeps, init=init, tol=tol, cvg_criterion="abs_rec_error")
        return Outcome(sweeps, lambda: _error(tensor, cp_to_tensor(found)))

    return run


def pyttb_cp(tensor: Array, start: tc.CP, sweeps: int) -> Contestant:
    import pyttb

    wrapped = pyttb.tensor(tensor)

    def run() -> Outcome:
        init = pyttb.ktensor([np.array(factor) for factor in start.factors])
        with _quiet():
            _, _, report = pyttb.cp_als(wrapped, start.rank, init=init, maxiters=sweeps, stoptol=0.0, printitn=0)
        return Outcome(sweeps, lambda: 1.0 - float(report["fit"]))

    return run


def tensorly_tucker(tensor: Array, rank: tuple[int, ...], sweeps: int) -> Contestant:
    from tensorly.decomposition import tucker
    from tensorly.tucker_tensor import tucker_to_tensor

    def run() -> Outcome:
        found = tucker(tensor, rank, n_iter_max=sweeps, init="random", tol=0, random_state=1)
        return Outcome(sweeps, lambda: _error(tensor, tucker_to_tensor(found)))

    return run


def pyttb_tucker(tensor: Array, rank: tuple[int, ...], sweeps: int) -> Contestant:
    import pyttb

    wrapped = pyttb.tensor(tensor)

    def run() -> Outcome:
        with _quiet():
            _, _, report = pyttb.tucker_als(wrapped, list(rank), maxiters=sweeps, stoptol=0.0, printitn=0)
        return Outcome(sweeps, lambda: 1.0 - float(report["fit"]))

    return run


def tensorly_chain(
    tensor: Array, bonds: tuple[int, ...], sweeps: int, solve: str, *, errors: bool = True
) -> Contestant:
    from tensorly.decomposition import tensor_ring_als
    from tensorly.tr_tensor import tr_to_tensor

    def run() -> Outcome:
        # TensorLy takes the closing bond twice.
        rank = [*bonds, bonds[0]]
        keywords = {"callback": lambda chain, error: None} if errors else {}
        found = tensor_ring_als(tensor, rank, ls_solve=solve, n_iter_max=sweeps, tol=0, random_state=1, **keywords)
        return Outcome(sweeps, lambda: _error(tensor, tr_to_tensor(found)))

    return run


def _error(tensor: Array, values: Array) -> float:
    """Relative error of a peer that does not say it."""
    return float(np.linalg.norm(tensor - values) / np.linalg.norm(tensor))


@contextlib.contextmanager
def _quiet() -> Any:
    """Neither prints nor warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
