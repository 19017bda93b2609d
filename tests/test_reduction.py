"""A core and its bases stand for the tensor: errors, moments and sensitivities of both are the same."""

from __future__ import annotations

import math
from typing import Any

import dask.array
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.reduction import Reduction, reduce, reduced_shape, worthwhile
from tensorchain.tensors import as_tensor
from tests.cases import gaussian
from tests.tensors.test_lazy import Disk

MODELS = [
    (tc.CP, (9, 12), 3),
    (tc.CP, (11, 9, 8), 3),
    (tc.CP, (7, 6, 2, 8), 4),
    (tc.Tucker, (9, 8, 10), (2, 3, 4)),
    (tc.Tucker, (5, 4, 6, 3, 4), (2, 2, 3, 3, 1)),
    (tc.BlockTerm, (9, 8, 10), [(2, 1, 2), (1, 2, 3)]),
    (tc.TensorChain, (14, 11, 4), (2, 3, 3)),
    (tc.TensorChain, (9, 8, 7, 6), (1, 3, 2, 3)),
    (tc.TensorChain, (3, 4, 3, 4, 5), (2, 1, 2, 2, 2)),
]
DTYPES = ["float64", "complex128", "float32"]


def noisy(kind: Any, shape: Any, rank: Any, dtype: str, share: float = 0.1) -> Any:
    """A model with noise."""
    signal = kind.random(shape, rank, 0, np.result_type(dtype, np.float64)).full()
    noise = gaussian(shape, str(signal.dtype), np.random.default_rng(1))
    return (signal + share * noise * np.linalg.norm(signal) / np.linalg.norm(noise)).astype(dtype)


def multiplied(core: Any, bases: Any) -> Any:
    """core x_1 U_1 ... x_N U_N, one mode after the other."""
    for n, basis in enumerate(bases):
        core = np.moveaxis(np.tensordot(basis, core, axes=(1, n)), 0, n)
    return core


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "shape", "rank"), MODELS)
class TestEquivalence:
    def reduced(self, kind: Any, shape: Any, rank: Any, dtype: str) -> tuple[Any, Reduction, Any]:
        array = noisy(kind, shape, rank, dtype)
        network = kind.wiring(shape, rank)
        reduction = reduce(tc.Dense(array), reduced_shape(network, shape))
        large = kind.random(shape, rank, 2, np.result_type(dtype, np.float64))
        core = large.restrict([slice(size) for size in reduction.core.shape])
        return array, reduction, core.with_row_counts(reduction.row_counts(network))

    def test_bases_are_orthonormal_and_the_core_is_the_projection(
        self, kind: Any, shape: Any, rank: Any, dtype: str
    ) -> None:
        array, reduction, _ = self.reduced(kind, shape, rank, dtype)
        for basis in reduction.bases:
            np.testing.assert_allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-13)
        tolerance = 1e-12 if dtype != "float32" else 1e-5
        projected = multiplied(array.astype(reduction.core.dtype), [basis.conj().T for basis in reduction.bases])
        assert np.linalg.norm(projected - reduction.core) < tolerance * np.linalg.norm(array)
        assert reduction.core.dtype == np.result_type(dtype, np.float64)

    def test_errors_differ_by_the_remainder(self, kind: Any, shape: Any, rank: Any, dtype: str) -> None:
        array, reduction, core = self.reduced(kind, shape, rank, dtype)
        large = reduction.lift(core)
        assert large.shape == shape
        tolerance = 1e-11 if dtype != "float32" else 1e-5
        whole = np.linalg.norm(array.astype(reduction.core.dtype) - large.full()) ** 2
        part = np.linalg.norm(reduction.core - core.full()) ** 2
        assert reduction.remainder + part == pytest.approx(whole, rel=tolerance)
        size = np.linalg.norm(array.astype(reduction.core.dtype))
        relative = math.sqrt(part) / np.linalg.norm(reduction.core)
        assert reduction.error(relative) == pytest.approx(math.sqrt(whole) / size, rel=tolerance)
        assert reduction.core_error(math.sqrt(whole) / size) == pytest.approx(relative, rel=10 * tolerance)

    def test_moments_sensitivity_and_metrics_are_the_same(self, kind: Any, shape: Any, rank: Any, dtype: str) -> None:
        _, reduction, core = self.reduced(kind, shape, rank, dtype)
        large = reduction.lift(core)
        assert large.row_counts == tuple(map(len, large.matrices))
        assert core.sensitivity() == pytest.approx(large.sensitivity(), rel=1e-11)
        for k in range(len(core.matrices)):
            np.testing.assert_allclose(core.moment(k), large.moment(k), rtol=1e-9, atol=1e-11)
            size = np.abs(large.sensitivity_metric(k)).max()
            np.testing.assert_allclose(core.sensitivity_metric(k), large.sensitivity_metric(k), atol=1e-10 * size)
        again = reduction.lower(large)
        for block, twin in zip(core.matrices, again.matrices, strict=True):
            np.testing.assert_allclose(block, twin, atol=1e-12)
        assert again.row_counts == core.row_counts

    def test_a_tensor_of_these_ranks_loses_nothing(self, kind: Any, shape: Any, rank: Any, dtype: str) -> None:
        model = kind.random(shape, rank, 0, np.result_type(dtype, np.float64))
        tensor = tc.Dense(model.full().astype(dtype))
        reduction = reduce(tensor, reduced_shape(model.network, shape))
        assert reduction.floor < (1e-14 if dtype != "float32" else 2e-7)
        assert reduction.error(0.0) == reduction.floor
        lowered = reduction.lower(model)
        assert np.linalg.norm(lowered.full() - reduction.core) < (1e-12 if dtype != "float32" else 1e-5) * model.norm()


