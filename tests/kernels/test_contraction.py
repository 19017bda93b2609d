"""Plans against NumPy's own einsum, for small operands and for large ones that are read as they lie."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorchain.kernels import contract, recycling

LARGE = [
    "ijk,ri->rjk",
    "ijk,jr->ikr",
    "ijk,kr->ijr",
    "ijk,rjk->ir",
    "ijk,ir,jr->kr",
    "ijk,jr,kr->ir",
    "rjk,jr->kr",
    "abij,bcj->aci",
    "ijk,iab,jbc->kca",
    "iab,jbc,kca->ijk",
    "ir,jr,kr->ijk",
    "abc,ia,jb,kc->ijk",
    "ijk,ijk->",
    "ijk,ijk->i",
    "ijk,ab->ijkab",
    "ijk,i->jk",
]
SIZES = dict.fromkeys("ijk", 30) | dict.fromkeys("abcr", 5)


def gaussian(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Any:
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if dtype[0] == "c" else real).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
@pytest.mark.parametrize("subscripts", LARGE)
def test_large_operands(subscripts: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    inputs = subscripts.split("->")[0].split(",")
    operands = [gaussian(tuple(SIZES[x] for x in letters), dtype, rng) for letters in inputs]
    expected = np.einsum(subscripts, *[operand.astype("complex128") for operand in operands], optimize=True)
    with recycling():
        for _ in range(2):
            value = contract(subscripts, *operands)
    assert value.shape == expected.shape
    assert value.dtype == np.dtype(dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert np.linalg.norm(value - expected) <= tolerance * np.linalg.norm(expected)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """Any contraction of two to four operands over up to six letters."""
    letters = string.ascii_lowercase[: draw(st.integers(2, 6))]
    some = st.lists(st.sampled_from(letters), unique=True, min_size=1, max_size=4).map("".join)
    inputs = draw(st.lists(some, min_size=2, max_size=4))
    present = sorted(set("".join(inputs)))
    output = "".join(draw(st.lists(st.sampled_from(present), unique=True)))
    sizes = {x: draw(st.sampled_from((1, 2, 3, 21))) for x in letters}
    return ",".join(inputs) + "->" + output, sizes


@settings(deadline=None, max_examples=60)
@given(expressions())
def test_any_contraction(expression: tuple[str, dict[str, int]]) -> None:
    subscripts, sizes = expression
    rng = np.random.default_rng(1)
    inputs = subscripts.split("->")[0].split(",")
    operands = [rng.standard_normal([sizes[x] for x in letters]) for letters in inputs]
    expected = np.einsum(subscripts, *operands, optimize=True)
    # Against the sum of the absolute values: the sum itself may cancel.
    bound = np.einsum(subscripts, *map(np.abs, operands), optimize=True)
    assert np.all(np.abs(contract(subscripts, *operands) - expected) <= 1e-12 * bound)


def test_operands_that_are_not_contiguous() -> None:
    rng = np.random.default_rng(2)
    T = rng.standard_normal((30, 31, 64))[:, ::-1, ::2].transpose(1, 2, 0)
    A = rng.standard_normal((6, 31)).T
    assert np.allclose(contract("jki,jr->rki", T, A), np.einsum("jki,jr->rki", T, A), rtol=1e-12, atol=1e-12)


def test_an_index_within_one_operand_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats an index"):
        contract("ii,ij->j", np.eye(3), np.eye(3))


def test_sizes_that_disagree_are_named() -> None:
    with pytest.raises(ValueError, match="index j has sizes 3 and 4"):
        contract("ij,jk->ik", np.ones((2, 3)), np.ones((4, 2)))
