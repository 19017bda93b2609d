"""What comes in is what is fitted: dtypes, byte orders, subclasses, masks, names, sizes, and refusals that say why."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import pyttb
import scipy.sparse
import sparse
import tensorly
import xarray

import tensorchain as tc
from tensorchain.tensors import as_tensor
from tensorchain.tensors.intake import entry_sums, moderate
from tests.cases import relative

SHAPE = (4, 3, 5)
T = np.random.default_rng(0).standard_normal(SHAPE)
SEEN = np.random.default_rng(1).random(SHAPE) < 0.8
WHERE = np.argwhere(np.ones(SHAPE))


def torch_of(array: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.ascontiguousarray(array))


CLASSES: dict[str, Any] = {
    "dense": tc.Dense,
    "masked": tc.Masked,
    "weighted": lambda array: tc.Masked(array, weights=np.linspace(1.0, 2.0, array.size).reshape(array.shape)),
    "observed": lambda array: tc.Observed(np.argwhere(np.ones(array.shape)), np.asarray(array).ravel(), array.shape),
    "sparse": lambda array: tc.Sparse(np.argwhere(np.ones(array.shape)), np.asarray(array).ravel(), array.shape),
    "lazy": lambda array: tc.Lazy(array, box_entries=7),
    "dask": lambda array: tc.Lazy(dask.array.from_array(np.asarray(array), chunks=2)),
    "device": lambda array: tc.Device(torch_of(array)),
}
TORCH_LACKS = (">f8", ">f4", ">c16", "longdouble", "uint16", "clongdouble")


@pytest.mark.parametrize("kind", CLASSES)
class TestEveryClass:
    @pytest.mark.parametrize(
        ("given", "held"),
        [
            ("float16", "float32"),
            (">f4", "float32"),
            (">f8", "float64"),
            (">c16", "complex128"),
            ("complex64", "complex128"),
            ("uint8", "float64"),
            ("bool", "float64"),
            ("longdouble", "float64"),
        ],
    )
    def test_dtypes(self, kind: str, given: str, held: str) -> None:
        if kind == "device" and given in TORCH_LACKS:
            pytest.skip("PyTorch has no such dtype")
        array = (np.arange(60).reshape(SHAPE) % 7).astype(given)
        tensor = CLASSES[kind](array)
        assert tensor.dtype == np.dtype(held)
        assert tensor.dtype.isnative
        assert relative(tensor.to_dense(), array.astype(held)) < 1e-6

    @pytest.mark.parametrize(
        ("dtype", "exponent"),
        [("float64", e) for e in (-300, -170, -20, 20, 170, 300)] + [("float32", e) for e in (-40, -25, 20, 37)],
    )
    def test_sizes(self, kind: str, dtype: str, exponent: int) -> None:
        """Norms, products, residuals and Grams of modes, where squares of the entries are no numbers."""
        array = (T * np.longdouble(10) ** exponent).astype(dtype)
        exact = array.astype(np.longdouble)
        size = float(np.sqrt(np.sum((exact / exact.max()) ** 2)) * exact.max())
        tensor, plain = CLASSES[kind](array), CLASSES[kind](np.asarray(exact / size, dtype=np.float64))
        unit = tensor.scaled(1.0 / tensor.norm())
        if kind != "weighted":
            assert tensor.norm() == pytest.approx(size, rel=1e-6, abs=0)
        tolerance = 1e-9 if dtype == "float64" else 1e-5
        expected = plain.scaled(1.0 / plain.norm())
        model = tc.CP.random(SHAPE, 2, 0)
        assert unit.residual_norm(model) == pytest.approx(expected.residual_norm(model), rel=tolerance)
        for k in range(3):
            assert relative(unit.contract_all_but(model, k), expected.contract_all_but(model, k)) < tolerance
            assert relative(unit.mode_gram(k), expected.mode_gram(k)) < tolerance
        assert relative(unit.residual(model).gradient[1], expected.residual(model).gradient[1]) < tolerance
        assert relative(unit.to_dense(), expected.to_dense()) < tolerance

    def test_the_digest_is_that_of_the_data(self, kind: str) -> None:
        make = CLASSES[kind]
        one = make(T).digest()
        assert make(T.copy()).digest() == one
        assert pickle.loads(pickle.dumps(make(T))).digest() == one
        changed = T.copy()
        changed[3, 2, 4] = np.nextafter(changed[3, 2, 4], 2.0)
        # Two entries whose indices have the same sum change places.
        exchanged = T.copy()
        exchanged[0, 1, 0], exchanged[1, 0, 0] = T[1, 0, 0], T[0, 1, 0]
        for other in (-T, T[::-1].copy(), 2.0 * T, changed, exchanged, T.reshape(3, 4, 5), T.astype(np.float32)):
            assert make(other).digest() != one
        assert len({CLASSES[name](T).digest() for name in CLASSES if name != "dask"}) == len(CLASSES) - 1

    def test_repr_says_what_it_is(self, kind: str) -> None:
        text = repr(CLASSES[kind](T))
        assert text.startswith(type(CLASSES[kind](T)).__name__)
        assert "4 x 3 x 5" in text
        assert "float64" in text


def test_a_digest_does_not_depend_on_how_the_data_lie() -> None:
    for layout in (np.asfortranarray(T), T[::-1].copy()[::-1], np.ma.array(T)):
        assert tc.Dense(layout).digest() == tc.Dense(T).digest()
    lazy = [tc.Lazy(T, box_entries=count) for count in (1, 7, 1000)]
    lazy += [tc.Lazy(dask.array.from_array(T, chunks=chunks)) for chunks in (2, (4, 1, 3))]
    assert len({tensor.digest() for tensor in lazy}) == 1
    order = np.random.default_rng(0).permutation(len(WHERE))
    for kind in (tc.Sparse, tc.Observed):
        assert kind(WHERE[order], T.ravel()[order], SHAPE).digest() == kind(WHERE, T.ravel(), SHAPE).digest()
    assert tc.Masked(np.where(SEEN, T, 7.0), SEEN).digest() == tc.Masked(T, SEEN).digest()
    assert tc.Masked(T, SEEN).digest() != tc.Masked(T, weights=SEEN * (1.0 + SEEN * np.abs(T))).digest()


def test_sums_over_entries_know_positions() -> None:
    values, first = np.arange(6.0), np.arange(6, dtype=np.uint64)
    whole = entry_sums(values, first)
    parts = [entry_sums(values[half], first[half]) for half in (slice(0, 2), slice(2, 6))]
    assert whole == tuple(sum(pair) % 2**64 for pair in zip(*parts, strict=True))
    assert entry_sums(values[::-1].copy(), first) != whole


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_a_power_of_two_adds_no_rounding(dtype: str) -> None:
    array = T.astype(dtype)
    assert moderate(array)[0] is array
    tiny = array * 2.0 ** (-1000 if dtype != "float32" else -100)
    held, scale, size = moderate(tiny)
    assert np.array_equal(held * scale, tiny)
    assert 0.4 < size < 1.1


class TestMasks:
    """A mask counts wherever it comes in, together with the others."""

    def test_masked_arrays(self) -> None:
        junk = np.where(SEEN, T, 1e6)
        hidden = np.ma.array(junk, mask=~SEEN)
        for tensor in (as_tensor(hidden), tc.Masked(hidden), tc.Masked(hidden, np.ones(SHAPE, dtype=bool))):
            assert np.array_equal(tensor.observed, SEEN)
            assert tensor.digest() == tc.Masked(T, SEEN).digest()

    def test_lists_of_them(self) -> None:
        rows = [np.ma.array(T[n], mask=~SEEN[n]) for n in range(4)]
        assert np.array_equal(tc.Masked(rows).observed, SEEN)
        assert type(as_tensor(rows)) is tc.Masked
        assert np.array_equal(tc.Masked([[1.0, np.ma.masked], [2.0, 3.0]]).observed, [[True, False], [True, True]])

    def test_dask(self) -> None:
        hidden = dask.array.ma.masked_array(dask.array.from_array(T, chunks=2), ~SEEN)
        for tensor in (as_tensor(hidden), tc.Masked(hidden)):
            assert np.array_equal(tensor.observed, SEEN)
        with pytest.raises(ValueError, match=r"tc\.Masked"):
            tc.Lazy(hidden)

    def test_with_a_mask_and_weights(self) -> None:
        rng = np.random.default_rng(2)
        other, weights = rng.random(SHAPE) < 0.9, rng.uniform(0.5, 2.0, SHAPE)
        third = rng.random(SHAPE) < 0.05
        tensor = tc.Masked(
            np.ma.array(T, mask=~SEEN), np.ma.array(other, mask=third), weights=np.ma.array(weights, mask=third)
        )
        expected = SEEN & other & ~third
        assert np.array_equal(tensor.observed, expected)
        assert tensor.norm() == pytest.approx(tc.Masked(T, weights=weights * expected).norm(), rel=1e-12)

    @pytest.mark.parametrize("make", [tc.Dense, tc.Lazy])
    def test_where_none_can_be_held(self, make: Any) -> None:
        assert make(np.ma.array(T)).norm() == pytest.approx(np.linalg.norm(T))
        with pytest.raises(ValueError, match=r"tc\.Masked"):
            make(np.ma.array(T, mask=~SEEN))

    def test_entries_that_are_hidden_are_not_listed(self) -> None:
        values = np.ma.array(T.ravel(), mask=~SEEN.ravel())
        weights = np.arange(1.0, 61.0)
        with pytest.raises(ValueError, match=r"masked.*tc\.Observed"):
            tc.Sparse(WHERE, values, SHAPE)
        tensor = tc.Observed(WHERE, values, SHAPE, weights=weights)
        expected = tc.Observed(WHERE[SEEN.ravel()], T[SEEN], SHAPE, weights=weights[SEEN.ravel()])
        assert tensor.digest() == expected.digest()

    def test_a_fit_of_masked_data_is_that_of_the_mask(self) -> None:
        truth = tc.CP.random((6, 5, 7), 2, 3).full()
        seen = np.random.default_rng(4).random(truth.shape) < 0.7
        fit = tc.decompose(np.ma.array(np.where(seen, truth, -99.0), mask=~seen), "cp", 2, solver=tc.LM(), rng=0)
        assert relative(fit.model.full(), truth) < 1e-5


class TestNames:
    def test_of_xarray(self) -> None:
        names, coordinates = ("time", "place", "kind"), {"place": ["a", "b", "c"]}
        named = xarray.DataArray(T, dims=names, coords=coordinates)
        for make in (as_tensor, tc.Dense, tc.Masked, tc.Lazy):
            tensor = make(named)
            assert tensor.dimension_names == names
            assert tensor.labels == (None, ("a", "b", "c"), None)
        assert "time 4 x place 3 x kind 5" in repr(tc.Masked(named))
        assert as_tensor(named.chunk({"time": 2})).dimension_names == names

    def test_masks_are_turned_by_their_names(self) -> None:
        named = xarray.DataArray(T, dims=("i", "j", "k"))
        mask = xarray.DataArray(SEEN.transpose(2, 0, 1), dims=("k", "i", "j"))
        assert np.array_equal(tc.Masked(named, mask).observed, SEEN)
        assert np.array_equal(tc.Masked(named, weights=mask.astype(float)).observed, SEEN)


class TestTables:
    def frame(self) -> Any:
        where = WHERE[np.random.default_rng(5).permutation(60)]
        return pd.DataFrame(
            {
                "who": [f"p{i}" for i in where[:, 0]],
                "day": 10 * where[:, 1] + 3,
                "what": pd.Categorical.from_codes(where[:, 2] + 1, ["none", "e", "d", "c", "b", "a"]),
                "value": T[tuple(where.T)],
                "count": where.sum(axis=1) + 1.0,
            }
        )

    def test_columns_become_modes(self) -> None:
        frame = self.frame()
        tensor = tc.Observed.from_frame(frame, ["who", "day", "what"], "value", weights="count")
        assert tensor.shape == SHAPE
        assert tensor.dimension_names == ("who", "day", "what")
        assert tensor.labels == (("p0", "p1", "p2", "p3"), (3, 13, 23), ("e", "d", "c", "b", "a"))
        assert np.array_equal(tensor.to_dense(), T)
        assert tensor.digest() == tc.Observed(WHERE, T.ravel(), SHAPE, weights=WHERE.sum(axis=1) + 1.0).digest()
        fit = tc.decompose(tensor, "cp", 1, solver=tc.ALS(max_iter=2), rng=0)
        assert fit.dimension_names == ("who", "day", "what")

    def test_a_table_of_counts(self) -> None:
        frame = self.frame()
        twice = pd.concat([frame, frame[:7]])
        tensor = tc.Sparse.from_frame(twice, ["who", "day", "what"], "value")
        whole = tc.Observed.from_frame(frame, ["who", "day", "what"], "value")
        assert (tensor.dimension_names, tensor.labels) == (whole.dimension_names, whole.labels)
        # Rows that come twice are summed.
        assert np.allclose(tensor.to_dense()[tensor.to_dense() != T], 2 * T[tensor.to_dense() != T])
        assert np.sum(tensor.to_dense() != T) == np.sum(frame["value"][:7] != 0)
        fit = tc.decompose(tensor, "cp", 1, solver=tc.ALS(max_iter=2), rng=0)
        assert fit.dimensions is not None
        assert fit.dimensions["day"] == (3, 13, 23)

    def test_an_index_of_several_levels(self) -> None:
        frame = self.frame().set_index(["who", "day", "what"])
        expected = tc.Observed.from_frame(self.frame(), ["who", "day", "what"], "value").digest()
        for tensor in (
            tc.Observed.from_frame(frame["value"]),
            tc.Observed.from_frame(frame, value="value"),
            tc.Observed.from_frame(frame, ["who", "day", "what"], "value"),
        ):
            assert tensor.digest() == expected
        turned = tc.Observed.from_frame(frame["value"], ["what", "who", "day"])
        assert turned.dimension_names == ("what", "who", "day")
        assert np.array_equal(turned.to_dense(), T.transpose(2, 0, 1))

    def test_a_dict_will_do(self) -> None:
        table = {"i": ["b", "a", 3, "a"], "j": np.array([0, 0, 1, 1]), "v": [1, 2, 3, 4]}
        tensor = tc.Observed.from_frame(table, ["i", "j"], "v")
        assert tensor.labels == ((3, "a", "b"), (0, 1))

    def test_refused(self) -> None:
        frame = self.frame()
        with pytest.raises(TypeError, match="from_frame"):
            tc.decompose(frame, "cp", 1)
        with pytest.raises(TypeError, match="from_frame"):
            tc.Masked(frame.set_index(["who", "day", "what"])["value"])
        with pytest.raises(ValueError, match="no column 'where'"):
            tc.Observed.from_frame(frame, ["who", "where"], "value")
        with pytest.raises(ValueError, match="more than once"):
            tc.Observed.from_frame(frame, ["who", "day"], "value")
        with pytest.raises(ValueError, match=r"'day' is empty in 1 rows"):
            tc.Observed.from_frame(frame.assign(day=[None, *frame.day[1:]]), ["who", "day"], "value")
        with pytest.raises(ValueError, match="which columns"):
            tc.Observed.from_frame(frame)
        with pytest.raises(TypeError, match="named columns"):
            tc.Observed.from_frame(T, [0, 1], 2)
        with pytest.raises(TypeError, match="a list of column names"):
            tc.Observed.from_frame(frame, "who", "value")


class Liar:
    """Says one shape and gives another."""

    shape, dtype = (6, 4), np.dtype(float)

    def __getitem__(self, box: Any) -> Any:
        return np.ones((2, 2))


def cases_refused() -> list[Any]:
    cp = tc.CP.random((3, 3), 1, 0)
    kruskal = pyttb.ktensor([np.ones((3, 2)), np.ones((4, 2))])
    return [
        pytest.param(None, TypeError, "None was given", id="None"),
        pytest.param(b"T.npy", TypeError, r"np\.load", id="bytes"),
        pytest.param(xarray.Dataset({"a": (("x", "y"), np.ones((3, 3)))}), TypeError, r"dataset\[name\]", id="dataset"),
        pytest.param(kruskal, TypeError, r"tc\.interop\.from_pyttb", id="ktensor"),
        pytest.param(pyttb.tensor(np.ones((3, 4))), TypeError, r"T\.data", id="pyttb"),
        pytest.param(
            pyttb.sptensor(np.array([[0, 0]]), np.array([[1.0]]), (2, 2)), TypeError, "tc.Sparse", id="sptensor"
        ),
        pytest.param(
            tensorly.cp_tensor.CPTensor((None, [np.ones((3, 2))] * 2)), TypeError, r"from_tensorly", id="tensorly"
        ),
        pytest.param(cp, TypeError, r"\.full\(\)", id="a model"),
        pytest.param(tc.decompose(np.eye(3), "cp", 1, rng=0), TypeError, r"fit\.model\.full\(\)", id="a fit"),
        pytest.param({"a": 1}, TypeError, "a dict was given", id="dict"),
        pytest.param([[[1], [2]], [[1], [2, 3]]], ValueError, r"T\[1\]\[0\] has 1 items and T\[1\]\[1\]", id="ragged"),
        pytest.param([[1, 2], [[3], [4]]], ValueError, "ragged", id="ragged in depth"),
        pytest.param(object(), TypeError, "dtype object", id="object"),
    ]


@pytest.mark.parametrize(("given", "error", "says"), cases_refused())
@pytest.mark.parametrize("make", [tc.Dense, tc.Masked, as_tensor])
def test_what_is_no_tensor_is_refused(given: Any, error: Any, says: str, make: Any) -> None:
    with pytest.raises(error, match=says) as caught:
        make(given)
    assert len(str(caught.value)) < 400


class TestRefusals:
    @pytest.mark.parametrize("make", [tc.Dense, tc.Masked])
    def test_sparse_arrays_where_dense_ones_belong(self, make: Any) -> None:
        with pytest.raises(TypeError, match=r"tc\.Sparse\.from_scipy"):
            make(scipy.sparse.csr_array(np.eye(4)))
        with pytest.raises(TypeError, match=r"tc\.Observed"):
            make(sparse.COO(T))

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
    def test_tensors_of_torch(self) -> None:
        torch = pytest.importorskip("torch")
        listed = torch.from_numpy(T * (T > 0.5)).to_sparse()
        assert np.array_equal(as_tensor(listed).to_dense(), T * (T > 0.5))
        assert type(as_tensor(torch.eye(4).to_sparse_csr())) is tc.Sparse
        for make in (tc.Device, tc.Masked):
            with pytest.raises(TypeError, match=r"tc\.Sparse"):
                make(listed)
            with pytest.raises(ValueError, match="meta"):
                make(torch.empty((3, 4), device="meta"))
        half = torch.ones((3, 4), dtype=torch.bfloat16, requires_grad=True)
        assert tc.Masked(half).norm() == pytest.approx(12**0.5)
        assert as_tensor(half).dtype == np.float32

    def test_sliceables_that_lie(self) -> None:
        with pytest.raises(ValueError, match=r"says that it has shape \(6, 4\)"):
            tc.decompose(tc.Lazy(Liar(), box_entries=8), "cp", 1)

    def test_chunks_of_dask(self) -> None:
        array = dask.array.from_array(T, chunks=2)
        some = array[array[:, 0, 0] == T[2, 0, 0]]
        some.compute_chunk_sizes()
        assert some.chunks[0] == (0, 1)
        lazy, model = tc.Lazy(some), tc.CP.random((1, 3, 5), 1, 0)
        assert lazy.digest() == tc.Lazy(T[2:3]).digest()
        for mode in range(3):
            assert relative(lazy.mode_gram(mode), tc.Dense(T[2:3]).mode_gram(mode)) < 1e-13
            assert relative(lazy.contract_all_but(model, mode), tc.Dense(T[2:3]).contract_all_but(model, mode)) < 1e-13
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unknown = array[array[:, 0, 0] > 0]
        with pytest.raises(ValueError, match="compute_chunk_sizes"):
            as_tensor(unknown)

    @pytest.mark.parametrize("box_entries", [0, 2.5, True, "7"])
    def test_boxes(self, box_entries: Any) -> None:
        with pytest.raises(ValueError, match="box_entries"):
            tc.Lazy(T, box_entries=box_entries)

    def test_huge_shapes(self) -> None:
        with pytest.raises(ValueError, match="3 entries cannot reach"):
            tc.Observed([[0, 0, 0], [5, 1, 1], [6, 1, 1]], np.ones(3), (2**30, 2, 2))
        for kind in (tc.Observed, tc.Sparse):
            with pytest.raises(ValueError, match=r"np\.unique"):
                kind([[0, 0, 0]], [1.0], (2**33, 2, 2))
        assert tc.Sparse([[2**20, 0]], [1.0], (2**22, 2)).norm() == 1.0

    def test_messages_are_short(self) -> None:
        for shape in (np.ones((50, 50)), "nonsense", tc.Dense(T)):
            with pytest.raises((TypeError, ValueError)) as caught:
                tc.Sparse([[0, 0]], [1.0], shape)
            assert len(str(caught.value)) < 200

    def test_subclasses_do_not_come_through(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matrix = np.matrix([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        for make in (tc.Dense, tc.Masked, as_tensor):
            fits = [
                tc.decompose(make(given), "cp", 1, solver=tc.ALS(max_iter=9), rng=0) for given in (matrix, matrix.A)
            ]
            assert fits[0].error == pytest.approx(fits[1].error, rel=1e-12)