class TestBases:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_small_components_survive_the_square(self, dtype: str) -> None:
        # The Gram of each mode has lost the last two: 1e-10 squared is below its rounding.
        rng = np.random.default_rng(0)
        factors = [np.linalg.qr(gaussian((size, 4), dtype, rng))[0] for size in (30, 25, 20)]
        weights = np.array([1.0, 1e-5, 1e-9, 1e-10])
        model = tc.CP([factors[0] * weights, *factors[1:]])
        reduction = reduce(tc.Dense(model.full()), (4, 4, 4))
        assert reduction.floor < 3e-15

    def test_small_components_of_single_precision_survive(self) -> None:
        rng = np.random.default_rng(0)
        factors = [np.linalg.qr(rng.standard_normal((size, 3)))[0] for size in (30, 25, 20)]
        model = tc.CP([factors[0] * [1.0, 1e-2, 1e-5], *factors[1:]])
        reduction = reduce(tc.Dense(model.full().astype("float32")), (3, 3, 3))
        assert reduction.floor < 1e-6

    def test_the_leading_directions_are_taken(self) -> None:
        array = np.random.default_rng(0).standard_normal((12, 13, 14))
        reduction = reduce(tc.Dense(array), (5, 13, 14))
        best = np.linalg.svd(array.reshape(12, -1), compute_uv=False)
        assert reduction.remainder == pytest.approx(np.sum(best[5:] ** 2), rel=1e-12)

    def test_a_zero_tensor_has_bases(self) -> None:
        reduction = reduce(tc.Dense(np.zeros((6, 5, 4))), (2, 2, 2))
        assert reduction.core.shape == (2, 2, 2)
        assert not reduction.core.any()

    @pytest.mark.parametrize("factor", [1e-150, 1e150])
    def test_any_scale(self, factor: float) -> None:
        array = noisy(tc.CP, (9, 8, 7), 2, "float64")
        plain = reduce(tc.Dense(array), (2, 2, 2))
        tensor = tc.Dense(array * factor)
        scaled = reduce(tensor.scaled(1.0 / tensor.norm()), (2, 2, 2))
        assert scaled.floor == pytest.approx(plain.floor, rel=1e-9)
        assert scaled.norm == pytest.approx(1.0)

    def test_a_scaled_tensor_is_the_one_that_is_reduced(self) -> None:
        array = noisy(tc.CP, (9, 8, 7), 2, "float64")
        reduction = reduce(tc.Dense(array).scaled(0.25), (2, 2, 2))
        assert np.linalg.norm(reduction.core) ** 2 + reduction.remainder == pytest.approx(
            np.linalg.norm(array * 0.25) ** 2
        )


