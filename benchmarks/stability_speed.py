"""Time of the measures of stability, for models of the sizes at which they should feel immediate.

Prints, for each model and measure, the best and the median time of one call.  Every call gets a model without cached
Grams, as after a solver's step; one call before the first is not counted.  The figure to watch is the chain with
10 cores of (8, 16, 8): sensitivity, optimal gauge and expected error should each take less than 10 ms.

Then the cycles that the optimal gauge takes from the last iterates of Levenberg-Marquardt on noisy chains of twice the
bonds, some of them near degeneracy, with every bond at its best and over-relaxed.

    OMP_NUM_THREADS=1 python -m benchmarks.stability_speed
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import tensorchain as tc
from benchmarks.sweeps import planted
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker
from tensorchain.stability import (
    allocate_bits,
    condition_number,
    expected_error,
    optimal_gauge,
    quantization_error,
    sensitivity,
    worst_direction,
)
from tensorchain.stability.gauge import _Search

MEASURES: dict[str, Callable[[Model], object]] = {
    "sensitivity": sensitivity,
    "optimal_gauge": optimal_gauge,
    "expected_error": lambda model: expected_error(model, 0.1),
    "quantization_error": lambda model: quantization_error(model, 6),
    "allocate_bits": lambda model: allocate_bits(model, 6 * model.n_parameters),
    "worst_direction": worst_direction,
    "condition_number": condition_number,
}


def models(rng: np.random.Generator) -> dict[str, Model]:
    return {
        "chain, 10 cores of (8, 16, 8)": TensorChain.random((16,) * 10, 8, rng),
        "chain of a kernel, 16 x 9 x 16, bonds (3, 5, 5)": TensorChain.random((16, 9, 16), (3, 5, 5), rng),
        "CP, 100 x 100 x 100, rank 10": CP.random((100, 100, 100), 10, rng),
        "Tucker of a kernel, 64 x 9 x 64, rank (8, 4, 8)": Tucker.random((64, 9, 64), (8, 4, 8), rng),
        "BTD of a kernel, 32 x 9 x 32, 3 terms of (3, 3, 3)": BlockTerm.random((32, 9, 32), [(3, 3, 3)] * 3, rng),
    }


def times(measure: Callable[[Model], object], model: Model, repeats: int) -> list[float]:
    """Milliseconds of each call, the first left out."""
    found = []
    for _ in range(repeats + 1):
        fresh = model.with_matrices(model.matrices)
        began = time.perf_counter()
        measure(fresh)
        found.append(1e3 * (time.perf_counter() - began))
    return found[1:]


FITTED = (((9, 9, 9), 3), ((7, 7, 7), 3), ((6, 6, 6, 6), 3), ((5, 5, 5, 5, 5), 2), ((6, 7, 8), 2))
"""Shapes and bonds of the fitted chains."""


def iterates(starts: int) -> list[tuple[str, Model]]:
    """The last iterate of each start, as the solver left it, with a name."""
    found = []
    for shape, bonds in FITTED:
        tensor = planted(TensorChain, shape, 2 * bonds)
        for seed in range(starts):
            seen: list[Model] = []
            tc.decompose(
                tensor, "tc", bonds, rng=seed, solver=tc.LM(max_iter=150, tol=0.0, exact=0.0),
                callback=lambda iterate, seen=seen: seen.append(iterate.model),
            )  # fmt: skip
            found.append((f"chain {'x'.join(map(str, shape))}, bonds {bonds}, start {seed}", seen[-1]))
    return found


def cycles(model: Model, tol: float = 1e-9, limit: int = 1000) -> tuple[int, int]:
    """Cycles until SS falls by less than `tol`: with every bond at its best, and as `optimal_gauge` goes."""
    value, count, plain = float(model.block_sensitivities().sum()), 0, _Search(model)
    while count < limit:
        previous, value, count = value, plain.cycle(), count + 1
        if not value < previous * (1.0 - tol):
            break
    return count, _Search(model).run(float(model.block_sensitivities().sum()), tol, limit)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    for name, model in models(np.random.default_rng(0)).items():
        print(f"{name} ({model.n_parameters} parameters)")
        for label, measure in MEASURES.items():
            try:
                found = times(measure, model, repeats)
            except ValueError as error:
                print(f"  {label:<20} {error}")
                continue
            print(f"  {label:<20} best {min(found):9.2f} ms   median {statistics.median(found):9.2f} ms")
    print("cycles of the optimal gauge: bonds at their best, over-relaxed")
    rows = [(name, cycles(model)) for name, model in iterates(starts=4)]
    rows.append(("together", (sum(plain for _, (plain, _) in rows), sum(relaxed for _, (_, relaxed) in rows))))
    for name, (plain, relaxed) in rows:
        print(f"  {name:<40} {plain:5} {relaxed:5}")


if __name__ == "__main__":
    main()
