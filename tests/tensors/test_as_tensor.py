"""Which data source opens for what, without importing anything for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import array_api_strict
import dask.array
import numpy as np
import pytest
import scipy.sparse
import sparse

from tensorchain.tensors.dense import Dense
from tensorchain.tensors.device import Device
from tensorchain.tensors.dispatch import as_tensor
from tensorchain.tensors.lazy import Lazy
from tensorchain.tensors.masked import Masked
from tensorchain.tensors.observed import Observed
from tensorchain.tensors.sparse import Sparse
from tests.cases import THREE, relative
from tests.tensors.sources import FULL, PARTIAL, Way

ARRAY = np.arange(1.0, 13.0).reshape(3, 4)


def named(data: Any) -> Any:
    """What xarray's DataArray looks like from outside."""
    kind = type("DataArray", (), {"__module__": "xarray.core.dataarray", "data": data, "dims": ("time", "place")})
    return kind()


@pytest.mark.parametrize(
    ("given", "source"),
    [
        (ARRAY, Dense),
        (ARRAY.tolist(), Dense),
        (dask.array.from_array(ARRAY), Lazy),
        (scipy.sparse.csr_array(ARRAY), Sparse),
        (scipy.sparse.coo_matrix(ARRAY), Sparse),
        (sparse.COO(ARRAY), Sparse),
        (array_api_strict.asarray(ARRAY), Device),
        (np.ma.masked_greater(ARRAY, 11.5), Masked),
        (named(ARRAY), Dense),
        (named(dask.array.from_array(ARRAY)), Lazy),
    ],
)
def test_sources(given: Any, source: type) -> None:
    made = as_tensor(given)
    assert type(made) is source
    assert made.shape == (3, 4)
    expected = np.where(ARRAY > 11.5, 0.0, ARRAY) if source is Masked else ARRAY
    assert np.array_equal(made.to_dense(), expected)
    assert as_tensor(made) is made


@pytest.mark.parametrize(
    ("given", "kept"),
    [(">f8", "float64"), (">f4", "float32"), (">i2", "float64"), (">c16", "complex128"), ("f2", "float32"),
     ("longdouble", "float64"), ("bool", "float64"), ("c8", "complex128")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["masked", "sparse", "observed", "lazy"])
def test_dtypes_of_every_source(kind: str, given: str, kept: str) -> None:
    """In the byte order of the machine, so that products are fast."""
    array, every = np.ones((3, 4), dtype=given), np.argwhere(np.ones((3, 4)))
    source: Any = {
        "masked": lambda: Masked(array, np.ones((3, 4), dtype=bool)),
        "sparse": lambda: Sparse(every, array.ravel(), (3, 4)),
        "observed": lambda: Observed(every, array.ravel(), (3, 4)),
        "lazy": lambda: Lazy(array),
    }[kind]()
    assert source.dtype == np.dtype(kept)
    assert source.dtype.isnative
    assert source.to_dense().dtype == np.dtype(kept)
    assert source.norm() == pytest.approx(12.0**0.5)


def test_memory_mapped_files(tmp_path: Path) -> None:
    np.save(tmp_path / "T.npy", ARRAY)
    assert type(as_tensor(np.load(tmp_path / "T.npy", mmap_mode="r"))) is Lazy


def test_a_mask_says_what_is_missing_in_numpy_and_what_is_seen_here() -> None:
    made = as_tensor(np.ma.masked_array(ARRAY, ARRAY == 5.0))
    assert np.array_equal(made.observed, ARRAY != 5.0)  # type: ignore[attr-defined]


def test_names_of_dimensions_are_kept() -> None:
    assert as_tensor(named(ARRAY)).dimension_names == ("time", "place")


@pytest.mark.slow
def test_nothing_is_imported_for_it() -> None:
    """Neither the compiled kernels nor any optional package."""
    heavy = ["numba", "dask", "distributed", "torch", "jax", "cupy", "sparse", "xarray", "joblib"]
    code = (
        "import sys, numpy as np; from tensorchain.tensors.dispatch import as_tensor; as_tensor(np.ones((2, 2)));"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("way", [*FULL, *PARTIAL], ids=str)
def test_sources_pass_through_pickle(way: Way) -> None:
    """As they must for starts in parallel."""
    case = THREE[0]
    source = way.open(case.tensor(), way.weights(case.shape)).scaled(0.5)
    model = case.model()
    source.contract_all_but(model, 0)
    twin = pickle.loads(pickle.dumps(source))
    assert twin.norm() == source.norm()
    assert relative(twin.residual(model).gradient[1], source.residual(model).gradient[1]) < 1e-13
