"""The generators of data: each against a slow twin, a limit, a norm or a rank that is known."""

from __future__ import annotations

import itertools
import string
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tensorchain import datasets
from tensorchain.datasets import Border, Planted
from tensorchain.models import CP, BlockTerm, TensorChain, Tucker

DTYPES = ["float32", "float64", "complex128"]
SEEDS = st.integers(0, 2**32 - 1)
RELATIVE = {"float32": 1e-5, "float64": 1e-12, "complex128": 1e-12}


def unfold(tensor: Any, mode: int) -> Any:
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def cp_twin(factors: Any) -> Any:
    modes = string.ascii_lowercase[: len(factors)]
    return np.einsum(",".join(f"{mode}z" for mode in modes) + "->" + modes, *factors)


def tucker_twin(core: Any, *factors: Any) -> Any:
    modes, ranks = string.ascii_lowercase[: core.ndim], string.ascii_uppercase[: core.ndim]
    pairs = ",".join(f"{mode}{rank}" for mode, rank in zip(modes, ranks, strict=True))
    return np.einsum(f"{ranks},{pairs}->{modes}", core, *factors)


def block_term_twin(model: BlockTerm) -> Any:
    return sum(tucker_twin(*term.blocks) for term in model.terms)


def chain_twin(cores: Any) -> Any:
    shape = [core.shape[1] for core in cores]
    tensor = np.empty(shape, dtype=cores[0].dtype)
    for index in itertools.product(*(range(size) for size in shape)):
        product = np.eye(cores[0].shape[0])
        for core, i in zip(cores, index, strict=True):
            product = product @ core[:, i, :]
        tensor[index] = np.trace(product)
    return tensor


# One entry a planted model: its generator at a shape, and its slow twin.
PLANTED: dict[str, tuple[Callable[..., Planted[Any]], Callable[[Any], Any]]] = {
    "cp": (lambda shape, rng, **options: datasets.exact_cp(shape, 3, rng, **options), lambda m: cp_twin(m.blocks)),
    "tucker": (
        lambda shape, rng, **options: datasets.exact_tucker(shape, (2,) * len(shape), rng, **options),
        lambda m: tucker_twin(*m.blocks),
    ),
    "block_term": (
        lambda shape, rng, **options: datasets.exact_block_term(shape, (2,) * len(shape), rng, **options),
        block_term_twin,
    ),
    "chain": (
        lambda shape, rng, **options: datasets.exact_chain(shape, (2, 3, 2, 1, 2)[: len(shape)], rng, **options),
        lambda m: chain_twin(m.blocks),
    ),
}
planted_models = pytest.mark.parametrize("kind", PLANTED)


