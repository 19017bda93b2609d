"""Sampled alternating least squares: its draws, its error bars, and where it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.solvers.sampled import SampledALS, draw, estimate_error, leverages
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.lazy import Lazy
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.sampling import fibers
from tensorchain.tensors.sparse import Sparse
from tests.cases import THREE, Case, four_models, gaussian, mostly_slow, relative

SHAPE = (30, 25, 20)
RANKS = {"cp": 3, "tucker": (2, 3, 2), "btd": [(2, 2, 2), (1, 2, 2)], "tc": (2, 2, 2)}


def planted(name: str, noise: float = 0.0, dtype: str = "float64") -> tuple[Any, Any]:
    """A tensor of norm 1 with its exact part, and a start close enough to find it."""
    rng = np.random.default_rng(3)
    kind = tc.Model.registry[name]
    truth = kind.random(SHAPE, RANKS[name], rng, dtype=dtype)
    truth = truth.scaled(1.0 / truth.norm())
    start = truth.with_matrices([m + 0.1 * m.std() * gaussian(m.shape, m.dtype, rng) for m in truth.matrices])
    tensor = truth.full() + noise * gaussian(SHAPE, dtype, rng) / np.sqrt(np.prod(SHAPE))
    return tensor, start


class TestDraws:
    @pytest.mark.parametrize("case", [*THREE, *(case.as_type("complex128") for case in THREE)], ids=str)
    def test_leverages_are_the_diagonal_of_the_projection(self, case: Case) -> None:
        for matrix in case.model().matrices:
            rows, width = matrix.shape
            projection = matrix @ np.linalg.pinv(matrix)
            expected = 0.9 * projection.diagonal().real / min(rows, width) + 0.1 / rows
            assert np.allclose(leverages(matrix), expected)

    @pytest.mark.parametrize("case", four_models(4), ids=str)
    def test_weighted_samples_are_unbiased(self, case: Case) -> None:
        """Their mean is the sum over all rows: the Gram of the block."""
        model = case.model()
        for k in range(len(model.matrices)):
            positions, weights = draw(model, k, 200_000, np.random.default_rng(0))
            rows = model.design_rows(k, positions)
            assert relative((rows.T * weights) @ rows, model.gram(k)) < 0.03

    def test_product_of_leverages_bounds_the_leverage(self) -> None:
        """Of every row of L_k, up to the uniform part and the ratio of the numbers of columns."""
        model = tc.TensorChain.random((8, 9, 7), (2, 2, 2), 0)
        positions = np.stack(np.meshgrid([0], range(9), range(7), indexing="ij"), axis=-1).reshape(-1, 3)
        rows = model.design_rows(0, positions)
        exact = np.sum(np.linalg.qr(rows)[0] ** 2, axis=1)
        second, third = (leverages(model.matrices[n]) for n in (1, 2))
        product = (second[positions[:, 1]] * 4) * (third[positions[:, 2]] * 4)
        assert np.all(exact <= product / 0.9**2 + 1e-12)


class TestFits:
    @pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
    @pytest.mark.parametrize("name", RANKS)
    def test_exact_tensors_are_found(self, name: str, dtype: str) -> None:
        tensor, start = planted(name, dtype=dtype)
        fit = tc.decompose(tensor, init=start, solver=SampledALS(samples=150, max_iter=100, patience=20), rng=0)
        assert fit.error < (1e-5 if dtype == "float32" else 1e-9)
        assert relative(fit.model.full(), tensor) < 2e-5

    @pytest.mark.parametrize("name", RANKS)
    def test_noise_costs_little_more_than_all_data(self, name: str) -> None:
        tensor, start = planted(name, noise=0.3)
        all_data = tc.decompose(tensor, init=start, solver=tc.ALS(max_iter=50))
        sampled = tc.decompose(tensor, init=start, solver=SampledALS(samples=300, max_iter=50), rng=0)
        assert all_data.error <= sampled.error * (1 + 1e-9)
        assert sampled.error < 1.06 * all_data.error

    def test_the_error_of_the_fit_is_the_true_one(self) -> None:
        tensor, start = planted("tc", noise=0.3)
        fit = tc.decompose(tensor, init=start, solver=SampledALS(samples=100, max_iter=10), rng=0)
        assert fit.error == pytest.approx(relative(fit.model.full(), tensor), rel=1e-6)

    def test_only_the_sample_is_read(self) -> None:
        """Beside the norm; a sweep reads S fibers for each block."""
        tensor, start = planted("cp", noise=0.3)
        read = []

        class Disk:
            shape, dtype = tensor.shape, tensor.dtype

            def __getitem__(self, index: Any) -> Any:
                piece = tensor[index]
                read.append(piece.size)
                return piece

        solver = SampledALS(samples=10, held_out=100, max_iter=1, final_pass=False)
        tc.decompose(Lazy(Disk()), init=start, solver=solver, rng=0)
        assert sum(read) == tensor.size + 100 + 10 * sum(SHAPE)

    @pytest.mark.parametrize(
        "constraint", mostly_slow([tc.Penalty(1e-3), tc.SensitivityBound(30.0), tc.ErrorBound(0.5)], 2)
    )
    def test_constraints(self, constraint: Any) -> None:
        tensor, start = planted("tc", noise=0.3)
        options = {"init": start, "constraint": constraint, "rng": 0}
        plain = tc.decompose(tensor, solver=tc.ALS(max_iter=60), **options)
        sampled = tc.decompose(tensor, solver=SampledALS(samples=400, max_iter=60, patience=60), **options)
        assert sampled.error == pytest.approx(plain.error, rel=0.05)
        assert sampled.sensitivity == pytest.approx(plain.sensitivity, rel=0.25)

    def test_the_same_seed_gives_the_same_fit(self) -> None:
        tensor, start = planted("cp", noise=0.3)
        runs = [tc.decompose(tensor, init=start, solver=SampledALS(max_iter=5), rng=seed) for seed in (1, 1, 2)]
        assert np.array_equal(runs[0].model.full(), runs[1].model.full())
        assert not np.array_equal(runs[0].model.full(), runs[2].model.full())

    def test_stop_reasons(self) -> None:
        tensor, start = planted("cp", noise=0.3)
        reasons = {
            tc.decompose(tensor, init=start, solver=solver, rng=0).reason
            for solver in (SampledALS(max_iter=2), SampledALS(patience=2, tol=0.5))
        }
        exact, start = planted("cp")
        reasons.add(tc.decompose(exact, init=start, solver=SampledALS(patience=30), rng=0).reason)
        assert reasons == {tc.StopReason.ITERATION_LIMIT, tc.StopReason.CONVERGED, tc.StopReason.EXACT}

    def test_a_run_that_was_stopped_goes_on_to_the_same_end(self, tmp_path: Path) -> None:
        tensor, start = planted("tc", noise=0.3)
        solver, path = SampledALS(samples=50, max_iter=8, patience=8), tmp_path / "run.ckpt"
        whole = tc.decompose(tensor, init=start, solver=solver, rng=0)
        options = {"init": start, "solver": solver, "rng": 0, "checkpoint": path}
        tc.decompose(tensor, callback=lambda iterate: iterate.iteration == 3, **options)
        resumed = tc.decompose(tensor, **options)
        assert relative(resumed.model.full(), whole.model.full()) < 1e-12


class TestErrorBars:
    def test_they_cover_the_truth(self) -> None:
        """Two standard errors hold the true error in 95 of 100 samples; 85 is what chance lets pass."""
        tensor, start = planted("cp", noise=0.5)
        truth = relative(start.full(), tensor)
        estimates = [estimate_error(start, tensor, samples=400, rng=seed) for seed in range(100)]
        inside = [abs(estimate.value - truth) < 2.0 * estimate.standard_error for estimate in estimates]
        assert sum(inside) >= 85
        spread = np.std([estimate.value for estimate in estimates])
        assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.3)

    def test_an_exact_model_has_no_error(self) -> None:
        model = tc.CP.random((4, 5), 1, 0)
        assert dataclasses.astuple(
            estimate_error(tc.CP([np.ones((4, 1)), np.ones((5, 1))]), np.zeros((4, 5)) + 1.0)
        ) == (
            0.0,
            0.0,
        )
        assert estimate_error(model, Dense(model.full()), samples=10, rng=0).value < 1e-15

    def test_refused(self) -> None:
        model = tc.CP.random((4, 5), 1, 0)
        with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
            estimate_error(model, np.ones((5, 4)))
        with pytest.raises(ValueError, match="two or more"):
            estimate_error(model, np.ones((4, 5)), samples=1)
        for name in ("samples", "held_out"):
            with pytest.raises(ValueError, match=name):
                SampledALS(**{name: 1})


class TestFibers:
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 3, 2)])
    def test_every_mode_of_every_source(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        array = rng.standard_normal(shape)
        disk = np.memmap(tmp_path / "T.bin", dtype=float, mode="w+", shape=shape)
        disk[:] = array
        positions = rng.integers(0, shape, (3, len(shape)))
        for source in (Dense(array), Lazy(disk), Lazy(dask.array.from_array(array, chunks=2))):
            for mode in range(len(shape)):
                expected = [np.moveaxis(array, mode, -1)[tuple(np.delete(z, mode))] for z in positions]
                assert np.allclose(fibers(source.scaled(0.5), mode, positions), 0.5 * np.array(expected))
            single = fibers(source, None, positions)
            assert np.allclose(single[:, 0], [array[tuple(z)] for z in positions])

    def test_what_cannot_be_sampled(self) -> None:
        holes = Masked(np.ones((3, 4)), np.ones((3, 4), dtype=bool))
        for source in (holes, Sparse([[0, 0]], [1.0], (3, 4))):
            with pytest.raises(TypeError, match="cannot be sampled"):
                tc.decompose(source, "cp", 1, solver=SampledALS())
