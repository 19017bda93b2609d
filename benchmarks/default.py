"""Expected time to the best known error: the default solver, sweeps, joint steps, TensorLy and pyttb on the same data.

    python -m benchmarks.default [--quick] [--rows NAME ...]

A start succeeds if it comes within 0.1 % of the best error that anybody reached in the run (on exact data: to 1e-6).
The expected time is the mean time of a start over the share of starts that succeed.  Times are of the processor, on one
BLAS thread.  Every method gets the same seeds and stops at a relative change of the error of 1e-7 or after 500 sweeps.
"relative SS" is the sensitivity of our models; where the default gives up error for it (STABILISED), the least error
that it found counts.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.timing import parser, save, table

Array = Any
Method = Callable[[Array, int], tuple[float, float]]
"""(tensor, seed) to (relative error, SS or NaN)."""

_SWEEPS, _TOL = 500, 1e-7
_EXACT = 1e-6
_WITHIN = 1.001
_LONG = 4.0
"""Seconds of a start from which fewer are run."""


@dataclass(frozen=True)
class Row:
    """Data and a model.

    Attributes
    ----------
    make : the tensor.
    kind, rank : of the model.
    exact : whether the model fits without error.
    long : seconds that one start may take at most.
    """

    make: Callable[[], Array]
    kind: type[tc.Model]
    rank: Any
    exact: bool = False
    long: float = 60.0


@dataclass
class Tally:
    """What the starts of one method did."""

    errors: list[float] = field(default_factory=list)
    sensitivities: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def figures(self, target: float) -> dict[str, Any]:
        """Success and expected time for an error that counts as the best."""
        good = sum(error <= target for error in self.errors)
        mean = float(np.mean(self.seconds))
        return {
            "starts": len(self.errors),
            "successes": good,
            "seconds": mean,
            "expected": mean * len(self.errors) / good if good else None,
            "best_error": min(self.errors),
            "median_error": float(np.median(self.errors)),
            "sensitivity": float(np.median(self.sensitivities)),
        }


# -- data -------------------------------------------------------------------------------------


def planted(kind: type[tc.Model], shape: tuple[int, ...], rank: Any, noise: float, seed: int = 1) -> Array:
    """A random model with Gaussian noise, a share of its norm."""
    signal = kind.random(shape, rank, seed).full()
    if not noise:
        return signal
    other = np.random.default_rng(seed + 100).standard_normal(shape)
    return signal + noise * other * np.linalg.norm(signal) / np.linalg.norm(other)


def collinear() -> Array:
    """Four components of congruence 0.95 in every mode, 1 % noise."""
    rng = np.random.default_rng(0)
    signal = tc.datasets.exact_cp((20, 20, 20), 4, rng, collinearity=0.95).tensor
    other = rng.standard_normal(signal.shape)
    return signal + 0.01 * other * np.linalg.norm(signal) / np.linalg.norm(other)


def photograph() -> Array:
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[:384, :640] / 255.0)


def folded() -> Array:
    return photograph()[:256, :512].reshape(4, 4, 4, 4, 8, 8, 8, 3)


ROWS: dict[str, Row] = {
    "CP 100^3 rank 10, 10 % noise": Row(lambda: planted(tc.CP, (100,) * 3, 10, 0.1), tc.CP, 10),
    "CP 200^3 rank 30, 10 % noise": Row(lambda: planted(tc.CP, (200,) * 3, 30, 0.1), tc.CP, 30),
    "CP 20^3 rank 4, collinear, 1 % noise": Row(collinear, tc.CP, 4),
    "CP 12x8x5 rank 30, 1 % noise": Row(lambda: planted(tc.CP, (12, 8, 5), 30, 0.01), tc.CP, 30, exact=True),
    "TC 60^3 bonds 5, 10 % noise": Row(lambda: planted(tc.TensorChain, (60,) * 3, 5, 0.1), tc.TensorChain, 5),
    "TC 7^3 bonds 3, exact": Row(lambda: planted(tc.TensorChain, (7,) * 3, 3, 0.0), tc.TensorChain, 3, exact=True),
    "BTD 40^3 (2,2,2)x3, 5 % noise": Row(
        lambda: planted(tc.BlockTerm, (40,) * 3, [(2, 2, 2)] * 3, 0.05), tc.BlockTerm, [(2, 2, 2)] * 3
    ),
    "BTD 30^3 (3,3,3)x3, exact": Row(
        lambda: planted(tc.BlockTerm, (30,) * 3, [(3, 3, 3)] * 3, 0.0), tc.BlockTerm, [(3, 3, 3)] * 3, exact=True
    ),
    "Tucker 120^3 ranks 12, 10 % noise": Row(lambda: planted(tc.Tucker, (120,) * 3, 12, 0.1), tc.Tucker, 12),
    "photograph, CP 60": Row(photograph, tc.CP, 60),
    "photograph, TC (3, 20, 20)": Row(photograph, tc.TensorChain, (3, 20, 20)),
    "photograph of order 8, train 12": Row(folded, tc.TensorChain, (1, *(12,) * 7)),
    "photograph of order 8, TC 8": Row(folded, tc.TensorChain, 8),
    "matrix multiplication 3x3x4, rank 29": Row(lambda: tc.datasets.matmul(3, 3, 4), tc.CP, 29, exact=True, long=120.0),
    "matrix multiplication 3x3x3, rank 23": Row(lambda: tc.datasets.matmul(3, 3, 3), tc.CP, 23, exact=True),
}
QUICK = ("CP 100^3 rank 10, 10 % noise", "TC 7^3 bonds 3, exact", "BTD 40^3 (2,2,2)x3, 5 % noise")


# -- methods ----------------------------------------------------------------------------------


def methods(row: Row) -> dict[str, Method]:
    """Who takes part in a row."""
    steps = tc.LM(max_iter=_SWEEPS, tol=_TOL)
    sweeps = tc.ALS(max_iter=_SWEEPS, tol=_TOL)
    found: dict[str, Method] = {
        "default": ours(row),
        "LM, random": ours(row, solver=steps),
        "ALS, random": ours(row, solver=sweeps),
        "ALS, svd": ours(row, solver=sweeps, init="svd"),
    }
    if row.kind is tc.CP:
        found |= {"TensorLy parafac, random": tensorly_cp(row.rank, "random"), "pyttb cp_als": pyttb_cp(row.rank)}
        found |= {"TensorLy parafac, svd": tensorly_cp(row.rank, "svd")}
    if row.kind is tc.Tucker:
        found |= {"TensorLy tucker": tensorly_tucker(row.rank), "pyttb tucker_als": pyttb_tucker(row.rank)}
    if row.kind is tc.TensorChain and isinstance(row.rank, tuple) and row.rank[0] == 1:
        found |= {"TensorLy tensor_train": tensorly_train(row.rank)}
    elif row.kind is tc.TensorChain:
        found |= {"TensorLy tensor_ring_als": tensorly_ring(row.rank)}
    return found


def ours(row: Row, **options: Any) -> Method:
    def method(tensor: Array, seed: int) -> tuple[float, float]:
        fit = tc.decompose(tensor, row.kind, row.rank, rng=seed, max_seconds=row.long, **options)
        return fit.error if fit.least_error is None else fit.least_error, fit.model.sensitivity(relative=True)

    return method


def tensorly_cp(rank: int, init: str) -> Method:
    from tensorly.cp_tensor import cp_to_tensor
    from tensorly.decomposition import parafac

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        found = parafac(tensor, rank, n_iter_max=_SWEEPS, init=init, tol=_TOL, random_state=seed)
        return error(tensor, cp_to_tensor(found)), math.nan

    return method


def pyttb_cp(rank: int) -> Method:
    import pyttb

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        np.random.seed(seed)  # noqa: NPY002 (what pyttb draws from)
        found, _, _ = pyttb.cp_als(pyttb.tensor(tensor), rank, maxiters=_SWEEPS, stoptol=_TOL, printitn=0)
        return error(tensor, found.full().data), math.nan

    return method


def tensorly_tucker(rank: Any) -> Method:
    from tensorly.decomposition import tucker
    from tensorly.tucker_tensor import tucker_to_tensor

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        ranks = [rank] * tensor.ndim if isinstance(rank, int) else list(rank)
        found = tucker(tensor, ranks, n_iter_max=_SWEEPS, tol=_TOL, random_state=seed)
        return error(tensor, tucker_to_tensor(found)), math.nan

    return method


def pyttb_tucker(rank: Any) -> Method:
    import pyttb

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        np.random.seed(seed)  # noqa: NPY002 (what pyttb draws from)
        ranks = [rank] * tensor.ndim if isinstance(rank, int) else list(rank)
        found, _, _ = pyttb.tucker_als(pyttb.tensor(tensor), ranks, maxiters=_SWEEPS, stoptol=_TOL, printitn=0)
        return error(tensor, found.full().data), math.nan

    return method


def tensorly_train(bonds: tuple[int, ...]) -> Method:
    from tensorly.decomposition import tensor_train
    from tensorly.tt_tensor import tt_to_tensor

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        return error(tensor, tt_to_tensor(tensor_train(tensor, [*bonds, 1]))), math.nan

    return method


def tensorly_ring(bonds: Any) -> Method:
    from tensorly.decomposition import tensor_ring_als

    def method(tensor: Array, seed: int) -> tuple[float, float]:
        ranks = [bonds] * tensor.ndim if isinstance(bonds, int) else list(bonds)
        cores = tensor_ring_als(
            tensor, [*ranks, ranks[0]], ls_solve="normal_eq", n_iter_max=_SWEEPS, tol=_TOL, random_state=seed
        )
        return error(tensor, tc.TensorChain([np.asarray(core) for core in cores]).full()), math.nan

    return method


def error(tensor: Array, value: Array) -> float:
    """Relative error."""
    return float(np.linalg.norm(tensor - value) / np.linalg.norm(tensor))


# -- measuring --------------------------------------------------------------------------------


def measure(row: Row, starts: int) -> dict[str, dict[str, Any]]:
    """All methods on one row."""
    tensor = row.make()
    tallies = {name: Tally() for name in methods(row)}
    for name, method in methods(row).items():
        for seed in range(starts):
            if sum(tallies[name].seconds) > _LONG * starts and seed >= 3:
                break
            began = time.process_time()
            with quiet():
                try:
                    found, sensitivity = method(tensor, seed)
                except np.linalg.LinAlgError:
                    found, sensitivity = math.inf, math.nan
            tallies[name].seconds.append(time.process_time() - began)
            tallies[name].errors.append(found)
            tallies[name].sensitivities.append(sensitivity)
    best = min(min(tally.errors) for tally in tallies.values())
    target = _EXACT if row.exact else _WITHIN * best
    return {name: tally.figures(target) for name, tally in tallies.items()}


@contextlib.contextmanager
def quiet() -> Any:
    """Without the prints and warnings of the peers."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def lines(name: str, figures: dict[str, dict[str, Any]]) -> str:
    """One row of the benchmark as a table."""
    body = []
    for method, row in figures.items():
        expected = "never" if row["expected"] is None else f"{row['expected']:.3g} s"
        sensitivity = "" if math.isnan(row["sensitivity"]) else f"{row['sensitivity']:.3g}"
        body.append(
            [method, f"{row['successes']}/{row['starts']}", f"{row['seconds']:.3g} s", expected,
             f"{row['median_error']:.5g}", f"{row['best_error']:.5g}", sensitivity]
        )  # fmt: skip
    header = [name, "success", "a start", "expected", "median error", "best error", "relative SS"]
    return table(header, body)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rows", nargs="*", default=[], help="rows whose name contains one of these")
    options.add_argument("--starts", type=int, default=None, help="starts of each method")
    given = options.parse_args()
    chosen = [name for name in ROWS if not given.rows or any(part in name for part in given.rows)]
    if given.quick and not given.rows:
        chosen = list(QUICK)
    starts = given.starts or (3 if given.quick else 10)
    results = {}
    with threadpool_limits(given.threads):
        with quiet():
            tc.decompose(np.ones((3, 3, 3)) + np.eye(3), "cp", 2, rng=0)
        for name in chosen:
            results[name] = measure(ROWS[name], starts)
            print(lines(name, results[name]), end="\n\n", flush=True)
            # Rows that were measured in other runs stay.
            path = given.results / "default.json"
            rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
            rows[name] = {"starts": starts, "threads": given.threads, "methods": results[name]}
            save(given.results, "default", {"rows": rows}, quick=given.quick)


if __name__ == "__main__":
    main()
