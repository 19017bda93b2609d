"""A fit hands out its components and blocks under the names and coordinates of its data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tensorchain as tc

xarray = pytest.importorskip("xarray")


def test_tables_of_named_data() -> None:
    rng = np.random.default_rng(0)
    T = tc.CP.random((3, 4, 5), 2, rng).full()
    array = xarray.DataArray(
        T, dims=("who", "what", "when"), coords={"who": ["a", "b", "c"], "when": [1.0, 2.0, 4.0, 8.0, 16.0]}
    )
    fit = tc.decompose(array, "cp", 2, rng=0)
    assert fit.dimensions == {"who": ("a", "b", "c"), "what": None, "when": (1.0, 2.0, 4.0, 8.0, 16.0)}
    assert len(fit.components) == 2
    np.testing.assert_allclose(sum(part.full() for part in fit.components), T, atol=1e-8)
    tables = fit.to_pandas()
    assert list(tables) == ["who", "what", "when"]
    assert list(tables["who"].index) == ["a", "b", "c"]
    whole = fit.to_xarray(full=True)["tensor"]
    np.testing.assert_allclose(whole.transpose("who", "what", "when").values, T, atol=1e-8)
    assert list(whole.coords["when"].values) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert len(fit.plot_factors()) == 3
    # By identity: a set holds both a fit and its copy.
    assert len({fit, dataclasses.replace(fit), fit}) == 2


def test_data_without_names() -> None:
    fit = tc.decompose(np.outer([1.0, 2.0], [3.0, 4.0, 5.0]), "cp", 1, rng=0)
    assert fit.dimensions is None
    assert list(fit.to_pandas()) == ["factor 1", "factor 2"]
