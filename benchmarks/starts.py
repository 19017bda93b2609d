"""How often and how fast random starts succeed: the default solver beside plain LM, plain ALS and TensorLy.

    python -m benchmarks.starts [--quick]

Rows: exact chains 7x7x7 of bonds 3, matrix multiplication tensors as CPD, border tensors (whose best
approximation does not exist) with a floor on the penalty and with a bound, a sampled function, and how far
`ErrorBound` brings the sensitivity of fits that ran into a swamp down.  Success rates are over all starts;
"per success" is the total processor time of all starts divided by the successes.  Processor time, on one
BLAS thread, depends little on what else the machine is doing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

import tensorchain as tc
from tensorchain.kernels import blas_threads


@dataclass
class Tally:
    """Outcomes of many starts of one method."""

    errors: list[float] = field(default_factory=list)
    sensitivities: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], tuple[float, float]]) -> None:
        began = time.process_time()
        error, sensitivity = run()
        self.seconds.append(time.process_time() - began)
        self.errors.append(error)
        self.sensitivities.append(sensitivity)

    def row(self, name: str, success: Callable[[float, float], bool]) -> list[str]:
        good = sum(success(e, s) for e, s in zip(self.errors, self.sensitivities, strict=True))
        count = len(self.errors)
        per_success = f"{sum(self.seconds) / good:.3g} s" if good else "-"
        return [
            name,
            f"{good}/{count} ({100 * good / count:.0f} %)",
            f"{np.median(self.seconds):.3g} s",
            per_success,
            f"{np.median(self.errors):.2g}",
            f"{min(self.errors):.2g}",
            f"{np.median(self.sensitivities):.2g}",
        ]


def ours(tensor: np.ndarray, model: str, rank: object, seed: int, **options: object) -> tuple[float, float]:
    fit = tc.decompose(tensor, model, rank, rng=seed, **options)  # type: ignore[arg-type]
    return fit.error, fit.sensitivity


def tensorly_ring(tensor: np.ndarray, bonds: int, seed: int) -> tuple[float, float]:
    from tensorly.decomposition import tensor_ring_als

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cores = tensor_ring_als(
            tensor, [bonds] * (tensor.ndim + 1), ls_solve="normal_eq", n_iter_max=500, tol=1e-10, random_state=seed
        )
    model = tc.TensorChain([np.asarray(core) for core in cores])
    return float(np.linalg.norm(tensor - model.full()) / np.linalg.norm(tensor)), tc.optimal_gauge(model).sensitivity()


def table(console: Console, title: str, rows: Iterable[list[str]]) -> None:
    view = Table(title=title, title_justify="left")
    for heading in ("method", "success", "median", "per success", "median error", "best error", "median SS"):
        view.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        view.add_row(*row)
    console.print(view)


def exact_chain(console: Console, starts: int) -> None:
    tensors = [tc.TensorChain.random((7, 7, 7), 3, 100 + n).full() for n in range(max(1, starts // 5))]
    methods = {
        "default": lambda T, seed: ours(T, "tc", 3, seed),
        "path": lambda T, seed: ours(T, "tc", 3, seed, solver=tc.Path()),
        "path, one cycle": lambda T, seed: ours(T, "tc", 3, seed, solver=tc.Path(cycles=1)),
        "LM": lambda T, seed: ours(T, "tc", 3, seed, solver=tc.LM()),
        "ALS": lambda T, seed: ours(T, "tc", 3, seed, solver=tc.ALS()),
        "TensorLy tensor_ring_als": lambda T, seed: tensorly_ring(T, 3, seed),
    }
    rows = []
    for name, method in methods.items():
        tally = Tally()
        for seed in range(starts):
            tensor = tensors[seed % len(tensors)]
            tally.add(lambda T=tensor, s=seed, m=method: m(T, s))
        rows.append(tally.row(name, lambda e, _: e < 1e-6))
    table(console, f"exact chain 7x7x7, bonds 3, {len(tensors)} tensors: error < 1e-6", rows)


def matrix_multiplication(console: Console, starts: int) -> None:
    rows = []
    for sizes, rank, share in (((2, 2, 2), 7, 1.0), ((2, 3, 3), 15, 1.0), ((3, 3, 3), 23, 0.5)):
        tensor = tc.datasets.matmul(*sizes)
        for name, solver in (("default", tc.Auto()), ("path", tc.Path()), ("LM", tc.LM())):
            tally = Tally()
            for seed in range(max(2, int(share * starts))):
                tally.add(lambda T=tensor, r=rank, s=seed, x=solver: ours(T, "cp", r, s, solver=x))
            rows.append(tally.row(f"{'x'.join(map(str, sizes))} rank {rank}: {name}", lambda e, _: e < 1e-10))
    table(console, "matrix multiplication as CPD: error < 1e-10", rows)


def border(console: Console, starts: int) -> None:
    tensors = [tc.datasets.border_chain((9, 9, 9), (3, 3, 3), rng=np.random.default_rng(n)).tensor for n in range(4)]
    methods = {
        "ALS, 300 sweeps": {"solver": tc.ALS(max_iter=300)},
        "LM, 300 iterations": {"solver": tc.LM(max_iter=300)},
        "default, Penalty(1e-8)": {"constraint": tc.Penalty(1e-8)},
        "default, SensitivityBound(1e3)": {"constraint": tc.SensitivityBound(1e3)},
        "path, no floor": {"solver": tc.Path()},
    }
    rows = []
    for name, options in methods.items():
        tally = Tally()
        for seed in range(starts):
            tally.add(lambda T=tensors[seed % 4], s=seed, o=options: ours(T, "tc", 3, s, **o))
        rows.append(tally.row(name, lambda e, s: e < 3e-3 and s < 1.5e3))
    table(console, "border tensors 9x9x9, bonds 3 (4 tensors, norm 1): error < 3e-3 at SS < 1.5e3", rows)


def sampled_function(console: Console, starts: int) -> None:
    tensor = tc.datasets.inverse_radius(5, 10)
    tally = Tally()
    for seed in range(max(2, starts // 4)):
        tally.add(lambda s=seed: ours(tensor, "tc", 3, s))
    table(console, "inverse_radius(5, 10), bonds 3: error < 4e-5", [tally.row("default", lambda e, _: e < 4e-5)])


def error_bound(console: Console, starts: int) -> None:
    view = Table(title="ErrorBound(fit.error) from fits of border tensors: SS before and after", title_justify="left")
    for heading in ("fit", "error", "SS", "after: error", "SS", "processor time"):
        view.add_column(heading, justify="right")
    for seed in range(max(2, starts // 8)):
        tensor = tc.datasets.border_chain((9, 9, 9), (3, 3, 3), rng=np.random.default_rng(seed)).tensor
        for solver in (tc.LM(max_iter=300), tc.ALS(max_iter=300)):
            fit = tc.decompose(tensor, "tc", 3, rng=seed, solver=solver)
            began = time.process_time()
            stable = tc.decompose(tensor, init=fit.model, constraint=tc.ErrorBound(fit.error), rng=seed)
            spent = time.process_time() - began
            view.add_row(
                type(solver).__name__,
                f"{fit.error:.3g}",
                f"{fit.sensitivity:.2g}",
                f"{stable.error:.3g}",
                f"{stable.sensitivity:.2g}",
                f"{spent:.2g} s",
            )
    console.print(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 starts of each instead of 40")
    arguments = parser.parse_args()
    starts = 8 if arguments.quick else 40
    console = Console(width=110)
    with blas_threads(1):
        for benchmark in (exact_chain, matrix_multiplication, border, sampled_function, error_bound):
            benchmark(console, starts)


if __name__ == "__main__":
    main()
