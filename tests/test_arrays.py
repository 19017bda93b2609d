"""Models as arrays: every index, sum, multiple and product with a vector, held against NumPy on the whole tensor."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tensorchain as tc
from tensorchain.models import Model, Network
from tests.cases import Case, four_models, relative

ALL = [
    case.as_type(dtype)
    for order in (2, 3, 4)
    for case in four_models(order)
    for dtype in ("float64", "complex128", "float32")
]
ORDER_4 = four_models(4)


@pytest.fixture
def _registry() -> Iterator[None]:
    before = dict(Model.registry)
    yield
    Model.registry.clear()
    Model.registry.update(before)


class Ladder(Model):
    """A wiring that is none of the four: two cores that carry no mode."""

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        bonds = ("k", "l", "n", "klm", "mn")
        return Network.single(bonds, dict.fromkeys("klmn", rank), (0, 1, 2, None, None))


def same(model: Any, array: Any, tol: float = 1e-11) -> None:
    """A model, or what is left of it, and its truth."""
    assert np.shape(model) == array.shape
    size = np.linalg.norm(array)
    assert np.linalg.norm(np.asarray(model) - array) <= tol * max(size, 1e-300)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_size_and_conversion(case: Case) -> None:
    model = case.model()
    full = model.full()
    assert (model.ndim, model.size, len(model)) == (full.ndim, full.size, len(full))
    assert_array_equal(np.asarray(model), full)
    assert np.asarray(model).dtype == case.dtype
    assert np.asarray(model, dtype="complex128").dtype == np.complex128
    assert np.linalg.norm(model) == pytest.approx(model.norm(), rel=case.tol)
    assert np.allclose(model, full)
    for row, truth in zip(model, full, strict=True):
        same(row, truth, 10 * case.tol)


def test_a_view_of_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="copy=False"):
        tc.CP.random((3, 4), 2, rng=0).__array__(copy=False)


def keys(shape: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    """Indices of every kind; all of them mean the same to NumPy."""
    last = shape[-1]
    mask = np.arange(shape[0]) != 1
    return [
        0, -1, np.int64(1), slice(1, None), slice(None, None, -1), ..., (..., 0), (0, ...), (slice(0, 2), ..., -1),
        [1, 0, 0, -1], mask, (..., [last - 1, 0]), ([0, 1], ..., slice(None, None, 2)),
        tuple(int(rng.integers(size)) for size in shape), tuple(-1 for _ in shape),
        tuple(rng.integers(-size, size, 5) for size in shape),
        tuple(rng.integers(size, size=(2, 3)) for size in shape),
        (*(int(size) - 1 for size in shape[:-1]), [0, last - 1]),
        rng.random(shape) < 0.3, (),
    ]  # fmt: skip


@pytest.mark.parametrize("case", ALL, ids=str)
def test_indexing_is_that_of_numpy(case: Case) -> None:
    model = case.model()
    full = model.full()
    for key in keys(case.shape, np.random.default_rng(0)):
        part = model[key]
        truth = full[key]
        assert np.shape(part) == np.shape(truth), key
        assert_allclose(np.asarray(part), truth, rtol=0, atol=10 * case.tol * np.abs(full).max(), err_msg=repr(key))
        if np.ndim(truth) >= 2 and not (isinstance(key, tuple) and len(key) and isinstance(key[0], np.ndarray)):
            assert type(part) is type(model), key


def test_parts_of_a_wiring_from_elsewhere() -> None:
    model = Ladder.random((3, 4, 5), 2, rng=0)
    full = model.full()
    same(model[1], full[1])
    same(model[:, -1], full[:, -1])
    same(model[..., 2][1:], full[1:, :, 2])
    same(model.contract(2, np.arange(5.0)), full @ np.arange(5.0))
    same(model.transpose((2, 0, 1)), full.transpose(2, 0, 1))
    same(model + 2 * model, 3 * full)
    assert type(model + model) is Ladder
    assert (model + model).network.widths == Ladder.wiring((3, 4, 5), 4).widths


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (5, "position 5 is out of range in mode 1 of size 4"),
        ((0, -4), "position -4 is out of range in mode 2 of size 3"),
        ((0, 0, 0, 0), "4 indices were given for a tensor of order 3"),
        ((..., ...), r"more than one \.\.\."),
        (None, "a new axis"),
        (1.0, "integers, a mask or a slice"),
        ("a", "integers, a mask or a slice"),
        (True, "True was given for mode 1"),
        (slice(2, 2), "leaves nothing of mode 1"),
        (slice(0, 2, 0), "mode 1"),
        (slice(0.5, 2), "slices need integers"),
        ([], "no position of mode 1"),
        ([0, 4], "position 4 is out of range"),
        (np.ones(3, dtype=bool), r"a mask of shape \(3,\)"),
        (np.ones((4, 3, 4), dtype=bool), r"a mask of shape \(4, 3, 4\)"),
        (([0, 1], slice(None), [0, 1]), "several modes beside slices"),
        (([[0, 1]], slice(None), 0), "several modes beside slices"),
        (([0, 1], [0, 1, 2], 0), "different shapes"),
    ],
)
def test_wrong_indices_are_refused(key: Any, message: str) -> None:
    for kind, rank in (("cp", 2), ("tc", 2), ("tucker", 2), ("btd", [(1, 1, 1), (2, 2, 2)])):
        model = Model.registry[kind].random((4, 3, 5), rank, rng=0)
        with pytest.raises(IndexError, match=message):
            model[key]


def test_what_numpy_lays_out_anew_is_refused() -> None:
    model = tc.CP.random((4, 3, 5, 2), 2, rng=0)
    with pytest.raises(IndexError, match="two steps"):
        model[:, 0, :, [0, 1]]
    # These keep the place of the positions, as NumPy does.
    full = model.full()
    same(model[[0, 1], :, 1, :], full[[0, 1], :, 1, :])
    same(model[:, [0, 1], 2], full[:, [0, 1], 2])
    same(model[:, 0][..., [0, 1]], full[:, 0][..., [0, 1]])


@pytest.mark.parametrize("case", ORDER_4, ids=str)
def test_restrict_takes_all_combinations(case: Case) -> None:
    model = case.model()
    full = model.full()
    mask = np.array([True, False, True])
    part = model.restrict([[0, -1], mask, slice(None, None, 2), None])
    assert type(part) is type(model)
    same(part, full[np.ix_([0, 3], [0, 2], [0, 2, 4], range(case.shape[3]))])
    same(model.restrict([[2], None, None, None]), full[[2]])


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([0, None, None], TypeError, r"0 was given for mode 1.*\[0\]"),
        ([None, np.int64(2), None], TypeError, "mode 2"),
        (slice(0, 2), TypeError, "a selection for each of 3 modes"),
        ([None, None], IndexError, "2 selections were given for 3 modes"),
        ([None] * 4, IndexError, "4 selections"),
        ([None, None, [9]], IndexError, "position 9 is out of range in mode 3"),
        ([None, slice(5, 9), None], IndexError, "leaves nothing"),
        ([None, None, [0.0]], IndexError, "integers"),
        ([None, None, np.zeros(5, dtype=bool)], IndexError, "no position"),
    ],
)
def test_restrict_refuses_what_would_change_the_order(rows: Any, kind: type[Exception], message: str) -> None:
    for model in (tc.CP.random((4, 3, 5), 2, rng=0), tc.Tucker.random((4, 3, 5), 2, rng=0)):
        with pytest.raises(kind, match=message):
            model.restrict(rows)


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_entries_take_lists_of_tuples(case: Case) -> None:
    model = case.model()
    full = model.full()
    places = [(0, 0, 0), (3, 2, 4), (-1, -2, -5)]
    assert_allclose(model.entries(places), [full[place] for place in places], atol=1e-11)
    assert_allclose(model.entries((1, 2, 3)), full[1, 2, 3], atol=1e-11)
    assert_allclose(model.entries(np.array(places)[None]), [[full[place] for place in places]], atol=1e-11)
    assert model.entries([]).shape == (0,)
    assert_allclose(model.entries(np.array(places[:2], dtype=np.uint8)), [full[p] for p in places[:2]], atol=1e-11)
    for wrong, kind in (
        ([(0, 0)], IndexError),
        ([(0, 0, 5)], IndexError),
        ([(-5, 0, 0)], IndexError),
        (0, IndexError),
        ([(0.0, 1.0, 2.0)], TypeError),
    ):
        with pytest.raises(kind):
            model.entries(wrong)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_contract_is_a_product_with_a_vector(case: Case) -> None:
    model = case.model()
    full = model.full()
    rng = np.random.default_rng(0)
    for mode in range(-model.order, model.order):
        vector = rng.standard_normal(case.shape[mode]).astype(case.dtype)
        part = model.contract(mode, vector)
        same(part, np.tensordot(full, vector, axes=(mode, 0)), 20 * case.tol)
        assert isinstance(part, np.ndarray) if model.order == 2 else type(part) is type(model)
    with pytest.raises(IndexError, match="has modes 0 to"):
        model.contract(model.order, [1.0])
    with pytest.raises(TypeError, match="an integer is needed"):
        model.contract("x", [1.0])
    with pytest.raises(TypeError, match="an integer is needed"):
        model.contract(True, [1.0])
    with pytest.raises(ValueError, match=r"is needed"):
        model.contract(0, np.ones(case.shape[0] + 1))
    with pytest.raises(ValueError, match="NaN"):
        model.contract(0, np.full(case.shape[0], np.nan))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_transpose_is_that_of_numpy(case: Case) -> None:
    model = case.model()
    full = model.full()
    rng = np.random.default_rng(0)
    rotation = (*range(1, model.order), 0)
    for order in (None, rotation, rotation[::-1], tuple(rng.permutation(model.order))):
        turned = model.transpose(order)
        same(turned, full.transpose(order), case.tol)
        assert turned.sensitivity() == pytest.approx(model.sensitivity(), rel=1e-4)
        if order != tuple(rng.permutation(model.order)) and (model.order < 4 or order in (None, rotation)):
            assert type(turned) is type(model)
    assert_array_equal(np.asarray(model.T), np.asarray(model.transpose()))
    with pytest.raises(ValueError, match="needed once"):
        model.transpose((0,) * model.order)
    with pytest.raises(TypeError, match="in one tuple"):
        model.transpose(1)


def test_a_chain_in_an_order_that_breaks_it_is_a_plain_model() -> None:
    chain = tc.TensorChain.random((3, 4, 5, 2), (2, 3, 2, 3), rng=0)
    turned = chain.transpose((1, 0, 2, 3))
    assert type(turned) is Model
    same(turned, chain.full().transpose(1, 0, 2, 3))
    assert turned.n_parameters == chain.n_parameters
    with pytest.raises(TypeError, match="no `name`"):
        turned.save("nowhere.npz")


@pytest.mark.parametrize("case", ALL, ids=str)
def test_sums_and_multiples(case: Case) -> None:
    m, n = case.model(0), case.model(1)
    one, two = m.full(), n.full()
    tol = 10 * case.tol
    for result, truth in (
        (m + n, one + two), (m - n, one - two), (-m, -one), (+m, one), (2 * m, 2 * one), (m * -0.5, -0.5 * one),
        (m / 4, one / 4), (np.float64(3.0) * m, 3 * one), (np.int64(-3) * m, -3 * one), (sum([m, n, m]), 2 * one + two),
        (0 * m, 0 * one),
    ):  # fmt: skip
        assert type(result) is type(m)
        assert result.dtype == case.dtype
        same(result, truth, tol)
    same(1j * m, 1j * one, tol)
    assert (1j * m).dtype == np.complex128
    assert np.linalg.norm((m - m).full()) <= tol * np.linalg.norm(one)


def test_ranks_add() -> None:
    assert (tc.CP.random((3, 4, 5), 2, 0) + tc.CP.random((3, 4, 5), 4, 1)).rank == 6
    tuckers = tc.Tucker.random((3, 4, 5), (2, 1, 2), 0) + tc.Tucker.random((3, 4, 5), (1, 2, 1), 1)
    assert tuckers.rank == (3, 3, 3)
    btd = tc.BlockTerm.random((3, 4, 5), [(1, 1, 1)], 0) + tc.BlockTerm.random((3, 4, 5), [(2, 2, 2)], 1)
    assert btd.rank == [(1, 1, 1), (2, 2, 2)]
    chain = tc.TensorChain.random((3, 4, 5), (2, 3, 2), 0)
    assert (chain + chain).rank == (4, 6, 4)


@pytest.mark.parametrize("cut", range(3))
def test_a_sum_of_trains_is_a_train(cut: int) -> None:
    bonds = [[2, 3, 2], [3, 1, 2]]
    for ranks in bonds:
        ranks[cut] = 1
    m, n = (tc.TensorChain.random((3, 4, 5), tuple(ranks), seed) for seed, ranks in enumerate(bonds))
    total = m + n
    assert total.bonds[cut] == 1
    same(total, m.full() + n.full())
    assert tc.TensorChain(total.cores).gauge_dimension == total.gauge_dimension


def test_arrays_beside_models_give_arrays() -> None:
    model = tc.CP.random((3, 4, 5), 2, rng=0)
    T = np.random.default_rng(1).standard_normal((3, 4, 5))
    full = model.full()
    for result, truth in ((T - model, T - full), (model - T, full - T), (T + model, T + full), (model + T, T + full)):
        assert type(result) is np.ndarray
        assert_array_equal(result, truth)
    hidden = np.ma.masked_array(T, mask=T > 0)
    assert_array_equal((hidden - model).mask, T > 0)


def test_what_cannot_be_added_is_refused() -> None:
    cp, tucker = tc.CP.random((3, 4), 2, 0), tc.Tucker.random((3, 4), 2, 0)
    with pytest.raises(TypeError, match="a CP and a Tucker"):
        cp + tucker
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(3, 5\)"):
        cp + tc.CP.random((3, 5), 2, 0)
    for wrong in (1, "a", np.float64(1.0), None):
        with pytest.raises(TypeError):
            cp + wrong
        with pytest.raises(TypeError):
            wrong - cp
    for wrong in ("a", np.ones(2), cp, True):
        with pytest.raises(TypeError):
            cp * wrong
    with pytest.raises(ZeroDivisionError):
        cp / 0
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            cp * wrong
    with pytest.raises(TypeError, match="a number is needed"):
        cp.scaled("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"beyond the range of float32; use model\.astype"):
        cp.astype("float32") * 1e300
    assert cp * np.array(2.0) == cp * 2.0


@pytest.mark.parametrize("case", ALL, ids=str)
def test_equality_is_by_value(case: Case) -> None:
    model = case.model()
    for twin in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model)), case.model()):
        assert twin == model
        assert hash(twin) == hash(model)
        assert len({twin, model}) == 1
    assert model != case.model(1)
    moved = [matrix.copy() for matrix in model.matrices]
    moved[-1][-1, -1] += 1.0
    assert model.with_matrices(moved) != model
    assert model != model.full().tolist()
    assert model.astype("complex128" if case.dtype != "complex128" else "complex64") != model
    assert model


def test_other_wirings_are_not_equal() -> None:
    ones = [np.ones((3, 2)), np.ones((3, 2))]
    cp, plain = tc.CP(ones), Model.from_matrices(tc.CP(ones).network, ones)
    assert cp != plain
    assert tc.BlockTerm.random((3, 3), [(1, 1), (1, 1)], 0) != tc.BlockTerm.random((3, 3), [(2, 2)], 0)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (tc.TensorChain.random((4, 5, 6), (2, 3, 2), 0), (0, (4, 2, 3))),
        (tc.TensorChain.random((4, 5, 6), (2, 3, 2), 0), (1, (3, 5, 1, 2))),
        (tc.TensorChain.random((4, 5, 6), (2, 3, 2), 0), (0, (3, 4, 2))),
        (tc.Tucker.random((4, 5, 6), (2, 3, 2), 0), (0, (3, 2, 2))),
        (tc.Tucker.random((4, 5, 6), (2, 3, 2), 0), (0, (12,))),
        (tc.CP.random((4, 5, 6), 2, 0), (0, (2, 4))),
        (tc.BlockTerm.random((4, 5, 6), [(1, 2, 1), (2, 1, 2)], 0), (0, (6, 1))),
    ],
    ids=str,
)
def test_blocks_of_another_shape_are_refused(model: Any, wrong: tuple[int, tuple[int, ...]]) -> None:
    k, shape = wrong
    blocks = list(model.blocks)
    blocks[k] = np.ones(shape)
    with pytest.raises(ValueError, match=f"block {k} has shape"):
        model.with_blocks(blocks)


def test_blocks_are_checked_and_copied() -> None:
    model = tc.CP.random((4, 5), 2, 0)
    mine = np.ones((4, 2))
    other = model.with_blocks([mine, np.ones((5, 2), dtype=int)])
    mine[:] = 7.0
    assert other.full().max() == 2.0
    assert other.dtype == np.float64
    with pytest.raises(ValueError, match="NaN"):
        model.with_blocks([np.full((4, 2), np.nan), model.blocks[1]])
    with pytest.raises(TypeError, match="a sequence of 2 arrays"):
        model.with_blocks(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype"):
        model.with_blocks([np.full((4, 2), "a"), model.blocks[1]])


@pytest.mark.usefixtures("_registry")
def test_names_are_taken_only_by_who_states_them() -> None:
    class Quiet(tc.CP):
        """States no name."""

    assert Model.registry["cp"] is tc.CP
    with pytest.raises(ValueError, match=r"'cp' of Loud is that of tensorchain\.models\.cp\.CP"):

        class Loud(tc.CP):
            name = "cp"

    assert Model.registry["cp"] is tc.CP
    with pytest.raises(ValueError, match="has no `name`"):
        Ladder.register()

    def define() -> Any:
        class Cell(tc.CP):
            """As a cell of a notebook that is run again."""

            name = "cell"

        return Cell

    first, second = define(), define()
    assert first is not second
    assert Model.registry["cell"] is second
    Quiet.register(replace=True)
    assert Model.registry["cp"] is Quiet


def test_a_subclass_without_a_name_is_saved_as_its_base(tmp_path: Any) -> None:
    class Special(tc.CP):
        """States no name."""

    Special([np.ones((3, 2)), np.ones((4, 2))]).save(tmp_path / "model.npz")
    assert type(tc.load(tmp_path / "model.npz")) is tc.CP


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["cp", "tc", "tucker", "btd"]), st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.integers(0, 2**32 - 1), st.data(),
)  # fmt: skip
def test_any_part_of_any_model(kind: str, shape: list[int], seed: int, data: Any) -> None:
    rank = {"cp": 1, "tc": 1, "tucker": 1, "btd": [(1,) * len(shape)] * 1}[kind]
    model = Model.registry[kind].random(tuple(shape), rank, seed)
    full = model.full()
    key = tuple(
        data.draw(st.one_of(st.integers(-size, size - 1), st.just(slice(None)), st.slices(size))) for size in shape
    )
    truth = full[key]
    if truth.size == 0:
        with pytest.raises(IndexError):
            model[key]
    else:
        assert relative(np.asarray(model[key]), truth) < 1e-11


@pytest.mark.parametrize("case", four_models(3), ids=str)
def test_dir_shows_what_users_call(case: Case) -> None:
    model = case.model()
    shown = {name for name in dir(model) if not name.startswith("_")}
    assert {"full", "entries", "contract", "rounded", "sensitivity", "to_pandas", "blocks", "shape"} <= shown
    assert len(shown) <= 45
    for hook in ("gram_at", "gram_derivatives", "system", "design_rows", "with_matrices", "gauss_newton_matvec"):
        assert hook not in shown
        assert callable(getattr(model, hook))


def test_dir_shows_what_a_subclass_adds() -> None:
    class Special(tc.CP):
        """Adds a method."""

        def spectra(self) -> None: ...

    assert "spectra" in dir(Special([np.ones((3, 2)), np.ones((4, 2))]))