class TestPlanted:
    @planted_models
    @pytest.mark.parametrize("dtype", DTYPES)
    @given(shape=st.lists(st.integers(2, 5), min_size=2, max_size=4), seed=SEEDS, c=st.sampled_from([None, 0.0, 0.7]))
    def test_equals_its_twin(self, kind: str, dtype: str, shape: list[int], seed: int, c: float | None) -> None:
        generate, twin = PLANTED[kind]
        planted = generate(shape, np.random.default_rng(seed), dtype=dtype, collinearity=c)
        assert planted.tensor.shape == tuple(shape)
        assert planted.tensor.dtype == np.dtype(dtype)
        expected = twin(planted.model)
        assert_allclose(planted.tensor, expected, atol=RELATIVE[dtype] * 10 * max(1.0, np.abs(expected).max()))

    @planted_models
    @pytest.mark.parametrize("dtype", DTYPES)
    @given(seed=SEEDS, noise=st.floats(1e-3, 10.0))
    def test_noise_is_met_exactly(self, kind: str, dtype: str, seed: int, noise: float) -> None:
        planted = PLANTED[kind][0]((4, 3, 5), np.random.default_rng(seed), noise=noise, dtype=dtype)
        clean = planted.model.full()
        assert_allclose(
            np.linalg.norm(planted.tensor - clean),
            noise * np.linalg.norm(clean),
            rtol=1e-3 if dtype == "float32" else 1e-9,
        )

    @planted_models
    def test_a_seed_means_one_tensor(self, kind: str) -> None:
        generate = PLANTED[kind][0]
        once, again, other = (generate((4, 3, 5), np.random.default_rng(seed), noise=0.1) for seed in (1, 1, 2))
        assert_array_equal(once.tensor, again.tensor)
        assert not np.allclose(once.tensor, other.tensor)

    @planted_models
    @pytest.mark.parametrize("c", [None, 0.5])
    def test_single_precision_rounds_double(self, kind: str, c: float | None) -> None:
        double, single = (
            PLANTED[kind][0]((7, 6, 5), np.random.default_rng(0), collinearity=c, dtype=dtype).tensor
            for dtype in ("float64", "float32")
        )
        assert_allclose(single, double, rtol=1e-4, atol=1e-5 * np.abs(double).max())

    @pytest.mark.parametrize("dtype", DTYPES)
    @given(rank=st.integers(1, 6), c=st.floats(0.0, 0.99), seed=SEEDS)
    def test_cosines_are_exact_where_they_can_be(self, dtype: str, rank: int, c: float, seed: int) -> None:
        model = datasets.exact_cp((6, 7), rank, np.random.default_rng(seed), collinearity=c, dtype=dtype).model
        for factor in model.blocks:
            cosines = (1.0 - c) * np.eye(rank) + c
            assert_allclose(factor.conj().T @ factor, cosines, atol=10 * RELATIVE[dtype])

    def test_cosines_of_wide_blocks_have_the_right_mean(self) -> None:
        model = datasets.exact_chain((20,) * 3, (12,) * 3, np.random.default_rng(0), collinearity=0.6).model
        for core in model.blocks:
            fibres = np.moveaxis(core, 1, 0).reshape(20, -1)
            cosines = fibres.T @ fibres
            assert_allclose(np.diag(cosines), 1.0)
            assert_allclose(cosines[~np.eye(144, dtype=bool)].mean(), 0.6, atol=0.01)

    def test_collinearity_of_a_block_term_model_spans_its_terms(self) -> None:
        model = datasets.exact_block_term((8,) * 3, (2,) * 3, np.random.default_rng(0), terms=3, collinearity=0.4).model
        stacked = np.concatenate([term.blocks[1] for term in model.terms], axis=1)
        assert_allclose(stacked.T @ stacked, 0.6 * np.eye(6) + 0.4, atol=1e-12)

    def test_condition_of_collinear_tucker_factors(self) -> None:
        model = datasets.exact_tucker((9,) * 3, (4,) * 3, np.random.default_rng(0), collinearity=0.9).model
        assert_allclose(np.linalg.cond(model.blocks[1]), np.sqrt((1 + 3 * 0.9) / (1 - 0.9)))

    @pytest.mark.parametrize("size", [1, 2])
    def test_modes_of_size_one(self, size: int) -> None:
        planted = datasets.exact_chain((size, 3, 1), (2, 2, 2), np.random.default_rng(0), collinearity=0.5)
        assert np.isfinite(planted.tensor).all()


def wolf(a: Any, b: Any) -> Any:
    """The tangent b o a o a + a o b o a + a o a o b."""
    (a1, a2, a3), (b1, b2, b3) = a, b
    return sum(np.einsum("i,j,k->ijk", *vectors) for vectors in ((b1, a2, a3), (a1, b2, a3), (a1, a2, b3)))


def hyperdeterminant(t: Any) -> float:
    """Cayley's, of a 2 x 2 x 2 tensor: positive at real rank 2, zero on the border, negative at rank 3."""
    pencil = [t[:, :, 0], t[:, :, 1]]
    # det(P + x Q) is a quadratic in x, and its discriminant is the hyperdeterminant.
    c, a = np.linalg.det(pencil[0]), np.linalg.det(pencil[1])
    b = np.linalg.det(pencil[0] + pencil[1]) - a - c
    return float(b * b - 4.0 * a * c)


