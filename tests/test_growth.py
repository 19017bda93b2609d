"""Larger models near a given one, from which a search over ranks goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models.growth import larger, smaller


@pytest.mark.parametrize(
    "model",
    [
        tc.CP.random((4, 5, 6), 2, rng=0),
        tc.TensorChain.random((4, 5, 6), (1, 2, 3), rng=0),
        tc.Tucker.random((4, 5, 6), (2, 2, 3), rng=0),
        tc.BlockTerm.random((4, 5, 6), [(2, 2, 2), (1, 2, 2)], rng=0, dtype=complex),
    ],
    ids=lambda model: model.name,
)
def test_grown_models_are_close_and_larger(model: Any) -> None:
    grown = list(larger(model, np.random.default_rng(0)))
    assert grown
    terms = model.network.terms
    for other in grown:
        # One term is larger, or one more has come; the others stay.
        kept = sum(one == two for one, two in zip(terms, other.network.terms, strict=False))
        assert (len(other.network.terms) - len(terms), kept) in ((0, len(terms) - 1), (1, len(terms)))
        assert other.n_parameters > model.n_parameters
        assert other.shape == model.shape
        assert 0 < np.linalg.norm(other.full() - model.full()) < np.linalg.norm(model.full())
    assert all(other.n_parameters < model.n_parameters for other in smaller(model))


@pytest.mark.parametrize(("rank", "grown"), [(1, 2), (3, 4), (8, 10), (19, 23)])
def test_a_bond_grows_by_a_quarter_and_at_least_by_one(rank: int, grown: int) -> None:
    rng = np.random.default_rng(0)
    [more] = larger(tc.CP.random((20, 20, 20), rank, rng=rng), rng)
    assert more.rank == grown
    chains = list(larger(tc.TensorChain.random((20, 20, 20), rank, rng=rng), rng))
    assert sorted(chain.bonds for chain in chains) == sorted(
        tuple(grown if n == m else rank for m in range(3)) for n in range(3)
    )
    # A factor has no more columns than rows.
    cores = list(larger(tc.Tucker.random((20, 20, rank), rank, rng=rng), rng))
    assert all(core.rank[2] == rank for core in cores)
