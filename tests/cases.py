"""Cases that the contract tests run on: one line a model, and slow twins that share nothing with the package.

A new model joins every contract by one `Case` with its twin; see test_fifth_model.py.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker

LONG = bool(os.environ.get("TENSORCHAIN_LONG"))
"""Whether tests run on all combinations of their parameters (`make test-long`), or on every second or third of them."""
PART = int(os.environ.get("TENSORCHAIN_PART", "0"))
"""Which part: 0, 1, 2, ... take turns; runs with other kernels take another one."""

Twin = Callable[[Sequence[Any]], Any]

SHAPE = (4, 3, 5, 2, 3, 2)
"""Sizes of the modes; a case of order N takes the first N."""

TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "complex128": 1e-11}
"""Relative; the twins add a few thousand products at most."""


def combined(*values: Sequence[Any], every: int = 3) -> list[tuple[Any, ...]]:
    """Combinations of values whose positions add up to a multiple of `every`, or PART more; all where tests are long.

    With lists of at least `every` values each value of one meets all values of another, but not all triples occur; of
    two lists each value meets every third of the other, in turn.
    """
    if LONG:
        return list(itertools.product(*values))
    positions = itertools.product(*(range(len(some)) for some in values))
    return [
        tuple(some[n] for some, n in zip(values, place, strict=True))
        for place in positions
        if (sum(place) - PART) % every == 0
    ]


def crossed(every: int = 3, fast: int | None = None, **values: Sequence[Any]) -> pytest.MarkDecorator:
    """The parameters of a test, by name, in the combinations of `combined`; those after the first `fast` are slow."""
    chosen = combined(*values.values(), every=every)
    names = [_named(some) for some in chosen]
    return pytest.mark.parametrize(tuple(values), mostly_slow(chosen, len(chosen) if fast is None else fast), ids=names)


def mostly_slow(values: Iterable[Any], fast: int = 1) -> list[Any]:
    """Parameters of which `make test` takes the first `fast`, and `make test-slow` the others."""
    chosen = list(values)
    return [*chosen[:fast], *map(_marked, chosen[fast:])]


def _marked(some: Any) -> Any:
    if hasattr(some, "marks"):
        return pytest.param(*some.values, marks=(*some.marks, pytest.mark.slow), id=some.id)
    return pytest.param(*(some if isinstance(some, tuple) else (some,)), marks=pytest.mark.slow)


def halved(values: Iterable[Any]) -> list[Any]:
    """Parameters of which `make test` takes half, drawn once for all, and `make test-slow` the others.

    Every second one of a list of combinations may always have the same part.
    """
    chosen = list(values)
    random.Random(2).shuffle(chosen)
    return mostly_slow(chosen, (len(chosen) + 1) // 2)


def _named(value: Any) -> str:
    # Of a tuple of objects the repr may hold addresses, which are others in each process.
    return "-".join(map(_named, value)) if isinstance(value, tuple) else getattr(value, "__name__", str(value))


@dataclass(frozen=True)
class Case:
    """A kind of model at one shape, rank and dtype.

    twin : the tensor from the blocks in their natural shapes, by explicit loops.
    gauge : dimension of the gauge group by its closed form.
    """

    kind: type[Model]
    shape: tuple[int, ...]
    rank: Any
    twin: Twin
    gauge: int
    dtype: str = "float64"

    def __str__(self) -> str:
        return f"{self.kind.name}-{len(self.shape)}-{self.dtype}"

    @property
    def tol(self) -> float:
        return TOLERANCE[self.dtype]

    def model(self, seed: int = 0) -> Any:
        """A generic model: Gaussian blocks of unit variance."""
        network = self.kind.wiring(self.shape, self.rank)
        return self.kind.from_matrices(network, gaussian_blocks(network, self.shape, self.dtype, seed))

    def tensor(self, seed: int = 0) -> Any:
        """A generic tensor of this shape and dtype."""
        return gaussian(self.shape, self.dtype, np.random.default_rng(1000 + seed))

    def as_type(self, dtype: str) -> Case:
        return replace(self, dtype=dtype)


def gaussian(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Any:
    """Standard normal numbers, real or circular complex."""
    real = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        real = (real + 1j * rng.standard_normal(shape)) / np.sqrt(2.0)
    return real.astype(dtype)


def gaussian_blocks(network: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    rows = [1 if mode is None else shape[mode] for mode in network.modes]
    return [gaussian((i, p), dtype, rng) for i, p in zip(rows, network.widths, strict=True)]


# -- slow twins: every entry by itself ------------------------------------------------------


def cp_twin(factors: Sequence[Any]) -> Any:
    return by_entries(factors, lambda rows: np.prod(rows, axis=0).sum())


def tucker_twin(blocks: Sequence[Any]) -> Any:
    core, *factors = blocks

    def entry(rows: list[Any]) -> Any:
        value = core
        for row in rows:
            value = sum(number * slab for number, slab in zip(row, value, strict=True))
        return value

    return by_entries(factors, entry)


def chain_twin(cores: Sequence[Any]) -> Any:
    slices = [core.transpose(1, 0, 2) for core in cores]

    def entry(matrices: list[Any]) -> Any:
        product = matrices[0]
        for matrix in matrices[1:]:
            product = product @ matrix
        return np.trace(product)

    return by_entries(slices, entry)


def block_term_twin(ranks: Sequence[tuple[int, ...]]) -> Twin:
    """Blocks are stacked over the terms: cut them apart, one Tucker twin each."""

    def twin(blocks: Sequence[Any]) -> Any:
        cores, *factors = blocks
        total, at_core, at = 0.0, 0, [0] * len(factors)
        for rank in ranks:
            core = cores[0, at_core : at_core + int(np.prod(rank))].reshape(rank)
            parts = [f[:, a : a + r] for f, a, r in zip(factors, at, rank, strict=True)]
            total = total + tucker_twin([core, *parts])
            at_core += core.size
            at = [a + r for a, r in zip(at, rank, strict=True)]
        return total

    return twin


def by_entries(blocks: Sequence[Any], entry: Callable[[list[Any]], Any]) -> Any:
    shape = tuple(len(block) for block in blocks)
    tensor = np.empty(shape, dtype=np.result_type(*blocks))
    for index in itertools.product(*map(range, shape)):
        tensor[index] = entry([block[i] for block, i in zip(blocks, index, strict=True)])
    return tensor


# -- the four models ------------------------------------------------------------------------


def cp_case(shape: tuple[int, ...], rank: int) -> Case:
    order = len(shape)
    # A matrix product has the whole GL(R) between its two factors.
    return Case(CP, shape, rank, cp_twin, rank * (order - 1) if order > 2 else rank**2)


def tucker_case(shape: tuple[int, ...], rank: tuple[int, ...]) -> Case:
    return Case(Tucker, shape, rank, tucker_twin, sum(r**2 for r in rank))


def block_term_case(shape: tuple[int, ...], ranks: list[tuple[int, ...]]) -> Case:
    return Case(BlockTerm, shape, ranks, block_term_twin(ranks), sum(r**2 for rank in ranks for r in rank))


def chain_case(shape: tuple[int, ...], bonds: tuple[int, ...]) -> Case:
    return Case(TensorChain, shape, bonds, chain_twin, sum(bond**2 for bond in bonds) - 1)


def four_models(order: int) -> list[Case]:
    """Each model at SHAPE[:order], with unequal ranks."""
    shape = SHAPE[:order]
    return [
        cp_case(shape, 3),
        tucker_case(shape, (2, 3, 2, 1, 2, 2)[:order]),
        block_term_case(shape, [(2, 2, 1, 2, 1, 2)[:order], (1, 2, 3, 1, 1, 1)[:order]]),
        chain_case(shape, (2, 1, 3, 2, 1, 2)[:order]),
    ]


ALL = [
    four_models(order)[n].as_type(dtype)
    for order, n, dtype in combined(range(2, 7), range(4), ("float64", "complex128"), every=2)
]
ALL += [case.as_type("float32") for order in (3, 5) for case in four_models(order)]

SMALL = [
    case.as_type(dtype) for order in (2, 3, 4) for case in four_models(order) for dtype in ("float64", "complex128")
]

THREE = four_models(3)
"""One real case a model, for tests that are about something else."""

SOLVED = [THREE[0], THREE[1], block_term_case(SHAPE[:3], [(1, 1, 1), (1, 1, 1)]), THREE[3]]
"""The same for tests that run solvers to their end."""


# -- what the tests compute for themselves --------------------------------------------------


def jacobian(model: Any) -> Any:
    """J column by column from `derivative`; (number of entries, n_parameters)."""
    columns = []
    for k, matrix in enumerate(model.matrices):
        for position in range(matrix.size):
            delta = [np.zeros_like(block) for block in model.matrices]
            delta[k].flat[position] = 1.0
            columns.append(model.derivative(delta).ravel())
    return np.stack(columns, axis=1)


def jacobian_blocks(model: Any) -> list[Any]:
    """J cut into the columns of each block."""
    ends = np.cumsum([matrix.size for matrix in model.matrices])
    return np.split(jacobian(model), ends[:-1], axis=1)


def double(model: Any) -> Any:
    """The same model with blocks in double precision."""
    return model.astype(np.result_type(model.dtype, np.float64))


def random_gauge(model: Any, rng: np.random.Generator, size: float = 1.0, condition: float | None = None) -> Any:
    """The same tensor in another gauge: G, G^-1 on every bond, numbers of product 1 on every hyperedge.

    Without `condition`, G = 1 + size * noise.  With it, singular values are spread evenly in log scale, and the
    numbers of all G of a term multiply to `condition`: X is then known to eps * condition.
    """
    for t, term in enumerate(model.network.terms):
        if condition is not None:
            spread = condition ** (1.0 / (len(term.gauge_bonds) + len(term.hyperedges)))
        for letter, k, m in term.gauge_bonds:
            gauge = _gauge_matrix(
                dict(term.sizes)[letter], model.dtype, rng, size, None if condition is None else spread
            )
            model = multiply_bond(model, t, letter, k, gauge.T)
            model = multiply_bond(model, t, letter, m, np.linalg.inv(gauge))
        for letter, owners in term.hyperedges:
            logs = rng.standard_normal((len(owners), dict(term.sizes)[letter]))
            logs -= logs.mean(axis=0)
            if condition is not None:
                logs *= np.log(spread) / np.ptp(logs)
            for k, row in zip(owners, np.exp(logs if condition is not None else size * logs), strict=True):
                model = multiply_bond(model, t, letter, k, np.diag(row))
    return model


def _gauge_matrix(bond: int, dtype: Any, rng: np.random.Generator, size: float, condition: float | None) -> Any:
    if condition is None:
        return np.eye(bond) + size * gaussian((bond, bond), dtype, rng)
    left, right = (np.linalg.qr(gaussian((bond, bond), dtype, rng))[0] for _ in range(2))
    values = np.geomspace(np.sqrt(condition), 1.0 / np.sqrt(condition), bond) if bond > 1 else [np.sqrt(condition)]
    return (left * values) @ right


def multiply_bond(model: Any, t: int, letter: str, k: int, matrix: Any) -> Any:
    """sum_b matrix[c, b] B_k[..., b, ...] along the bond `letter` of term t."""
    term, columns = model.network.terms[t], model.network.columns[t][k]
    bonds = term.bonds[k]
    block = model.matrices[k][:, columns].reshape(-1, *(dict(term.sizes)[bond] for bond in bonds))
    moved = np.einsum(f"I{bonds},C{letter}->I{bonds.replace(letter, 'C')}", block, matrix)
    target = np.array(model.matrices[k])
    target[:, columns] = moved.reshape(len(target), -1)
    return model.with_matrix(k, target)


def relative(value: Any, truth: Any) -> float:
    """||value - truth|| / ||truth||."""
    scale = float(np.linalg.norm(np.asarray(truth).ravel()))
    return float(np.linalg.norm((np.asarray(value) - truth).ravel())) / (scale or 1.0)