BORDERS: dict[str, Callable[..., Border[Any]]] = {
    "cp of rank 2": lambda rng, **options: datasets.border_cp((4, 3, 5), rng, **options),
    "cp of rank 5": lambda rng, **options: datasets.border_cp((6, 5, 7), rng, rank=5, **options),
    "cp of order 5": lambda rng, **options: datasets.border_cp((2, 3, 2, 4, 3), rng, rank=4, **options),
    "chain": lambda rng, **options: datasets.border_chain((5, 4, 6), (3, 3, 3), rng, **options),
    "chain of unequal bonds": lambda rng, **options: datasets.border_chain((5, 4, 6), (2, 4, 3), rng, **options),
    "chain of order 5": lambda rng, **options: datasets.border_chain((3, 2, 4, 2, 3), (2, 3, 2, 4, 2), rng, **options),
}
borders = pytest.mark.parametrize("kind", BORDERS)


class TestBorder:
    @borders
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_point_vanishes(self, kind: str, dtype: str) -> None:
        border = BORDERS[kind](np.random.default_rng(0), dtype=dtype)
        scale = np.prod([np.linalg.norm(block) for block in border.vanishing.blocks])
        assert np.abs(border.vanishing.full()).max() <= RELATIVE[dtype] * scale
        assert border.tensor.dtype == np.dtype(dtype)
        assert_allclose(np.linalg.norm(border.tensor), 1.0, rtol=1e-5)

    @borders
    @given(seed=SEEDS)
    def test_approximants_tend_to_it_linearly(self, kind: str, seed: int) -> None:
        border = BORDERS[kind](np.random.default_rng(seed))
        errors = [np.linalg.norm(border.approximant(step).full() - border.tensor) for step in (1e-4, 1e-5)]
        # The remainder is eps R + eps^2 ..., and a draw may make any of the terms large beside T.
        assert_allclose(errors[0] / errors[1], 10.0, rtol=0.2)

    @borders
    def test_approximants_diverge(self, kind: str) -> None:
        border = BORDERS[kind](np.random.default_rng(0))
        order = border.tensor.ndim
        near, far = (np.linalg.norm(border.approximant(step).blocks[1]) for step in (1e-9, 1e-6))
        assert_allclose(near / far, 1e3 ** (1 / order), rtol=1e-3)
        assert border.approximant(1e-6).sensitivity() > 100 * border.approximant(1e-2).sensitivity()

    def test_cp_equals_its_formula(self) -> None:
        border = datasets.border_cp((4, 3, 5), np.random.default_rng(0))
        a = [block[:, 0] for block in border.vanishing.blocks]
        b = [block[:, 0] for block in border.directions]
        assert_allclose(border.tensor, wolf(a, b), atol=1e-13)

    def test_cp_of_odd_rank_adds_a_rank_one_tensor(self) -> None:
        border = datasets.border_cp((4, 3, 5), np.random.default_rng(0), rank=3)
        a, b = ([block[:, 0] for block in blocks] for blocks in (border.vanishing.blocks, border.directions))
        c = [border.directions[0][:, 2], *(block[:, 2] for block in border.vanishing.blocks[1:])]
        assert_allclose(border.tensor, wolf(a, b) + np.einsum("i,j,k->ijk", *c), atol=1e-13)

    @given(seed=SEEDS)
    def test_cp_lies_on_the_border_and_approximants_inside(self, seed: int) -> None:
        border = datasets.border_cp((2, 2, 2), np.random.default_rng(seed))
        assert abs(hyperdeterminant(border.tensor)) < 1e-12
        inside = [hyperdeterminant(border.approximant(step).full()) for step in (1e-2, 1e-3)]
        assert inside[0] > inside[1] > 0.0

    def test_chain_equals_its_formula(self) -> None:
        border = datasets.border_chain((4, 3, 5), (2, 3, 4), np.random.default_rng(0))
        (a1, a2, a3), (b1, b2, b3) = border.vanishing.blocks, border.directions
        assert_allclose(
            border.tensor, chain_twin((b1, a2, a3)) + chain_twin((a1, b2, a3)) + chain_twin((a1, a2, b3)), atol=1e-13
        )

    def test_a_seed_means_one_tensor(self) -> None:
        once, again = (datasets.border_chain((4, 3, 5), (2, 2, 2), np.random.default_rng(3)).tensor for _ in range(2))
        assert_array_equal(once, again)


