"""Non-negative CP beside TensorLy and pyttb: the error in the end, and the time to the error that a peer ends with.

Three kinds of tensors: fluorescence-like (samples, excitation, emission: smooth spectra that overlap, a little noise),
counts (Poisson), and one without structure (uniform noise); and planted factors at 60^3.  All begin with the same
uniform blocks.  A peer runs with its own stopping rule and enough iterations; then ours runs until its error is no
larger than that of the peer, the whole call on the clock, start and final measurement included (processor time, one
thread, medians over the starts).  "in the end" is the median over the starts of the error of our whole run over that of
the peer.

pyttb's `cp_apr` fits the Poisson likelihood, not squares; with `--pyttb` it runs on the counts, which takes minutes.

`--inner` measures instead what to do in one block: sweeps over its entries alone (HALS), three of them and an active
set, as it is used, and block principal pivoting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.peers import _error, _quiet
from benchmarks.timing import parser, save, table

Array = Any


def fluorescence(rng: np.random.Generator, shape: tuple[int, int, int] = (20, 60, 150), rank: int = 5) -> Array:
    """Smooth spectra with one or two bumps, concentrations over a decade, noise of 2 % of the largest signal."""

    def bumps(size: int) -> Array:
        at = np.arange(size)[:, None] / size
        spectrum = np.zeros((size, rank))
        for weight in (1.0, 0.5):
            centre, width = rng.uniform(0.1, 0.9, rank), rng.uniform(0.05, 0.15, rank)
            spectrum += weight * np.exp(-0.5 * ((at - centre) / width) ** 2)
        return spectrum

    factors = [10.0 ** rng.uniform(-1.0, 0.0, (shape[0], rank)), bumps(shape[1]), bumps(shape[2])]
    tensor = np.einsum("ir,jr,kr->ijk", *factors)
    return tensor + 0.02 * rng.uniform(size=shape) * tensor.max() * rng.standard_normal(shape)


def counts(rng: np.random.Generator, shape: tuple[int, int, int] = (40, 50, 60), rank: int = 6) -> Array:
    """Poisson counts whose means are a non-negative CP with sparse factors; one and a half an entry."""
    factors = [rng.gamma(0.5, size=(size, rank)) for size in shape]
    mean = np.einsum("ir,jr,kr->ijk", *factors)
    return rng.poisson(1.5 * mean / mean.mean()).astype(float)


def planted(rng: np.random.Generator, size: int = 60, rank: int = 8) -> Array:
    """Uniform factors with half of their entries zero, 10 % noise."""
    factors = [rng.uniform(size=(size, rank)) * (rng.uniform(size=(size, rank)) < 0.5) for _ in range(3)]
    tensor = np.einsum("ir,jr,kr->ijk", *factors)
    noise = rng.standard_normal(tensor.shape)
    return tensor + 0.1 * np.linalg.norm(tensor) / np.linalg.norm(noise) * noise


PROBLEMS: dict[str, tuple[Callable[[np.random.Generator], Array], int]] = {
    "fluorescence 20x60x150, rank 5": (fluorescence, 5),
    "counts 40x50x60, rank 6": (counts, 6),
    "random 50x50x50, rank 8": (lambda rng: rng.uniform(size=(50, 50, 50)), 8),
    "planted 60x60x60, rank 8": (planted, 8),
    "planted 60x60x60, rank 16": (lambda rng: planted(rng, rank=16), 16),
}
_ITERATIONS = 1000


def tensorly(name: str, tensor: Array, start: tc.CP, iterations: int) -> Callable[[], Array]:
    """A peer's run; it returns the factors multiplied out."""
    from tensorly import decomposition
    from tensorly.cp_tensor import CPTensor, cp_to_tensor

    function = getattr(decomposition, name)

    def run() -> Array:
        init = CPTensor((np.ones(start.rank), [np.array(factor) for factor in start.factors]))
        found = function(tensor, start.rank, n_iter_max=iterations, init=init)
        return lambda: cp_to_tensor(found)

    return run


