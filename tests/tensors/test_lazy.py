"""Arrays larger than memory: how often they are read, how much of them is held, and who reads them."""

from __future__ import annotations

import math
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import distributed
import joblib
import numpy as np
import pytest

import tensorchain as tc
from tensorchain.tensors.dense import Dense
from tensorchain.tensors.lazy import Lazy
from tests.cases import THREE, Case, relative

SHAPE = (12, 10, 8)


class Disk:
    """An array that counts what is read from it, as an HDF5 dataset would be."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.entries, self.largest = 0, 0

    def __getitem__(self, box: Any) -> Any:
        piece = self.array[box]
        self.entries += piece.size
        self.largest = max(self.largest, piece.size)
        return piece

    def passes(self) -> float:
        """Reads since the last call, in sizes of the array."""
        passes, self.entries = self.entries / math.prod(self.shape), 0
        return passes


@pytest.fixture
def tensor() -> Any:
    return np.random.default_rng(0).standard_normal(SHAPE)


@pytest.fixture(scope="class")
def cluster() -> Iterator[Any]:
    """A client of two worker processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
        ) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


class TestPasses:
    def test_residual_and_gradient_are_one_pass(self, tensor: Any) -> None:
        disk = Disk(tensor)
        source = Lazy(disk, box_entries=100)
        model = tc.TensorChain.random(SHAPE, 2, 0)
        residual = source.residual(model)
        assert len(residual.gradient) == 3
        assert disk.passes() == 1.0
        assert disk.largest <= 100

    def test_the_norm_is_read_once(self, tensor: Any) -> None:
        disk = Disk(tensor)
        source = Lazy(disk)
        for factor in (1.0, 0.5, 3.0):
            assert source.scaled(factor).norm() == pytest.approx(factor * np.linalg.norm(tensor))
        assert disk.passes() == 1.0

    def test_an_iteration_reads_once(self, tensor: Any) -> None:
        """One pass for the norm, one for the start, one for each step that is tried, one for the model in the end."""
        disk = Disk(tensor)
        fit = tc.decompose(Lazy(disk), "cp", 2, solver=tc.LM(max_iter=5), rng=0)
        assert disk.passes() <= 3 + 5
        assert fit.iterations == 5

    def test_a_sweep_reads_once_for_each_block(self, tensor: Any) -> None:
        """And one pass for the norm, one for the start, one for the model in the end."""
        disk = Disk(tensor)
        tc.decompose(Lazy(disk), "cp", 2, solver=tc.ALS(max_iter=4), rng=0)
        assert disk.passes() == 3 + 4 * 3

    def test_grams_of_modes_are_one_pass_each(self, tensor: Any) -> None:
        disk = Disk(tensor)
        for mode in range(3):
            gram = Lazy(disk, box_entries=20).mode_gram(mode)
            assert relative(gram, Dense(tensor).mode_gram(mode)) < 1e-13
        assert disk.passes() == 3.0


class TestMemory:
    def test_only_boxes_are_held(self, tmp_path: Path) -> None:
        """A file of 32 MB, boxes of 0.5 MB."""
        shape = (256, 128, 128)
        disk = np.memmap(tmp_path / "T.bin", dtype="float64", mode="w+", shape=shape)
        rng = np.random.default_rng(0)
        for row in range(0, 256, 16):
            disk[row : row + 16] = rng.standard_normal((16, 128, 128))
        model = tc.CP.random(shape, 4, 0)
        source = Lazy(disk, box_entries=1 << 16)
        tracemalloc.start()
        assert len(source.residual(model).gradient) == 3
        source.contract_all_but(model, 1)
        source.norm()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.25 * disk.nbytes

    def test_integers_are_converted_box_by_box(self, tmp_path: Path) -> None:
        disk = np.memmap(tmp_path / "T.bin", dtype="int16", mode="w+", shape=SHAPE)
        disk[:] = np.random.default_rng(0).integers(-100, 100, SHAPE)
        source, dense = Lazy(disk, box_entries=90), Dense(np.array(disk))
        model = tc.CP.random(SHAPE, 2, 0)
        assert source.dtype == np.float64
        assert source.norm() == pytest.approx(dense.norm(), rel=1e-14)
        assert relative(source.contract_all_but(model, 2), dense.contract_all_but(model, 2)) < 1e-13

    def test_fortran_order(self, tmp_path: Path) -> None:
        disk = np.memmap(tmp_path / "T.bin", dtype="float32", mode="w+", shape=SHAPE, order="F")
        disk[:] = np.random.default_rng(0).standard_normal(SHAPE)
        model = tc.CP.random(SHAPE, 2, 0)
        source, dense = Lazy(disk, box_entries=90), Dense(np.array(disk, dtype=float))
        assert relative(source.residual(model).gradient[1], dense.residual(model).gradient[1]) < 1e-6

    def test_large_arrays_are_not_read_whole(self) -> None:
        lazy = Lazy(dask.array.zeros((1000, 1000, 1000)))
        with pytest.raises(TypeError, match="not read into memory whole"):
            lazy.to_dense()