class TestBadGauge:
    @planted_models
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @given(seed=SEEDS, condition=st.floats(1.0, 1e3))
    def test_tensor_stays(self, kind: str, dtype: str, seed: int, condition: float) -> None:
        rng = np.random.default_rng(seed)
        good = PLANTED[kind][0]((4, 3, 5), rng, dtype=dtype).model
        bad = datasets.bad_gauge(good, condition, rng)
        assert type(bad) is type(good)
        assert [block.shape for block in bad.blocks] == [block.shape for block in good.blocks]
        size = np.prod([np.linalg.norm(block) for block in bad.blocks])
        assert_allclose(bad.full(), good.full(), atol=1e-13 * size)

    @planted_models
    def test_sensitivity_grows(self, kind: str) -> None:
        rng = np.random.default_rng(0)
        good = PLANTED[kind][0]((4, 3, 5), rng).model
        sensitivities = [datasets.bad_gauge(good, 10.0**k, rng).sensitivity() for k in range(5)]
        assert all(later > 3 * sooner for sooner, later in itertools.pairwise(sensitivities[1:]))

    def test_spread_of_cp_columns_is_the_condition(self) -> None:
        good = datasets.exact_cp((4, 3, 5), 3, np.random.default_rng(0)).model
        bad = datasets.bad_gauge(good, 1e4, np.random.default_rng(1))
        growth = np.array(
            [
                np.linalg.norm(new, axis=0) / np.linalg.norm(old, axis=0)
                for new, old in zip(bad.blocks, good.blocks, strict=True)
            ]
        )
        assert_allclose(growth.prod(axis=0), 1.0)
        assert_allclose(growth.max(axis=0) / growth.min(axis=0), 1e4)

    def test_a_bond_of_size_one_takes_the_root_of_the_condition(self) -> None:
        good = datasets.exact_chain((4, 3, 5), (1, 2, 2), np.random.default_rng(0)).model
        bad = datasets.bad_gauge(good, 100.0, np.random.default_rng(1))
        assert_allclose(bad.full(), good.full(), atol=1e-10)
        train = datasets.exact_chain((4, 3), (1, 1), np.random.default_rng(0)).model
        moved = datasets.bad_gauge(train, 100.0, np.random.default_rng(1))
        # Each core takes one root and gives up the other.
        for new, old in zip(moved.blocks, train.blocks, strict=True):
            assert_allclose(np.abs(new), np.abs(old))

    def test_condition_of_tucker_factors(self) -> None:
        orthogonal = datasets.exact_tucker((8, 8), (4, 4), np.random.default_rng(0), collinearity=0.0).model
        bad = datasets.bad_gauge(orthogonal, 50.0, np.random.default_rng(1))
        assert_allclose([np.linalg.cond(factor) for factor in bad.blocks[1:]], 50.0)

    def test_refuses_what_it_does_not_know(self) -> None:
        with pytest.raises(TypeError, match="model is ndarray, but CP, Tucker"):
            datasets.bad_gauge(np.ones((2, 2)), 2.0, np.random.default_rng(0))  # type: ignore[type-var]


