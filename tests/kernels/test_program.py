"""Programs against NumPy's einsum, run again after their inputs have changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tensorchain.kernels.program import Program
from tests.kernels.test_contraction import LARGE, SIZES, expressions, gaussian


def check(subscripts: str, shapes: list[list[int]], dtype: str) -> None:
    rng = np.random.default_rng(0)
    operands = [gaussian(tuple(shape), dtype, rng) for shape in shapes]
    program = Program()
    result = program.contract(subscripts, *operands)
    for _ in range(2):
        for operand in operands:
            operand[...] = gaussian(operand.shape, dtype, rng)
        program.run()
        expected = np.einsum(subscripts, *operands, optimize=True)
        bound = np.einsum(subscripts, *map(np.abs, operands), optimize=True)
        assert result.shape == expected.shape
        assert np.all(np.abs(result - expected) <= 1e-12 * bound)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("subscripts", LARGE)
def test_large_operands(subscripts: str, dtype: str) -> None:
    inputs = subscripts.split("->")[0].split(",")
    check(subscripts, [[SIZES[x] for x in letters] for letters in inputs], dtype)


@settings(deadline=None, max_examples=100)
@given(expressions())
def test_any_contraction(expression: Any) -> None:
    subscripts, sizes = expression
    check(subscripts, [[sizes[x] for x in letters] for letters in subscripts.split("->")[0].split(",")], "float64")


def test_steps_follow_one_another() -> None:
    values, program = np.arange(6.0).reshape(2, 3), Program()
    gram = program.product(values, values.T)
    turned = program.matrix(values.T, (6,))
    program.call(np.multiply, gram, 2.0, out=gram)
    values += 1.0
    program.run()
    assert np.array_equal(gram, 2.0 * values @ values.T)
    assert np.array_equal(turned, values.T.ravel())
