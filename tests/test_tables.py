"""Models as tables: components that add up, and blocks under the names and coordinates of the data."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.models.dimensions import dimensions_of
from tests.cases import Case, four_models, relative
from tests.test_arrays import Ladder

CASES = [
    case.as_type(dtype) for order in (2, 3, 4) for case in four_models(order) for dtype in ("float64", "complex128")
]
DIMS = {"sample": list("abcd"), "place": None, "wavelength": [400.0, 410.0, 420.0, 430.0, 440.0]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_components_add_up(case: Case) -> None:
    model = case.model()
    parts = model.components
    assert len(parts) == {tc.CP: 3, tc.BlockTerm: 2}.get(case.kind, 1)
    tensors = [part.full() for part in parts]
    assert relative(sum(tensors), model.full()) < 1e-12
    assert_allclose(parts.norm, [np.linalg.norm(tensor) for tensor in tensors], rtol=1e-10)
    assert_allclose(parts.share, parts.norm**2 / model.norm() ** 2, rtol=1e-10)
    if len(parts) > 1:
        units = np.array([tensor.ravel() / np.linalg.norm(tensor) for tensor in tensors])
        cosines = units.conj() @ units.T
        np.fill_diagonal(cosines, 0.0)
        assert_array_equal(parts.closest, np.abs(cosines).argmax(axis=1))
        assert_allclose(parts.cosine, cosines[np.arange(len(parts)), parts.closest].real, atol=1e-10)
    else:
        assert parts.closest.tolist() == [-1]
    table = parts.to_pandas()
    assert table.index.tolist() == list(range(1, len(parts) + 1))
    assert_array_equal(table["norm"], parts.norm)


def test_components_print_as_a_table() -> None:
    cp = tc.CP([np.array([[1.0, -0.9], [0.0, np.sqrt(0.19)]])] * 3)
    text = repr(cp.components).splitlines()
    assert text[0].split() == ["norm", "share", "closest", "cosine"]
    assert text[1].split() == ["1", "1", "184.5%", "2", "-0.729"]
    html = cp.components._repr_html_()
    assert html.count("<tr>") == 3
    assert "-0.729" in html
    assert cp.components[0] == tc.CP([factor[:, :1] for factor in cp.factors])
    assert len(cp.components[:1]) == 1
    with pytest.raises(IndexError):
        cp.components[2]


def test_components_of_zero() -> None:
    parts = tc.CP([np.zeros((2, 2))] * 3).components
    assert_array_equal(parts.norm, 0.0)
    assert_array_equal(parts.share, 0.0)
    assert "0.0%" in repr(parts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_xarray_contracts_to_the_tensor(case: Case) -> None:
    model = case.model()
    names = [f"axis {n}" for n in range(model.order)]
    data = model.to_xarray(names, full=True)
    assert_array_equal(data["tensor"], model.full())
    assert data["tensor"].dims == tuple(names)
    total: Any = 0.0
    for t in range(len(model.network.terms)):
        suffix = f", term {t + 1}" if len(model.network.terms) > 1 else ""
        blocks = [data[name + suffix] for name in model.block_names]
        bonds = {dim for block in blocks for dim in block.dims} - set(names)
        total = total + xr.dot(*blocks, dim=list(bonds)).transpose(*names)
    assert relative(total.values, model.full()) < 1e-11


def test_names_and_coordinates_stay() -> None:
    model = tc.CP.random((4, 3, 5), 2, rng=0)
    source = xr.DataArray(model.full(), dims=list(DIMS), coords={k: v for k, v in DIMS.items() if v is not None})
    for dims in (DIMS, source):
        data = model.to_xarray(dims)
        assert data["factor 3"].dims == ("wavelength", "component")
        assert data["wavelength"].values.tolist() == DIMS["wavelength"]
        assert "place" not in data.coords
        tables = model.to_pandas(dims)
        assert list(tables) == list(DIMS)
        assert tables["sample"].loc["b", 2] == model.factors[0][1, 1]
        assert tables["place"].index.tolist() == [0, 1, 2]
        assert [tables[name].index.name for name in DIMS] == list(DIMS)
    assert list(model.to_pandas()) == ["factor 1", "factor 2", "factor 3"]
    assert list(tc.Tucker.random((4, 3, 5), 2, rng=0).to_pandas(DIMS)) == ["core", *DIMS]


def test_columns_are_the_bonds() -> None:
    chain = tc.TensorChain.random((4, 3, 5), (2, 3, 2), rng=0)
    table = chain.to_pandas()["core 2"]
    assert table.columns.names == ["bond 2", "bond 3"]
    for left, right in np.ndindex(3, 2):
        assert_array_equal(table[left + 1, right + 1], chain.cores[1][left, :, right])
    tucker = tc.Tucker.random((4, 3, 5), (2, 3, 2), rng=0)
    core = tucker.to_pandas()["core"]["core"]
    for place in np.ndindex(2, 3, 2):
        assert core[tuple(index + 1 for index in place)] == tucker.core[place]
    btd = tc.BlockTerm.random((4, 3, 5), [(1, 2, 1), (2, 1, 2)], rng=0)
    factors = btd.to_pandas()["factors 2"]
    assert factors.columns.names == ["term", "bond 2"]
    assert_array_equal(factors[2, 1], btd.terms[1].factors[1][:, 0])
    assert list(Ladder.random((4, 3, 5), 2, rng=0).to_pandas()) == [f"block {k}" for k in range(1, 6)]


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        (["a", "b"], ValueError, "3 different names"),
        (["a", "b", "a"], ValueError, "3 different names"),
        ({"a": None, "b": [1.0], "c": None}, ValueError, r"'b' has coordinates of shape \(1,\); \(3,\) is needed"),
        ("abc", TypeError, "dims is a str"),
        (3, TypeError, "dims is a int"),
    ],
)
def test_dims_that_do_not_fit_are_refused(dims: Any, kind: type[Exception], message: str) -> None:
    for use in (tc.CP.random((4, 3, 5), 2, rng=0).to_pandas, tc.CP.random((4, 3, 5), 2, rng=0).to_xarray):
        with pytest.raises(kind, match=message):
            use(dims)


def test_a_mode_called_as_a_bond_is_refused() -> None:
    for name in ("component", "factor 2", "tensor"):
        with pytest.raises(ValueError, match=f"a mode is called '{name}'"):
            tc.CP.random((4, 3, 5), 2, rng=0).to_xarray([name, "b", "c"])
    with pytest.raises(ValueError, match="a mode is called 'core'"):
        tc.Tucker.random((4, 3, 5), 2, rng=0).to_pandas(["core", "b", "c"])


def test_default_names() -> None:
    assert [dimension.name for dimension in dimensions_of((2, 3))] == ["mode 1", "mode 2"]


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tc.CP.random((4, 3, 5), 2, rng=0)
    for package, use in (("pandas", model.to_pandas), ("xarray", model.to_xarray)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=r"tensorchain\[tables\]"):
            use()


def test_tables_are_copies() -> None:
    model = tc.CP.random((4, 3, 5), 2, rng=0)
    before = model.full()
    tables = model.to_pandas()
    tables["factor 1"].iloc[:, :] = 0.0
    model.to_xarray()["factor 1"].values[...] = 0.0
    assert isinstance(tables["factor 1"], pd.DataFrame)
    assert_array_equal(model.full(), before)