class TestFunctions:
    @pytest.mark.parametrize(("order", "size"), [(2, 7), (3, 5), (5, 4)])
    def test_inverse_radius(self, order: int, size: int) -> None:
        x = np.stack(np.meshgrid(*[np.linspace(0, 1, size)] * order, indexing="ij"))
        assert_allclose(datasets.inverse_radius(order, size), (1 + (x**2).sum(axis=0)) ** -0.5)

    def test_inverse_radius_by_default(self) -> None:
        assert datasets.inverse_radius().shape == (10,) * 5

    @pytest.mark.parametrize(("order", "size"), [(2, 7), (3, 5), (5, 4)])
    def test_rosenbrock(self, order: int, size: int) -> None:
        x = np.stack(np.meshgrid(*[np.linspace(-2, 2, size)] * order, indexing="ij"))
        expected = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(axis=0)
        assert_allclose(datasets.rosenbrock(order, size), expected)

    def test_rosenbrock_is_an_open_chain_of_bonds_three(self) -> None:
        tensor = datasets.rosenbrock(5, 6)
        ranks = [int(np.linalg.matrix_rank(tensor.reshape(6**n, -1))) for n in range(1, 5)]
        assert ranks == [3, 3, 3, 3]

    @pytest.mark.parametrize("shape", [(3, 3), (2, 5, 3), (2, 3, 2, 3)])
    def test_hilbert(self, shape: tuple[int, ...]) -> None:
        assert_allclose(datasets.hilbert(shape), 1 / (np.indices(shape).sum(axis=0) + 1))

    def test_hilbert_of_order_two_is_hilberts_matrix(self) -> None:
        scipy_linalg = pytest.importorskip("scipy.linalg")
        assert_allclose(datasets.hilbert((6, 6)), scipy_linalg.hilbert(6))


class TestBilinear:
    @given(n=st.integers(1, 4), m=st.integers(1, 4), p=st.integers(1, 4), seed=SEEDS)
    def test_multiplies_matrices(self, n: int, m: int, p: int, seed: int) -> None:
        tensor = datasets.matmul(n, m, p)
        twin = np.einsum("jJ,kK,iI->ijJkKI", np.eye(m), np.eye(p), np.eye(n)).reshape(n * m, m * p, p * n)
        assert_array_equal(tensor, twin)
        assert np.sum(tensor**2) == n * m * p
        rng = np.random.default_rng(seed)
        a, b, c = rng.random((n, m)), rng.random((m, p)), rng.random((p, n))
        assert_allclose(np.einsum("xyz,x,y,z", tensor, a.ravel(), b.ravel(), c.ravel()), np.trace(a @ b @ c))

    def test_is_a_chain_of_bonds_n_m_p(self) -> None:
        n, m, p = 2, 3, 4
        cores = [
            np.einsum("iI,jJ->iIJj", np.eye(rows), np.eye(columns)).reshape(rows, -1, columns)
            for rows, columns in ((n, m), (m, p), (p, n))
        ]
        assert_array_equal(TensorChain(cores).full(), datasets.matmul(n, m, p))

    def test_strassen_is_exact(self) -> None:
        planted = datasets.strassen()
        assert planted.model.rank == 7
        assert_array_equal(cp_twin(planted.model.blocks), datasets.matmul(2, 2, 2))
        assert_array_equal(planted.tensor, datasets.matmul(2, 2, 2))


