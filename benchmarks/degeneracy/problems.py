"""The suite: tensors on which decompositions are easy, hard, or impossible, each with the model to fit.

A problem makes its tensor from a seed.  `target` is the relative error that counts as success: 1e-6 where an exact
decomposition exists, 2 % above the planted one where there is noise, 1e-2 where the infimum is 0 and not
attained.  Where nothing is known, it is None, and success means 2 % above the best that any method found on the same
tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tensorchain import datasets as ds
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability import optimal_gauge

EXACT = 1e-6
BORDER = 1e-2
SLACK = 1.02
_ROOM = 10.0


@dataclass(frozen=True)
class Problem:
    """A tensor and the model to fit to it.

    Attributes
    ----------
    name, family : for the table.
    model, rank : as in `decompose`.
    make : seed to tensor.
    target : relative error that counts as success, or None.
    quick : part of the quick form.
    """

    name: str
    family: str
    model: str
    rank: Any
    make: Callable[[int], Array]
    target: float | None
    quick: bool = False

    @property
    def random(self) -> bool:
        """Whether the tensor depends on the seed."""
        return not isinstance(self.make, Fixed)

    def tame_sensitivity(self, tensor: Array) -> float:
        """SS of a random model of the norm of the tensor in its best gauge: what a stable model needs, about."""
        kind = Model.registry[self.model]
        start = kind.random(tensor.shape, self.rank, np.random.default_rng(0))
        return optimal_gauge(start.scaled(float(np.linalg.norm(tensor)) / start.norm())).sensitivity()

    def bound(self, tensor: Array) -> float:
        """The sensitivity allowed to the solvers that bound it."""
        return _ROOM * self.tame_sensitivity(tensor)


@dataclass(frozen=True)
class Fixed:
    """A tensor that does not depend on the seed."""

    make: Callable[[], Array]

    def __call__(self, seed: int) -> Array:
        return self.make()


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng((7, seed))


def planted(generator: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[int], Array]:
    """Seed to the tensor of a planted model."""
    return lambda seed: generator(*arguments, _rng(seed), **options).tensor


def noisy_target(noise: float) -> float:
    """2 % above the error of the planted model."""
    return SLACK * noise / (1.0 + noise**2) ** 0.5


def suite() -> tuple[Problem, ...]:
    """All problems."""
    return (*_cp(), *_chains(), *_tucker(), *_block_terms())


def kernel(seed: int) -> Array:
    """A tensor with the spectra of a trained convolution kernel."""
    return ds.kernel_like((16, 9, 16), 0.7, _rng(seed))


def _cp() -> list[Problem]:
    cube, quartic = (8, 8, 8), (6, 6, 6, 6)
    noisy = planted(ds.exact_cp, cube, 4, noise=0.05)
    close = planted(ds.exact_cp, cube, 4, collinearity=0.9)
    closest = planted(ds.exact_cp, cube, 4, collinearity=0.99)
    border = planted(ds.border_cp, (6, 6, 6))
    return [
        Problem("cp 8x8x8 r4", "exact", "cp", 4, planted(ds.exact_cp, cube, 4), EXACT, quick=True),
        Problem("cp 6x6x6x6 r5", "exact", "cp", 5, planted(ds.exact_cp, quartic, 5), EXACT),
        Problem("cp 8x8x8 r4, noise 5 %", "noisy", "cp", 4, noisy, noisy_target(0.05)),
        Problem("cp 8x8x8 r4, cosine 0.9", "collinear", "cp", 4, close, EXACT),
        Problem("cp 8x8x8 r4, cosine 0.99", "collinear", "cp", 4, closest, EXACT),
        Problem("cp border 6x6x6 r2", "border", "cp", 2, border, BORDER, quick=True),
        Problem("cp border 7x7x7 r4", "border", "cp", 4, planted(ds.border_cp, (7, 7, 7), rank=4), BORDER),
        Problem("matmul 2x2x2 r7", "matmul", "cp", 7, Fixed(partial(ds.matmul, 2, 2, 2)), EXACT),
        Problem("matmul 3x3x3 r23", "matmul", "cp", 23, Fixed(partial(ds.matmul, 3, 3, 3)), EXACT),
        Problem("inverse radius 12^3 cp r4", "function", "cp", 4, Fixed(partial(ds.inverse_radius, 3, 12)), None),
    ]


def _chains() -> list[Problem]:
    twos, threes = (2,) * 4, (3, 3, 3)
    exact = planted(ds.exact_chain, (7, 7, 7), threes)
    noisy = planted(ds.exact_chain, (8, 8, 8), threes, noise=0.05)
    close = planted(ds.exact_chain, (9, 9, 9), threes, collinearity=0.9)
    small, large = planted(ds.border_chain, (6, 6, 6), (2, 2, 2)), planted(ds.border_chain, (9, 9, 9), threes)
    return [
        Problem("tc 7x7x7 (3,3,3)", "exact", "tc", threes, exact, EXACT, quick=True),
        Problem("tc 5^4 (2,2,2,2)", "exact", "tc", twos, planted(ds.exact_chain, (5,) * 4, twos), EXACT),
        Problem("tc 4^6 (2,...)", "exact", "tc", (2,) * 6, planted(ds.exact_chain, (4,) * 6, (2,) * 6), EXACT),
        Problem("tc 8x8x8 (3,3,3), noise 5 %", "noisy", "tc", threes, noisy, noisy_target(0.05)),
        Problem("tc 9x9x9 (3,3,3), cosine 0.9", "collinear", "tc", threes, close, EXACT),
        Problem("tc border 6x6x6 (2,2,2)", "border", "tc", (2, 2, 2), small, BORDER, quick=True),
        Problem("tc border 9x9x9 (3,3,3)", "border", "tc", threes, large, BORDER),
        Problem("matmul 3x3x3 tc (3,3,3)", "matmul", "tc", threes, Fixed(partial(ds.matmul, 3, 3, 3)), EXACT),
        Problem("inverse radius 7^4 tc (2,...)", "function", "tc", twos, Fixed(partial(ds.inverse_radius, 4, 7)), None),
        Problem("kernel 16x9x16 tc (3,4,4)", "kernel", "tc", (3, 4, 4), kernel, None),
    ]


def _tucker() -> list[Problem]:
    shape, threes = (9, 8, 7), (3, 3, 3)
    noisy = planted(ds.exact_tucker, shape, threes, noise=0.05)
    return [
        Problem(
            "tucker 9x8x7 (3,3,3)", "exact", "tucker", threes, planted(ds.exact_tucker, shape, threes), EXACT, True
        ),
        Problem("tucker 9x8x7 (3,3,3), noise 5 %", "noisy", "tucker", threes, noisy, noisy_target(0.05)),
        Problem("kernel 16x9x16 tucker (6,4,6)", "kernel", "tucker", (6, 4, 6), kernel, None),
    ]


def _block_terms() -> list[Problem]:
    cube, two, ranks, ones = (8, 8, 8), (2, 2, 2), [(2, 2, 2)] * 2, [(1, 1, 1)] * 2
    noisy = planted(ds.exact_block_term, cube, two, noise=0.05)
    border = planted(ds.border_cp, (6, 6, 6))
    return [
        Problem("btd 8x8x8 2x(2,2,2)", "exact", "btd", ranks, planted(ds.exact_block_term, cube, two), EXACT, True),
        Problem("btd 8x8x8 2x(2,2,2), noise 5 %", "noisy", "btd", ranks, noisy, noisy_target(0.05)),
        Problem("btd border 6x6x6 2x(1,1,1)", "border", "btd", ones, border, BORDER),
    ]
