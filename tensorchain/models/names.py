"""Names of models as people type them: "tt", "tr", "parafac", "HOSVD", in any case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.models.base import Model
from tensorchain.models.validation import shown_rank

ALIASES = {
    "parafac": "cp",
    "candecomp": "cp",
    "cpd": "cp",
    "canonical_polyadic": "cp",
    "hosvd": "tucker",
    "hooi": "tucker",
    "block_term": "btd",
    "block_terms": "btd",
    "tr": "tc",
    "ring": "tc",
    "tensor_ring": "tc",
    "tensor_chain": "tc",
    "tt": "tc",
    "mps": "tc",
    "train": "tc",
    "tensor_train": "tc",
}
"""Other names of the models that come with the package."""
_TRAINS = ("tt", "mps", "train", "tensor_train")


def model_named(name: str) -> tuple[type[Model], bool]:
    """The class of that name, and whether its first bond is to be 1.

    Parameters
    ----------
    name : str
        A name under which a class is registered, or one of `ALIASES`, in any case.

    Returns
    -------
    tuple of type of Model and bool

    Raises
    ------
    ValueError
        When no model has that name.

    Examples
    --------
    >>> from tensorchain.models.names import model_named
    >>> model_named("PARAFAC")[0].__name__, model_named("tt")
    ('CP', (<class 'tensorchain.models.chain.TensorChain'>, True))
    """
    if name in Model.registry:
        return Model.registry[name], False
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    meant = ALIASES.get(plain, plain)
    by_name = {known.lower(): kind for known, kind in Model.registry.items()}
    if meant not in by_name:
        raise ValueError(
            f"model {name!r} is unknown; known are {', '.join(sorted(Model.registry))}, and other names of these: "
            f"{', '.join(ALIASES)}"
        )
    return by_name[meant], plain in _TRAINS


def bonds_of_train(rank: Any, order: int) -> Any:
    """(1, R_1, ..., R_{N-1}) from the inner bonds of a train, or from one number for all.

    Examples
    --------
    >>> from tensorchain.models.names import bonds_of_train
    >>> bonds_of_train(4, 3), bonds_of_train((2, 3), 3)
    ((1, 4, 4), (1, 2, 3))
    """
    if isinstance(rank, (int, np.integer)) and not isinstance(rank, bool):
        return (1,) + (int(rank),) * (order - 1)
    if isinstance(rank, (Sequence, np.ndarray)) and not isinstance(rank, str):
        inner = tuple(rank)
        if len(inner) != order - 1:
            raise ValueError(
                f"a train of order {order} has {order - 1} bonds, and {len(inner)} were given: {shown_rank(inner)}; "
                "give the inner bonds, or one number for all of them"
            )
        return (1, *inner)
    return rank