class TestKernelLike:
    @pytest.mark.parametrize("decay", [0.0, 0.3, 0.7, 1.0, 2.0])
    @pytest.mark.parametrize("shape", [(16, 9, 32), (8, 8, 3, 3), (6, 6), (64, 9, 64), (3, 1, 3)])
    @pytest.mark.parametrize("seed", range(3))
    def test_spectra_are_the_power_law(self, shape: tuple[int, ...], decay: float, seed: int) -> None:
        tensor = datasets.kernel_like(shape, decay, np.random.default_rng(seed))
        assert tensor.shape == shape
        assert_allclose(np.linalg.norm(tensor), 1.0)
        for mode, size in enumerate(shape):
            values = np.linalg.svd(unfold(tensor, mode), compute_uv=False)
            assert_allclose(values / values[0], np.arange(1.0, size + 1) ** -decay, rtol=3e-3)

    def test_is_random(self) -> None:
        once, again, other = (datasets.kernel_like((8, 9, 8), 0.7, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert_array_equal(once, again)
        assert abs(np.vdot(once, other)) < 0.3

    def test_refuses_spectra_that_no_tensor_has(self) -> None:
        with pytest.raises(ValueError, match=r"shape\[2\] is 7, but at most 6 is needed"):
            datasets.kernel_like((2, 3, 7), 0.5, np.random.default_rng(0))
        with pytest.raises(ValueError, match="choose a smaller decay"):
            datasets.kernel_like((16, 9, 16), 40.0, np.random.default_rng(0))


class TestCorruptions:
    @pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_noise_at_any_scale(self, scale: float, dtype: str) -> None:
        clean = np.full((4, 5), scale, dtype=dtype)
        noisy = datasets.add_noise(clean, 0.3, np.random.default_rng(0))
        assert_allclose(np.linalg.norm(noisy / scale - 1.0), 0.3 * np.sqrt(20))

    def test_no_noise_is_a_copy(self) -> None:
        clean = np.ones((2, 3))
        same = datasets.add_noise(clean, 0.0, np.random.default_rng(0))
        assert_array_equal(same, clean)
        assert not np.shares_memory(same, clean)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128", "int64"])
    @given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), fraction=st.floats(0.0, 0.999), seed=SEEDS)
    def test_incomplete(self, dtype: str, shape: list[int], fraction: float, seed: int) -> None:
        full = np.ones(shape, dtype=dtype)
        observed, mask = datasets.incomplete(full, fraction, np.random.default_rng(seed))
        assert_array_equal(np.isnan(observed), ~mask)
        assert_array_equal(observed[mask], full[mask])
        assert (~mask).sum() == round(fraction * full.size)
        assert observed.dtype == (np.float64 if dtype == "int64" else np.dtype(dtype))
        assert_array_equal(full, 1)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
    @given(fraction=st.floats(0.0, 1.0), seed=SEEDS)
    def test_outliers(self, dtype: str, fraction: float, seed: int) -> None:
        clean = np.full((4, 3, 5), 2.0, dtype=dtype)
        corrupted, where = datasets.outliers(clean, fraction, 10.0, np.random.default_rng(seed))
        assert where.sum() == round(fraction * 60)
        assert_array_equal(corrupted[~where], clean[~where])
        assert_allclose(np.abs(corrupted - clean)[where], 20.0, rtol=1e-5)
        assert_array_equal(clean, 2.0)

    def test_outliers_have_both_signs(self) -> None:
        corrupted, _ = datasets.outliers(np.ones((20, 20)), 1.0, 1.0, np.random.default_rng(0))
        assert set(np.unique(corrupted)) == {0.0, 2.0}


class TestPictures:
    def test_swimmer_has_known_parts(self) -> None:
        swimmer = datasets.swimmer().reshape(1024, 256)
        assert set(np.unique(swimmer)) == {0.0, 1.0}
        assert len(np.unique(swimmer, axis=1).T) == 256
        assert np.linalg.matrix_rank(swimmer) == 13
        # Torso of 20 pixels and 4 limbs of 9: that no pixel is drawn twice makes the parts unique.
        assert_array_equal(swimmer.sum(axis=0), 20 + 4 * 9)
        poses = swimmer.reshape(1024, 4, 4, 4, 4)
        torso = poses.min(axis=(1, 2, 3, 4))
        parts = [np.moveaxis(poses, 1 + limb, 1).min(axis=(2, 3, 4)) - torso[:, None] for limb in range(4)]
        rebuilt = torso[:, None, None, None, None] + sum(
            part.reshape(1024, *(4 if other == limb else 1 for other in range(4))) for limb, part in enumerate(parts)
        )
        assert_array_equal(rebuilt, poses)

    @given(digits=st.lists(st.integers(2, 4), min_size=1, max_size=4), channels=st.sampled_from([(), (1,), (3,)]))
    def test_fold_follows_the_digits(self, digits: list[int], channels: tuple[int, ...]) -> None:
        side = int(np.prod(digits))
        image = np.random.default_rng(0).random((side, side, *channels))
        folded = datasets.fold_image(image, digits)
        assert folded.shape == (*(d * d for d in digits), *channels)
        row, column = side // 2, side - 1
        pairs = zip(np.unravel_index(row, digits), np.unravel_index(column, digits), digits, strict=True)
        assert_array_equal(folded[tuple(r * d + c for r, c, d in pairs)], image[row, column])
        assert_array_equal(datasets.unfold_image(folded, digits), image)

    @pytest.mark.parametrize("shape", [(6, 5), (4, 4), (6,), (6, 6, 3, 1)])
    def test_fold_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="need a square of side 6"):
            datasets.fold_image(np.zeros(shape), (2, 3))

    @pytest.mark.parametrize("shape", [(4, 4), (4,), (4, 9, 3, 1)])
    def test_unfold_refuses_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"digits \(2, 3\) need \(4, 9\)"):
            datasets.unfold_image(np.zeros(shape), (2, 3))

    @pytest.mark.parametrize("digits", [(), (6, 1)])
    def test_fold_refuses_other_digits(self, digits: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="digits"):
            datasets.fold_image(np.zeros((6, 6)), digits)


