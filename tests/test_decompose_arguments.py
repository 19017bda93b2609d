"""Bad arguments of `decompose` end in one clear error that says what was given and what is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import Model

T = np.random.default_rng(0).standard_normal((4, 3, 5))
CP = tc.CP.random(T.shape, 2, 0)
TUCKER = tc.Tucker.random(T.shape, (2, 2, 2), 0)
NAN = float("nan")


def of(*arguments: Any, **keywords: Any) -> Any:
    """One row: how `decompose` is called after the tensor."""
    return arguments, keywords


RANKS = [
    ("cp", None, ValueError, "no rank"),
    ("cp", 0, ValueError, "rank 0"),
    ("cp", -2, ValueError, "rank -2"),
    ("cp", 2.0, TypeError, r"2\.0"),
    ("cp", True, TypeError, "True"),
    ("cp", "3", TypeError, "'3'"),
    ("cp", (2, 2, 2), TypeError, "one positive integer"),
    ("cp", 16, ValueError, "beyond the size"),
    ("tucker", None, ValueError, "no rank"),
    ("tucker", (2, 2), ValueError, r"2 ranks.*needs 3"),
    ("tucker", (2, 0, 2), ValueError, "at least 1"),
    ("tucker", (2, -1, 2), ValueError, "at least 1"),
    ("tucker", (2, 2, 2.5), TypeError, r"2\.5"),
    ("tucker", (5, 2, 2), ValueError, "beyond the shape"),
    ("tucker", 4, ValueError, "beyond the shape"),
    ("tucker", True, TypeError, "True"),
    ("btd", None, (TypeError, ValueError), "rank"),
    ("btd", 3, TypeError, r"\[\(2, 2, 2\), \(3, 3, 3\)\]"),
    ("btd", [], (TypeError, ValueError), "rank"),
    ("btd", (2, 2, 2), TypeError, r"one rank per term"),
    ("btd", [(2, 2)], ValueError, r"2 ranks.*needs 3"),
    ("btd", [(2, 2, 2), (2, 0, 2)], ValueError, "at least 1"),
    ("btd", [(5, 2, 2)], ValueError, "beyond the shape"),
    ("btd", [(4, 3, 5)] * 2, ValueError, "beyond the size"),
    ("btd", "22", TypeError, "rank"),
    ("tc", None, ValueError, "no rank"),
    ("tc", (2, 2, 2, 2), ValueError, r"4 ranks.*needs 3"),
    ("tc", (2, 0, 2), ValueError, "at least 1"),
    ("tc", 0, ValueError, "at least 1"),
    ("tc", 2.5, TypeError, r"2\.5"),
    ("tc", (2, "2", 2), TypeError, "'2'"),
    ("tc", 5, ValueError, "beyond the size"),
    ("tc", (16, 1, 1), ValueError, "mode 1"),
    ("tc", {}, (TypeError, ValueError), "rank"),
    ("tc", ..., TypeError, "rank"),
]

ARGUMENTS = [
    (of(), ValueError, "no model"),
    (of("cpx", 2), ValueError, r"'cpx' is unknown; known are btd, cp"),
    (of(3, 2), TypeError, "model is 3"),
    (of(CP, 2), TypeError, "subclass of Model"),
    (of(dict, 2), TypeError, "subclass of Model"),
    (of(Model, 2), TypeError, "wiring"),
    (of("cp", 2, solver="newton"), ValueError, "solver 'newton' is unknown; known are"),
    (of("cp", 2, solver=3), TypeError, "solver is 3; a name"),
    (of("cp", 2, solver=tc.ALS), TypeError, r"instance such as ALS\(\)"),
    (of("cp", 2, constraint=0.1), TypeError, r"constraint is 0\.1"),
    (of("cp", 2, constraint=tc.Penalty), TypeError, "constraint is"),
    (of("cp", 2, init="hosvd"), ValueError, "'hosvd'.*'random', 'svd', a model or a fit"),
    (of("cp", 2, init=None), ValueError, "init is None"),
    (of("cp", 2, init=np.ones(3)), (TypeError, ValueError), "'random', 'svd', a model or a fit"),
    (of("cp", 2, init=[np.ones((4, 2))]), (TypeError, ValueError), "'random', 'svd', a model or a fit"),
    (of(init=tc.CP.random((4, 3, 6), 2, 0)), ValueError, r"\(4, 3, 6\).*\(4, 3, 5\)"),
    (of("tc", init=CP), ValueError, "drop one"),
    (of("nonsense", init=CP), ValueError, "nonsense"),
    (of(tc.Tucker, init=CP), ValueError, "drop one"),
    (of(rank=3, init=CP), ValueError, "rank 3.*rank 2"),
    (of("cp", 2, starts=0), ValueError, "starts is 0"),
    (of("cp", 2, starts=-1), ValueError, "starts is -1"),
    (of("cp", 2, starts=2.0), (TypeError, ValueError), r"starts is 2\.0"),
    (of("cp", 2, starts=True), (TypeError, ValueError), "starts is True"),
    (of("cp", 2, starts="2"), (TypeError, ValueError), "starts is '2'"),
    (of("cp", 2, max_seconds=0), ValueError, "max_seconds is 0"),
    (of("cp", 2, max_seconds=-1.0), ValueError, r"max_seconds is -1\.0"),
    (of("cp", 2, max_seconds=NAN), ValueError, "max_seconds is nan"),
    (of("cp", 2, max_seconds="1"), (TypeError, ValueError), "max_seconds is '1'"),
    (of("cp", 2, callback=3), TypeError, "callback is 3"),
    (of("cp", 2, rng="seed"), TypeError, r".+"),
    (of("cp", 2, rng=-1), ValueError, r".+"),
    (of("cp", 2, rng=1.5), TypeError, r".+"),
    (of("cp", 2, tc.ALS()), TypeError, "positional"),
]

OPTIONS = [
    (lambda: tc.ALS(max_iter=0), ValueError, "ALS: max_iter is 0"),
    (lambda: tc.ALS(max_iter=-1), ValueError, "ALS: max_iter is -1"),
    (lambda: tc.ALS(max_iter=2.5), (TypeError, ValueError), r"max_iter is 2\.5"),
    (lambda: tc.ALS(tol=-1e-3), ValueError, r"ALS: tol is -0\.001"),
    (lambda: tc.ALS(tol=NAN), ValueError, "tol is nan"),
    (lambda: tc.ALS(exact=NAN), ValueError, "exact is nan"),
    (lambda: tc.LM(max_iter=0), ValueError, "LM: max_iter is 0"),
    (lambda: tc.LM(tol=NAN), ValueError, "LM: tol is nan"),
    (lambda: tc.LM(damping=-1.0), ValueError, r"LM: damping is -1\.0"),
    (lambda: tc.LM(max_iter="3"), (TypeError, ValueError), "max_iter is '3'"),
    (lambda: tc.Path(max_iter=0), ValueError, "Path: max_iter is 0"),
    (lambda: tc.Path(tol=NAN), ValueError, "tol is nan"),
    (lambda: tc.Penalty(-1.0), ValueError, r"Penalty: weight is -1\.0"),
    (lambda: tc.Penalty(NAN), ValueError, "nan"),
    (lambda: tc.Penalty(float("inf")), ValueError, "inf"),
    (lambda: tc.Penalty("1"), TypeError, "'1'"),
    (lambda: tc.Penalty(True), TypeError, "True"),
    (lambda: tc.Penalty(None), TypeError, "None"),
    (lambda: tc.SensitivityBound(0.0), ValueError, r"SensitivityBound: limit is 0\.0"),
    (lambda: tc.SensitivityBound(-5), ValueError, "-5"),
    (lambda: tc.SensitivityBound(float("inf")), ValueError, "inf"),
    (lambda: tc.ErrorBound(0), ValueError, "ErrorBound: limit is 0"),
    (lambda: tc.ErrorBound(NAN), ValueError, "nan"),
    (lambda: tc.ErrorBound([0.1]), TypeError, r"\[0\.1\]"),
]


class TestErrors:
    @pytest.mark.parametrize(("model", "rank", "error", "fragment"), RANKS, ids=lambda value: repr(value)[:30])
    def test_ranks(self, model: str, rank: Any, error: Any, fragment: str) -> None:
        with pytest.raises(error, match=fragment):
            tc.decompose(T, model, rank)

    @pytest.mark.parametrize(("call", "error", "fragment"), ARGUMENTS)
    def test_arguments(self, call: Any, error: Any, fragment: str) -> None:
        arguments, keywords = call
        with pytest.raises(error, match=fragment):
            tc.decompose(T, *arguments, **keywords)

    @pytest.mark.parametrize(("make", "error", "fragment"), OPTIONS)
    def test_options(self, make: Any, error: Any, fragment: str) -> None:
        with pytest.raises(error, match=fragment):
            make()

    @pytest.mark.parametrize("tensor", [np.zeros((3, 4)), np.zeros((2, 2, 2), dtype=int), np.zeros((2, 2), dtype=bool)])
    def test_a_zero_tensor(self, tensor: Any) -> None:
        with pytest.raises(ValueError, match="zero everywhere"):
            tc.decompose(tensor, "cp", rank=1)

    def test_a_tensor_below_all_scales(self) -> None:
        # 1 / ||T|| overflows.
        with pytest.raises(ValueError, match=r"scale|small|norm"):
            tc.decompose(np.full((3, 3), 1e-320), "cp", rank=1)

    def test_a_tensor_above_all_scales(self) -> None:
        with pytest.raises(ValueError, match=r"scale|large|norm|infinity"):
            tc.decompose(np.full((30, 30), 1.7e308), "cp", rank=1)

    def test_errors_name_no_more_than_is_readable(self) -> None:
        with pytest.raises((TypeError, ValueError)) as caught:
            tc.decompose(T, "cp", rank=2, init=np.ones((100, 100)))  # type: ignore[arg-type]
        assert len(str(caught.value)) < 2000


class TestWhatIsAccepted:
    @pytest.mark.parametrize(
        ("model", "rank", "kept"),
        [
            ("cp", 2, 2),
            ("cp", np.int64(2), 2),
            ("tucker", 2, (2, 2, 2)),
            ("tucker", [2, 3, 2], (2, 3, 2)),
            ("tucker", np.array([2, 3, 2]), (2, 3, 2)),
            ("tc", 2, (2, 2, 2)),
            ("tc", (2, 1, 3), (2, 1, 3)),
            ("tc", range(1, 4), (1, 2, 3)),
            ("btd", [(2, 2, 2), (1, 2, 1)], [(2, 2, 2), (1, 2, 1)]),
            ("btd", ((2, 2, 2),), [(2, 2, 2)]),
            ("btd", [[2, 2, 2], (1, 1, 1)], [(2, 2, 2), (1, 1, 1)]),
            (tc.TensorChain, 1, (1, 1, 1)),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_ranks(self, model: Any, rank: Any, kept: Any) -> None:
        assert tc.decompose(T, model, rank, solver=tc.ALS(max_iter=2), rng=0).model.rank == kept

    @pytest.mark.parametrize("rank", [2, (2, 2, 2), [2, 2, 2], np.array([2, 2, 2])], ids=repr)
    def test_the_rank_of_init_in_any_spelling(self, rank: Any) -> None:
        fit = tc.decompose(T, "tucker", rank, init=TUCKER, solver=tc.ALS(max_iter=2))
        assert fit.model.rank == (2, 2, 2)

    def test_numbers_of_numpy(self) -> None:
        fit = tc.decompose(
            T,
            "cp",
            rank=2,
            solver=tc.ALS(max_iter=np.int64(3)),
            constraint=tc.Penalty(np.float32(0.5)),
            starts=np.int32(2),
            max_seconds=np.float64(10.0),
            rng=np.int64(1),
        )
        assert len(fit.starts) == 2

    def test_bounds_of_numpy(self) -> None:
        assert tc.SensitivityBound(np.int64(5)).limit == 5
        assert tc.ErrorBound(np.float64(0.5)).limit == 0.5

    def test_inputs_are_not_changed(self) -> None:
        tensor, ranks = T.copy(), [(2, 2, 2), (1, 1, 1)]
        tc.decompose(tensor, "btd", ranks, solver=tc.LM(max_iter=3), rng=0)
        assert np.array_equal(tensor, T)
        assert ranks == [(2, 2, 2), (1, 1, 1)]

    def test_without_a_seed_two_calls_differ(self) -> None:
        one, two = (tc.decompose(T, "cp", 2, solver=tc.ALS(max_iter=2)) for _ in range(2))
        assert one.error != two.error

    def test_nested_lists(self) -> None:
        assert tc.decompose(T.tolist(), "cp", 1, solver=tc.ALS(max_iter=2), rng=0).model.shape == T.shape

    def test_orders_two_to_ten(self) -> None:
        for order in (2, 3, 5, 10):
            tensor = np.random.default_rng(order).standard_normal((2,) * order)
            for model, rank in (("cp", 2), ("tucker", 1), ("tc", 1), ("btd", [(1,) * order])):
                fit = tc.decompose(tensor, model, rank, solver=tc.ALS(max_iter=2), rng=0)
                assert fit.model.order == order
                assert np.isfinite(fit.sensitivity)


@pytest.mark.parametrize("model", ["cp", "tucker", "btd", "tc", "tt"])
@pytest.mark.parametrize(
    "rank", [np.ones((3, 4, 5)), [1] * 500, [[1] * 400], ["x" * 900]], ids=["array", "long", "deep", "text"]
)
def test_messages_about_ranks_hold_no_array(model: str, rank: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"rank|bonds") as caught:
        tc.decompose(np.ones((3, 4, 5)), model, rank)
    assert len(str(caught.value)) < 300