def pyttb(tensor: Array, start: tc.CP, iterations: int) -> Callable[[], Array]:
    """Poisson likelihood by multiplicative updates."""
    import pyttb

    def run() -> Array:
        init = pyttb.ktensor([np.array(factor) for factor in start.factors])
        with _quiet():
            found = pyttb.cp_apr(
                pyttb.tensor(tensor), start.rank, init=init, maxiters=min(iterations, 200), printitn=0
            )[0]
        return lambda: found.full().data

    return run


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time and the result."""
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def ours(tensor: Array, start: tc.CP, solver: Any, target: float | None = None) -> tc.Fit:
    """Our run, until the error is that of a peer, or to its end."""
    stop = None if target is None else lambda iterate: iterate.error <= target
    keywords = {"init": start} if solver is not None else {"model": "cp", "rank": start.rank, "rng": 0}
    return tc.decompose(tensor, solver=solver, constraint=tc.NonNegative(), callback=stop, **keywords)


SOLVERS = {"ALS": tc.ALS(max_iter=_ITERATIONS), "default": tc.Auto()}


def compare(name: str, starts: int, iterations: int = _ITERATIONS, *, poisson: bool = False) -> list[dict[str, Any]]:
    """One problem: a row for each peer and each of our solvers."""
    make, rank = PROBLEMS[name]
    tensor = make(np.random.default_rng(0))
    peers: dict[str, Callable[..., Any]] = {
        "TensorLy MU": lambda *a: tensorly("non_negative_parafac", *a),
        "TensorLy HALS": lambda *a: tensorly("non_negative_parafac_hals", *a),
    }
    if poisson and name.startswith("counts"):
        peers["pyttb APR"] = pyttb
    figures: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(starts):
        rng = np.random.default_rng(seed)
        start = tc.CP([rng.uniform(size=(size, rank)) for size in tensor.shape])
        whole = {label: ours(tensor, start, solver).error for label, solver in SOLVERS.items()}
        for peer, make_run in peers.items():
            seconds, values = timed(make_run(tensor, start, iterations))
            target = _error(tensor, values())
            for label, solver in SOLVERS.items():
                spent, fit = timed(partial(ours, tensor, start, solver, target * (1.0 + 1e-9)))
                reached = fit.error <= target * (1.0 + 1e-6)
                row = (spent / seconds if reached else np.inf, whole[label] / target, target)
                figures.setdefault((peer, label), []).append(row)
    rows = []
    for (peer, label), values in figures.items():
        share, error, target = np.median(np.array(values), axis=0).tolist()
        worst = max(value[1] for value in values)
        reached = sum(math.isfinite(value[0]) for value in values)
        rows.append(
            {"problem": name, "peer": peer, "solver": label, "peer_error": target, "error_ratio": error,
             "worst_error_ratio": worst, "time_ratio": share, "reached": reached, "starts": starts}
        )  # fmt: skip
    return rows


# -- what to do in one block ------------------------------------------------------------------


def pivoted(gram: Array, rhs: Array, start: Array) -> Array:
    """Block principal pivoting (Kim and Park, 2011), rows of one active set together; `start` gives the first sets."""
    rows, width = rhs.shape
    passive = start > 0.0
    best, patience = np.full(rows, width + 1), np.full(rows, 3)
    solution, gradient = np.zeros_like(rhs), np.zeros_like(rhs)
    open_rows = np.arange(rows)
    for _ in range(5 * width):
        patterns, which = np.unique(passive[open_rows], axis=0, return_inverse=True)
        for p, free in enumerate(patterns):
            those = open_rows[which.ravel() == p]
            solution[those] = 0.0
            if free.any():
                inner = np.linalg.solve(gram[np.ix_(free, free)], rhs[np.ix_(those, free)].T).T
                solution[np.ix_(those, free)] = inner
        gradient[open_rows] = solution[open_rows] @ gram - rhs[open_rows]
        wrong = (passive & (solution < -1e-12)) | (~passive & (gradient < -1e-12 * np.abs(rhs).max()))
        wrong_counts = wrong.sum(axis=1)
        open_rows = open_rows[wrong_counts[open_rows] > 0]
        if not len(open_rows):
            break
        for i in open_rows:
            if wrong_counts[i] < best[i]:
                best[i], patience[i] = wrong_counts[i], 3
            elif patience[i] > 0:
                patience[i] -= 1
            else:
                last = np.flatnonzero(wrong[i])[-1]
                wrong[i] = False
                wrong[i, last] = True
            passive[i] ^= wrong[i]
    return np.maximum(solution, 0.0)


def descended(gram: Array, rhs: Array, block: Array) -> Array:
    """At most ten sweeps over each row, as in accelerated HALS."""
    from tensorchain.kernels.nonnegative import descend

    change = np.zeros_like(block)
    descend(gram[None], rhs - block @ gram, -block, change, 10, 0.02)
    return block + change


def inner_methods(name: str, sweeps: int) -> list[list[str]]:
    """Bare sweeps over a CP with one method in the blocks: error after each number of sweeps, and time of a sweep."""
    from tensorchain.solvers.constraints.domain import EVERYWHERE

    make, rank = PROBLEMS[name]
    tensor = make(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    first = [rng.uniform(size=(size, rank)) for size in tensor.shape]
    methods: dict[str, Callable[[Array, Array, Array], Array]] = {
        "sweeps": descended,
        "sweeps, active set": lambda g, w, b: b + EVERYWHERE.best_change(b, g, w - b @ g),
        "block pivoting": pivoted,
    }
    rows = []
    for label, method in methods.items():
        factors, spent, errors = [f.copy() for f in first], 0.0, []
        for _ in range(sweeps):
            for n in range(3):
                one, two = [f for m, f in enumerate(factors) if m != n]
                gram = (one.T @ one) * (two.T @ two)
                rhs = np.einsum("abr,br->ar", np.tensordot(np.moveaxis(tensor, n, 0), two, axes=(2, 0)), one)
                seconds, factors[n] = timed(partial(method, gram, rhs, factors[n]))
                spent += seconds
            errors.append(_error(tensor, np.einsum("ir,jr,kr->ijk", *factors, optimize=True)))
        shown = ", ".join(f"{errors[n - 1]:.5f}" for n in (10, 30, sweeps))
        rows.append([name, label, shown, f"{1e3 * spent / sweeps:.2f}"])
    return rows


HEADER = ["problem", "peer", "its error", "our solver", "our error / its", "worst", "time to its error / its"]


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    reached = f"{row['time_ratio']:.2f} ({row['reached']} of {row['starts']} reached)"
    errors = [f"{row['error_ratio']:.5f}", f"{row['worst_error_ratio']:.5f}"]
    return [row["problem"], row["peer"], f"{row['peer_error']:.5f}", row["solver"], *errors, reached]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--starts", type=int, default=5, help="starts of each problem")
    options.add_argument("--pyttb", action="store_true", help="pyttb on the counts as well: minutes")
    options.add_argument("--inner", action="store_true", help="compare methods for one block")
    arguments = options.parse_args()
    problems = list(PROBLEMS)[:3] if arguments.quick else list(PROBLEMS)
    with threadpool_limits(arguments.threads):
        # Compiled loops are loaded, and libraries imported, before the clock runs.
        warm = np.random.default_rng(0).uniform(size=(4, 4, 4))
        for solver in SOLVERS.values():
            tc.decompose(warm, "cp", 2, solver=solver, constraint=tc.NonNegative(), rng=0)
        if arguments.inner:
            lines = [row for name in PROBLEMS for row in inner_methods(name, 60)]
            print(
                table(["problem", "in a block", "error after 10, 30, 60 sweeps", "ms of a sweep in the blocks"], lines)
            )
            return
        rows: list[dict[str, Any]] = []
        for name in problems:
            rows += compare(name, 3 if arguments.quick else arguments.starts, poisson=arguments.pyttb)
            print(table(HEADER, [line(row) for row in rows if row["problem"] == name]), flush=True)
    save(arguments.results, "nonnegative", {"rows": rows}, quick=arguments.quick)


if __name__ == "__main__":
    main()