class TestMeasured:
    @pytest.mark.parametrize("name", ["china", "flower"])
    def test_photograph_is_the_middle_of_the_picture(self, name: Any) -> None:
        pytest.importorskip("sklearn")
        pytest.importorskip("PIL")
        whole = datasets.photograph(name, None)
        assert whole.shape == (427, 640, 3)
        folded = datasets.photograph(name)
        assert folded.shape == (16, 16, 16, 16, 3)
        assert 0.0 <= folded.min() < 0.1
        assert 0.9 < folded.max() <= 1.0
        assert_array_equal(datasets.unfold_image(folded, (4, 4, 4, 4)), whole[85:341, 192:448])

    def test_photograph_checks_its_arguments(self) -> None:
        pytest.importorskip("sklearn")
        pytest.importorskip("PIL")
        with pytest.raises(ValueError, match="'china' or 'flower' is needed"):
            datasets.photograph("lena")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a side of 512"):
            datasets.photograph("china", (8, 8, 8))

    def test_fluorescence_marks_its_gaps(self) -> None:
        pytest.importorskip("tensorly")
        tensor = datasets.fluorescence()
        assert tensor.shape == (59, 12, 10, 60)
        assert tensor.flags.c_contiguous
        assert np.isnan(tensor).sum() == 1715

    def test_fluorescence_filled_is_smooth_and_nearly_of_low_rank(self) -> None:
        pytest.importorskip("tensorly")
        marked, filled = datasets.fluorescence(), datasets.fluorescence("fill")
        assert filled.shape == (58, 12, 10, 60)
        assert np.isfinite(filled).all()
        kept = np.delete(marked, 27, axis=0)
        known = ~np.isnan(kept)
        assert (~known).sum() == 154
        assert_array_equal(filled[known], kept[known])
        for mode in range(4):
            energy = np.cumsum(np.linalg.svd(unfold(filled, mode), compute_uv=False) ** 2)
            assert energy[5] / energy[-1] > 0.999

    def test_fluorescence_checks_its_argument(self) -> None:
        pytest.importorskip("tensorly")
        with pytest.raises(ValueError, match="'nan' or 'fill' is needed"):
            datasets.fluorescence("zero")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("load", "absent"),
        [
            (datasets.photograph, "sklearn.datasets"),
            (datasets.photograph, "PIL"),
            (datasets.fluorescence, "tensorly.datasets"),
        ],
    )
    def test_a_missing_package_names_its_extra(
        self, load: Callable[[], Any], absent: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, absent, None)
        with pytest.raises(ImportError, match=r'pip install "tensorchain\[figures\]"'):
            load()


RNG = np.random.default_rng(0)


