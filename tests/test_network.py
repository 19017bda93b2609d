"""Wirings: what is refused, and that any wiring at all keeps the contract.

The models of the package use four wirings.  Here hypothesis draws others (loops, trees, hyperedges, cores, blocks
without bonds, several terms of different shape), and holds the generic contractions against one plain einsum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorchain as tc
from tensorchain.models import Network
from tensorchain.models.network import Term
from tests.cases import gaussian_blocks, jacobian, jacobian_blocks, random_gauge, relative
from tests.model_contract import PlainModel


def network(*terms: tuple[str, ...], modes: tuple[int | None, ...], **sizes: int) -> Network:
    return Network(tuple(Term(term, tuple(sizes.items())) for term in terms), modes)


BAD = [
    pytest.param(lambda: network(("k", "k"), modes=(0, 0), k=2), r"exactly one block", id="a mode twice"),
    pytest.param(lambda: network(("k", "k"), modes=(0, 2), k=2), r"exactly one block", id="a mode missing"),
    pytest.param(lambda: network(("kl", "k"), modes=(0, 1), k=2, l=2), r"'l'.*one block", id="a lonely bond"),
    pytest.param(lambda: network(("kk", "k"), modes=(0, 1), k=2), r"repeat", id="a bond to itself"),
    pytest.param(lambda: network(("k", "k", "k"), modes=(0, 1), k=2), r"block", id="more blocks than modes"),
    pytest.param(lambda: network(("k", "k"), modes=(0, 1, None), k=2), r"block", id="fewer blocks than modes"),
    pytest.param(lambda: network(("kl", "kl"), modes=(0, 1), k=2), r"'l'", id="a bond without a size"),
    pytest.param(lambda: network(("k", "k"), modes=(0, 1), k=0), r"'k'", id="an empty bond"),
    pytest.param(lambda: network(("a", "a"), modes=(0, 1), a=2), r"'a'", id="the letter of a mode"),
    pytest.param(lambda: network(("K", "K"), modes=(0, 1), K=2), r"'K'", id="a capital letter"),
    pytest.param(lambda: network(modes=(0, 1)), r"term", id="no term"),
    pytest.param(lambda: network(("k",) * 51, modes=(*range(51),), k=2), r"50", id="order 51"),
    pytest.param(lambda: network(("k",) * 12, modes=(0, 1, *[None] * 10), k=2), r"core", id="more cores than letters"),
]


class TestErrors:
    @pytest.mark.parametrize(("make", "fragment"), BAD)
    def test_a_bad_wiring_is_refused(self, make: Any, fragment: str) -> None:
        with pytest.raises(ValueError, match=fragment):
            make()

    def test_a_model_without_a_wiring_says_so(self) -> None:
        with pytest.raises(TypeError, match="wiring"):
            PlainModel.random((3, 4), 2, 0)


class TestLayout:
    def test_bonds_and_hyperedges(self) -> None:
        (term,) = network(("kl", "lm", "mk", "m"), modes=(0, 1, 2, None), k=2, l=3, m=4).terms
        assert term.gauge_bonds == (("k", 0, 2), ("l", 0, 1))
        assert term.hyperedges == (("m", (1, 2, 3)),)

    def test_columns_of_the_terms_lie_side_by_side(self) -> None:
        wiring = network(("kl", "k", "l"), ("k", "k", ""), modes=(None, 0, 1), k=2, l=3)
        assert wiring.widths == (6 + 2, 2 + 2, 3 + 1)
        assert wiring.columns == ((slice(0, 6), slice(0, 2), slice(0, 3)), (slice(6, 8), slice(2, 4), slice(3, 4)))
        assert wiring.order == 2
        assert wiring.block_of_mode == (1, 2)

    def test_equal_wirings_are_equal_and_hash_alike(self) -> None:
        assert tc.CP.wiring((3, 4, 5), 2) == tc.CP.wiring((5, 4, 3), 2)
        assert hash(tc.CP.wiring((3, 4, 5), 2)) == hash(tc.CP.wiring((5, 4, 3), 2))
        assert tc.CP.wiring((3, 4, 5), 2) != tc.CP.wiring((3, 4, 5), 3)
        assert tc.TensorChain.wiring((3, 4), (2, 3)) != tc.TensorChain.wiring((3, 4), (3, 2))


@st.composite
def plain_models(draw: st.DrawFn) -> PlainModel:
    """A model of any wiring, with generic blocks."""
    count = draw(st.integers(2, 5), label="blocks")
    cores = draw(st.integers(0, count - 2), label="cores")
    modes = draw(st.permutations([*range(count - cores), *[None] * cores]), label="modes")
    terms = []
    for _ in range(draw(st.integers(1, 2), label="terms")):
        bonds, sizes = [""] * count, []
        for letter in "klmn"[: draw(st.integers(0, 4))]:
            for owner in draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=count)):
                bonds[owner] += letter
            sizes.append((letter, draw(st.integers(1, 3))))
        terms.append(Term(tuple(bonds), tuple(sizes)))
    wiring = Network(tuple(terms), tuple(modes))
    shape = tuple(draw(st.integers(1, 3)) for _ in range(wiring.order))
    dtype = draw(st.sampled_from(["float64", "complex128"]))
    return PlainModel.from_matrices(wiring, gaussian_blocks(wiring, shape, dtype, draw(st.integers(0, 999))))


def einsum_twin(model: PlainModel) -> Any:
    """One einsum over numbered axes per term, without a contraction order."""
    total = 0.0
    for t, term in enumerate(model.network.terms):
        operands: list[Any] = []
        for k, (bonds, mode) in enumerate(zip(term.bonds, model.network.modes, strict=True)):
            block = model.matrices[k][:, model.network.columns[t][k]]
            block = block.reshape(len(block), *(dict(term.sizes)[bond] for bond in bonds))
            axes = [20 + ord(bond) - ord("a") for bond in bonds]
            operands += [block[0], axes] if mode is None else [block, [mode, *axes]]
        total = total + np.einsum(*operands, list(range(model.order)))
    return total


class TestAnyWiring:
    @given(model=plain_models())
    def test_values(self, model: PlainModel) -> None:
        truth = einsum_twin(model)
        size = np.prod([np.linalg.norm(matrix) for matrix in model.matrices])
        assert np.linalg.norm(model.full() - truth) < 1e-12 * size
        assert abs(model.inner(model) - np.linalg.norm(truth) ** 2) < 1e-12 * size**2
        where = np.stack(np.unravel_index(np.arange(truth.size), truth.shape), axis=1)
        assert np.linalg.norm(model.entries(where) - truth.ravel()) < 1e-12 * size

    @given(model=plain_models())
    def test_jacobian(self, model: PlainModel) -> None:
        J = jacobian(model)
        assert relative(model.gauss_newton(), J.conj().T @ J) < 1e-11
        shares = [np.linalg.norm(columns) ** 2 for columns in jacobian_blocks(model)]
        np.testing.assert_allclose(model.block_sensitivities(), shares, rtol=1e-10)
        delta = [matrix * (1 + k) + 0.5 for k, matrix in enumerate(model.matrices)]
        image = np.concatenate([block.ravel() for block in model.gauss_newton_matvec(delta)])
        assert relative(image, J.conj().T @ (J @ np.concatenate([d.ravel() for d in delta]))) < 1e-11

    @given(model=plain_models(), seed=st.integers(0, 99))
    def test_source(self, model: PlainModel, seed: int) -> None:
        rng = np.random.default_rng(seed)
        T = rng.standard_normal(model.shape) + (1j * rng.standard_normal(model.shape) if model.dtype.kind == "c" else 0)
        source, J = tc.Dense(T), jacobian_blocks(model)
        for k, matrix in enumerate(model.matrices):
            answer = source.contract_all_but(model, k)
            assert answer.shape == matrix.shape
            assert relative(answer.ravel(), J[k].conj().T @ T.ravel()) < 1e-11
        residual = source.residual(model)
        error = T - einsum_twin(model)
        assert residual.norm == pytest.approx(np.linalg.norm(error), rel=1e-10, abs=1e-12)
        for gradient, columns in zip(residual.gradient, J, strict=True):
            expected = columns.conj().T @ error.ravel()
            assert np.linalg.norm(gradient.ravel() - expected) < 1e-10 * (1 + np.linalg.norm(expected))

    @given(model=plain_models(), seed=st.integers(0, 99))
    def test_gauge(self, model: PlainModel, seed: int) -> None:
        size = np.prod([np.linalg.norm(matrix) for matrix in model.matrices])
        best = tc.optimal_gauge(model)
        assert np.linalg.norm(best.full() - model.full()) < 1e-10 * size
        assert best.sensitivity() <= model.sensitivity()
        other = random_gauge(model, np.random.default_rng(seed), 0.5)
        # Where a bond is wider than what it joins the least SS is a limit that no gauge attains, and is neared slowly.
        assert tc.optimal_gauge(other).sensitivity() == pytest.approx(best.sensitivity(), rel=1e-2)

    @given(model=plain_models())
    def test_gauge_dimension(self, model: PlainModel) -> None:
        values = np.linalg.eigvalsh(model.gauss_newton())
        assert model.gauge_dimension <= np.sum(values < 1e-9 * values[-1])
