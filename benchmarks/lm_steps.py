"""Time of a Levenberg-Marquardt iteration on chains, beside SciPy and a plain one with the Jacobian written out.

`explicit` is what one would write in an afternoon: the Jacobian as a matrix, J^T J by one matrix product, a Cholesky
factor.  SciPy is `least_squares(method="lm")` (MINPACK) with the same Jacobian given to it.  Both are run for fewer
iterations where they take long: the time of one iteration is what is compared.  Ours counts the steps that were
accepted, with the time of those that were not; the plain one counts all that it tries.

    python -m benchmarks.lm_steps [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg, optimize

import tensorchain as tc
from benchmarks.sweeps import compared, lines, planted
from benchmarks.timing import Contestant, Outcome, compete, parser, save

ROWS = (
    # name, shape, bonds, iterations of ours, of the others, seconds wanted for 300 iterations
    ("TC-LM 9^3, bonds 3", (9,) * 3, 3, 300, 100, 0.15),
    ("TC-LM 10^5, bonds 3", (10,) * 5, 3, 300, 4, 1.5),
)
_SMALL = 10_000
"""Entries up to which SciPy is asked: at 10^5 it took 15 s an iteration, for the QR factor of the whole Jacobian."""
QUICK = (("TC-LM 5^3, bonds 2", (5,) * 3, 2, 30, 10, 0.0),)


def ours(tensor: Any, start: tc.TensorChain, iterations: int) -> Contestant:
    solver = tc.LM(max_iter=iterations, tol=0.0, exact=0.0)

    def run() -> Outcome:
        fit = tc.decompose(tensor, init=start, solver=solver)
        return Outcome(fit.iterations, lambda: fit.error)

    return run


def explicit(tensor: Any, start: tc.TensorChain, iterations: int) -> Contestant:
    """Levenberg-Marquardt with Nielsen's damping and the Jacobian as a matrix."""
    flat = tensor.ravel()

    def run() -> Outcome:
        model, damping, growth = start, 1e-2, 2.0
        residual = flat - model.full().ravel()
        value = float(residual @ residual)
        for _ in range(iterations):
            jacobian = dense_jacobian(model)
            normal, slope = jacobian.T @ jacobian, jacobian.T @ residual
            step = linalg.cho_solve(linalg.cho_factor(normal + damping * np.eye(len(normal))), slope)
            trial = shifted(model, step)
            moved = flat - trial.full().ravel()
            decrease = value - float(moved @ moved)
            ratio = decrease / float(step @ (damping * step + slope))
            if ratio > 0.0:
                model, residual, value = trial, moved, float(moved @ moved)
                damping, growth = damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
            else:
                damping, growth = damping * growth, 2.0 * growth
        return Outcome(iterations, lambda: float(np.sqrt(value / (flat @ flat))))

    return run


def minpack(tensor: Any, start: tc.TensorChain, iterations: int) -> Contestant:
    flat = tensor.ravel()
    origin = np.concatenate([matrix.ravel() for matrix in start.matrices])

    def run() -> Outcome:
        found = optimize.least_squares(
            lambda theta: shifted(start, theta - origin).full().ravel() - flat,
            origin,
            lambda theta: dense_jacobian(shifted(start, theta - origin)),
            method="lm",
            max_nfev=iterations,
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        return Outcome(found.njev, lambda: float(np.sqrt(2.0 * found.cost / (flat @ flat))))

    return run


def dense_jacobian(chain: tc.TensorChain) -> Any:
    """dX / dtheta of a chain: entries of X by parameters, the matrix (I_n, R_n R_n+1) of each core row by row."""
    order, columns = chain.order, []
    for k, core in enumerate(chain.blocks):
        left, size, right = core.shape
        rest = np.eye(right)
        for n in (*range(k + 1, order), *range(k)):
            rest = np.tensordot(rest, chain.blocks[n], 1)
        # (right, I_k+1, ..., I_k-1, left) to (entries of the other modes, left right).
        others = [n for n in range(order) if n != k]
        modes = [1 + (n - k - 1) % order for n in others]
        rest = rest.transpose(*modes, order, 0).reshape(-1, left * right)
        # Slice i of X moves with row i of the matrix alone.
        block = np.kron(np.eye(size), rest).reshape(size, *(chain.shape[n] for n in others), -1)
        columns.append(np.moveaxis(block, 0, k).reshape(-1, core.size))
    return np.concatenate(columns, axis=1)


def shifted(model: tc.TensorChain, step: Any) -> tc.TensorChain:
    """The model with a step added to its parameters."""
    matrices, start = [], 0
    for matrix in model.matrices:
        matrices.append(matrix + step[start : start + matrix.size].reshape(matrix.shape))
        start += matrix.size
    return model.with_matrices(matrices)


def measure(rows: tuple[Any, ...], repeats: int, threads: int) -> list[dict[str, Any]]:
    """All problems, as JSON."""
    results = []
    for name, shape, bonds, iterations, others, wanted in rows:
        tensor = planted(tc.TensorChain, shape, 2 * bonds)
        start = tc.TensorChain.random(shape, bonds, 1)
        start = start.scaled(1.0 / start.norm())
        contestants = {
            "tensorchain": ours(tensor, start, iterations),
            "explicit Jacobian": explicit(tensor, start, others),
        }
        if tensor.size <= _SMALL:
            contestants["SciPy least_squares"] = minpack(tensor, start, others)
        timings = compete(contestants, repeats=repeats, threads=threads)
        results.append(
            {
                "name": name,
                "unit": "iteration",
                "tensor MB": tensor.nbytes / 2**20,
                "timings": {peer: timing.row() for peer, timing in timings.items()},
                "ratios": compared(timings),
                "targets": {},
                "seconds for 300": 0.3 * timings["tensorchain"].median,
                "seconds wanted": wanted,
            }
        )
        print(lines(results[-1]), flush=True)
        print(f"300 iterations: {results[-1]['seconds for 300']:.3f} s (wanted: {wanted} s)\n", flush=True)
    return results


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    results = measure(QUICK if given.quick else ROWS, 2 if given.quick else 5, given.threads)
    save(given.results, "lm_steps", {"threads": given.threads, "rows": results}, quick=given.quick)


if __name__ == "__main__":
    main()