class TestOtherData:
    def models(self) -> Any:
        return [(kind, shape, rank) for kind, shape, rank in MODELS if len(shape) > 2]

    def test_few_passes_over_what_is_read_from_disk(self) -> None:
        for kind, shape, rank in self.models():
            array = noisy(kind, shape, rank, "float64")
            sizes = reduced_shape(kind.wiring(shape, rank), shape)
            disk = Disk(array)
            source = tc.Lazy(disk, box_entries=2 * array.size // max(shape))
            expected = reduce(tc.Dense(array), sizes)
            source.norm()
            disk.passes()
            reduction = reduce(source, sizes)
            assert disk.passes() == 2.0
            assert reduction.floor == pytest.approx(expected.floor, rel=0.05)
            np.testing.assert_allclose(
                multiplied(array, [basis.T for basis in reduction.bases]), reduction.core, atol=1e-12
            )

    def test_boxes_smaller_than_two_modes_take_a_pass_for_each(self, monkeypatch: Any) -> None:
        array = noisy(tc.CP, (9, 8, 10), 2, "float32")
        monkeypatch.setattr("tensorchain.tensors.lazy._HELD", 30)
        disk = Disk(array)
        source = tc.Lazy(disk, box_entries=30)
        source.norm()
        disk.passes()
        reduction = reduce(source, (2, 2, 2))
        assert disk.passes() == 3.0
        assert disk.largest <= 30
        assert reduction.floor == pytest.approx(reduce(tc.Dense(array), (2, 2, 2)).floor, rel=0.05)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dask_and_devices(self, dtype: str) -> None:
        torch = pytest.importorskip("torch")
        array = noisy(tc.CP, (14, 11, 9), 3, dtype)
        expected = reduce(tc.Dense(array), (3, 3, 3))
        for data in (dask.array.from_array(array, chunks=(5, 4, 9)), torch.from_numpy(array)):
            reduction = reduce(as_tensor(data), (3, 3, 3))
            assert reduction.floor == pytest.approx(expected.floor, rel=0.05)
            projected = multiplied(array, [basis.conj().T for basis in reduction.bases])
            np.testing.assert_allclose(projected, reduction.core, atol=1e-4 if dtype == "float32" else 1e-11)

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_sparse_data_by_random_products(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        model = tc.CP([gaussian((size, 2), dtype, rng) * (rng.random((size, 2)) < 0.3) for size in (20, 25, 30)])
        positions = np.argwhere(model.full())
        sparse = tc.Sparse(positions, model.full()[tuple(positions.T)], model.shape)
        reduction = reduce(sparse, (2, 2, 2), np.random.default_rng(1))
        assert reduction.floor < 1e-7
        assert np.linalg.norm(multiplied(reduction.core, reduction.bases) - model.full()) < 1e-12 * model.norm()

    def test_missing_entries_are_refused(self) -> None:
        array = np.ones((5, 5, 5))
        array[0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="missing or weighted"):
            reduce(tc.Masked(array), (1, 1, 1))


class TestBounds:
    def test_an_error_below_the_remainder_is_refused(self) -> None:
        reduction = reduce(tc.Dense(noisy(tc.CP, (9, 8, 7), 2, "float64")), (2, 2, 2))
        assert reduction.core_error(reduction.floor * (1 + 1e-9)) < 1e-3
        with pytest.raises(ValueError, match="more columns"):
            reduction.core_error(0.9 * reduction.floor)

    def test_ranks_bound_each_other(self) -> None:
        # A photograph: the middle mode has at most 60 x 3 directions in a chain, however wide its block.
        assert reduced_shape(tc.TensorChain.wiring((384, 640, 3), (3, 20, 20)), (384, 640, 3)) == (60, 180, 3)
        assert reduced_shape(tc.CP.wiring((50, 2, 3), 10), (50, 2, 3)) == (6, 2, 3)
        assert not worthwhile(tc.CP.wiring((5, 5, 5), 5), (5, 5, 5))
        assert worthwhile(tc.CP.wiring((50, 50, 50), 5), (50, 50, 50))