class TestDask:
    @pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
    @pytest.mark.parametrize("case", THREE, ids=str)
    def test_schedulers(self, case: Case, scheduler: str) -> None:
        tensor, model = case.tensor(), case.model()
        source, dense = Lazy(dask.array.from_array(tensor, chunks=(2, 3, 2))), Dense(tensor)
        with dask.config.set(scheduler=scheduler):
            residual = source.residual(model)
        assert residual.norm == pytest.approx(dense.residual(model).norm, rel=1e-12)
        for value, expected in zip(residual.gradient, dense.residual(model).gradient, strict=True):
            assert relative(value, expected) < 1e-12

    def test_each_chunk_is_computed_once_for_a_residual(self) -> None:
        calls: list[Any] = []

        def chunk(block_info: Any = None) -> Any:
            where = block_info[None]["array-location"]
            calls.append(where)
            return np.ones([stop - start for start, stop in where])

        array = dask.array.map_blocks(chunk, chunks=((3, 3), (2, 2), (4,)), dtype=float, meta=np.empty((0, 0, 0)))
        with dask.config.set(scheduler="synchronous"):
            source = Lazy(array)
            calls.clear()
            assert len(source.residual(tc.CP.random((6, 4, 4), 2, 0)).gradient) == 3
        assert len(calls) == 4

    def test_many_chunks_are_added_in_a_tree(self) -> None:
        """More chunks than one task adds, cut in every mode."""
        tensor = np.random.default_rng(0).standard_normal(SHAPE)
        source = Lazy(dask.array.from_array(tensor, chunks=2))
        model = tc.TensorChain.random(SHAPE, 2, 0)
        assert relative(source.contract_all_but(model, 1), Dense(tensor).contract_all_but(model, 1)) < 1e-12
        assert relative(source.mode_gram(0), Dense(tensor).mode_gram(0)) < 1e-12

    def test_unknown_chunks_are_refused(self) -> None:
        array = dask.array.from_array(np.arange(12.0).reshape(4, 3), chunks=2)
        with pytest.raises(ValueError, match="compute_chunk_sizes"):
            Lazy(array[array[:, 0] > 2])

    @pytest.mark.slow
    def test_a_cluster_of_two_processes(self, cluster: Any) -> None:
        """The client that is active is used: the chunks are contracted on its workers."""
        tensor = np.random.default_rng(0).standard_normal(SHAPE)
        array = dask.array.from_array(tensor, chunks=(4, 5, 8))
        options = {"solver": tc.LM(max_iter=4), "rng": 0}
        fit = tc.decompose(Lazy(array), "tc", 2, **options)
        worked = cluster.run(lambda: "tensorchain.tensors.lazy" in sys.modules)
        assert list(worked.values()) == [True, True]
        assert relative(fit.model.full(), tc.decompose(tensor, "tc", 2, **options).model.full()) < 1e-8

    @pytest.mark.slow
    def test_starts_on_a_cluster(self, cluster: Any) -> None:
        """Each start runs on a worker, through joblib's backend; every outcome comes back."""
        tensor = np.random.default_rng(0).standard_normal((4, 5, 3))
        options = {"rng": 0, "starts": 6, "solver": tc.ALS(max_iter=20)}
        with joblib.parallel_config("dask"):
            fit = tc.decompose(tensor, "tc", 2, **options, jobs=2)
        ran = cluster.run(lambda: "tensorchain.solvers.als" in sys.modules)
        assert list(ran.values()) == [True, True]
        alone = tc.decompose(tensor, "tc", 2, **options, jobs=1)
        # Workers may run other BLAS kernels and threads than this process.
        assert relative(fit.model.full(), alone.model.full()) < 1e-8
        for name in ("error", "sensitivity"):
            mine, expected = (sorted(getattr(start, name) for start in f.starts) for f in (fit, alone))
            assert mine == pytest.approx(expected, rel=1e-8)
        assert {start.reason for start in fit.starts} == {start.reason for start in alone.starts}


class TestInput:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_is_found_when_the_data_are_read(self, tensor: Any, value: float) -> None:
        tensor[5, 5, 5] = value
        with pytest.raises(ValueError, match="NaN or infinity"):
            tc.decompose(Lazy(tensor), "cp", 2)

    @pytest.mark.parametrize(
        ("array", "error", "says"),
        [
            ([[1.0]], TypeError, "list cannot be sliced"),
            (np.array([["a", "b"]]), TypeError, "numbers are needed"),
            (np.ones(3), ValueError, "order 1"),
            (np.ones((3, 0)), ValueError, "empty"),
        ],
    )
    def test_refused(self, array: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Lazy(array)

    def test_box_entries(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Lazy(np.ones((3, 3)), box_entries=0)

    def test_the_jobs_can_be_sent(self, tensor: Any) -> None:
        """Models and data sources pass through pickle, as they must to reach a worker."""
        source = pickle.loads(pickle.dumps(Lazy(tensor, box_entries=50).scaled(0.5)))
        assert source.norm() == pytest.approx(0.5 * np.linalg.norm(tensor))
        assert "Lazy(12 x 10 x 8" in repr(source)
