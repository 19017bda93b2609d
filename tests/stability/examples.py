"""Models that the tests of stability run on: the four of the package, and a fifth whose wiring none of them has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.models import Model, Network
from tests.cases import SMALL, THREE, Case, four_models


class Hub(Model):
    """X = sum_n core . (A_n, B_n, C_n): a core without a mode, three bonds to it, a hyperedge n of the factors."""

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        return Network.single(("nk", "nl", "nm", "klm"), dict(zip("klmn", rank, strict=True)), (0, 1, 2, None))


def hub_twin(blocks: Sequence[Any]) -> Any:
    first, second, third, core = blocks
    total = 0.0
    for n in range(2):
        a, b, c = (factor.reshape(len(factor), 2, 3)[:, n] for factor in (first, second, third))
        total = total + np.einsum("xk,yl,zm,klm->xyz", a, b, c, core.reshape(3, 3, 3))
    return total


HUB = Case(Hub, (7, 6, 7), (3, 3, 3, 2), hub_twin, 29)
"""The gauge: 3 * 3^2 of the bonds, 2 * 2 of the hyperedge, less two scalars that both of them carry."""
LOOSE_HUB = Case(Hub, (6, 5, 7), (2, 2, 2, 2), hub_twin, 14)
"""A generic core of 2 x 2 x 2 has rank 2: the four terms are a CPD, and the blocks have more freedom than gauge."""

FIFTH = [HUB, HUB.as_type("complex128")]
SINGLE = [case.as_type("float32") for case in four_models(3)]
MODELS = [*SMALL, *FIFTH, *SINGLE]
ORDER_THREE = [case.as_type(dtype) for case in [*THREE, HUB] for dtype in ("float64", "complex128")]


def name(case: Case) -> str:
    """A name for a case, whether its kind is registered or not."""
    return f"{case.kind.__name__}-{len(case.shape)}-{case.dtype}"


def flat(blocks: Sequence[Any]) -> Any:
    """Blocks one after the other, row by row."""
    return np.concatenate([np.asarray(block).ravel() for block in blocks])


def in_matrix_form(model: Model, blocks: Sequence[Any]) -> list[Any]:
    """Blocks from their natural shapes."""
    return [model._to_matrix(k, np.asarray(block)) for k, block in enumerate(blocks)]