class TestArguments:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: datasets.exact_cp((3,), 2, RNG), "at least two modes"),
            (lambda: datasets.exact_cp((3, 0), 2, RNG), r"shape\[1\] is 0, but at least 1 is needed"),
            (lambda: datasets.exact_cp((3, 3), 0, RNG), "rank is 0, but at least 1 is needed"),
            (lambda: datasets.exact_cp((3, 3), 2, RNG, collinearity=1.0), r"collinearity is 1, .* \[0, 1\) is needed"),
            (lambda: datasets.exact_cp((3, 3), 2, RNG, collinearity=-0.1), "collinearity is -0.1"),
            (lambda: datasets.exact_cp((3, 3), 2, RNG, noise=-1.0), r"noise is -1, .* \[0, inf\) is needed"),
            (lambda: datasets.exact_cp((3, 3), 2, RNG, noise=np.nan), "noise is nan"),
            (lambda: datasets.exact_cp((3, 3), 2, RNG, dtype="int32"), "dtype is int32, but one of float32, float64"),
            (lambda: datasets.exact_tucker((3, 3), (2, 4), RNG), r"ranks\[1\] is 4, but mode 1 has size 3"),
            (lambda: datasets.exact_tucker((3, 3), (2,), RNG), "ranks has 1 entries, but the shape has 2 modes"),
            (lambda: datasets.exact_block_term((3, 3), (2, 2), RNG, terms=0), "terms is 0"),
            (lambda: datasets.exact_chain((3, 3, 3), (2, 2), RNG), "bonds has 2 entries, but the shape has 3 modes"),
            (lambda: datasets.border_cp((3, 3), RNG), "needs order 3"),
            (lambda: datasets.border_cp((3, 3, 1), RNG), r"shape\[2\] is 1"),
            (lambda: datasets.border_cp((3, 3, 3), RNG, rank=1), "rank is 1, but at least 2 is needed"),
            (lambda: datasets.border_chain((3, 3, 3), (2, 1, 2), RNG), r"bonds\[1\] is 1, but at least 2 is needed"),
            (lambda: datasets.border_cp((3, 3, 3), RNG).approximant(0.0), "epsilon is 0"),
            (lambda: datasets.bad_gauge(CP([np.eye(2)] * 3), 0.5, RNG), r"condition is 0.5, .* \[1, inf\) is needed"),
            (lambda: datasets.incomplete(np.ones(3), 1.0, RNG), r"fraction is 1, .* \[0, 1\) is needed"),
            (lambda: datasets.outliers(np.ones(3), 1.1, 1.0, RNG), r"fraction is 1.1, .* \[0, 1\] is needed"),
            (lambda: datasets.kernel_like((3, 3), -1.0, RNG), "decay is -1"),
            (lambda: datasets.inverse_radius(1), "order is 1, but at least 2 is needed"),
            (lambda: datasets.rosenbrock(3, 1), "size is 1, but at least 2 is needed"),
            (lambda: datasets.matmul(0, 2, 2), "n is 0, but at least 1 is needed"),
        ],
    )
    def test_value_errors_say_what_is_needed(self, call: Callable[[], Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: datasets.exact_cp((3, 3), 2, 0), r"pass numpy.random.default_rng\(seed\)"),
            (lambda: datasets.border_chain((3, 3, 3), (2, 2, 2), None), r"pass numpy.random.default_rng\(seed\)"),
            (lambda: datasets.exact_cp((3, 3), 2.5, RNG), "rank is 2.5, but an integer is needed"),
            (lambda: datasets.exact_cp(3, 2, RNG), "shape is 3, but a sequence of integers is needed"),
            (lambda: datasets.add_noise(np.array(["a"]), 0.1, RNG), "numbers are needed"),
        ],
    )
    def test_type_errors_say_what_is_needed(self, call: Callable[[], Any], message: str) -> None:
        with pytest.raises(TypeError, match=message):
            call()

    def test_numpy_integers_are_integers(self) -> None:
        planted = datasets.exact_cp(np.array([3, 4]), np.int64(2), np.random.default_rng(0))  # type: ignore[arg-type]
        assert planted.tensor.shape == (3, 4)
        assert isinstance(planted.model, CP)

    def test_models_are_of_their_kind(self) -> None:
        assert isinstance(PLANTED["tucker"][0]((3, 3), RNG).model, Tucker)
        assert isinstance(PLANTED["chain"][0]((3, 3), RNG).model, TensorChain)
