"""Arithmetic of models: sums, differences and multiples, none of which forms the tensor.

**Sums.**  Let the operands of block k in two models of one wiring be A_k and B_k, with bonds of sizes R_l and S_l.  Put
A_k and B_k on the diagonal of a larger operand with bonds of sizes R_l + S_l.  In the network each bond then stands for
an entry of A's or of B's; a connected network takes either all of A's or all of B's, which is the sum.  Wirings of
several terms list the terms of both.

**Arrays of NumPy** on the other side of + and - make an array: `T - model` is the residual.

**Equality** is that of all stored numbers, of the wiring and of the class; two gauges of one tensor are not equal, and
`numpy.allclose(m, n)` compares tensors.
"""

from __future__ import annotations

import cmath
import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from tensorchain.kernels import Array
from tensorchain.models.form import Form
from tensorchain.models.network import Network, Term

Self = TypeVar("Self", bound="Arithmetic")


class Arithmetic(Form):
    """Sums and multiples of models."""

    __array_priority__ = 1000.0
    """NumPy's numbers and arrays leave `2 * model` and `T - model` to the model."""

    def scaled(self: Self, factor: complex) -> Self:
        """The model of factor * X, the size of the factor spread evenly over the blocks, its sign on the first.

        Parameters
        ----------
        factor : number
            Finite; a complex one makes the model complex.

        Returns
        -------
        Model

        Raises
        ------
        TypeError
            When the factor is no number.
        ValueError
            When it is NaN, infinite, or beyond the range of the blocks.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> cp = tc.CP.random((3, 4), 2, rng=0)
        >>> bool(np.allclose(cp.scaled(-8.0).full(), -8.0 * cp.full()))
        True
        """
        if not _is_number(factor):
            raise TypeError(f"a model times {factor!r} was asked for; a number is needed")
        factor = factor.item() if isinstance(factor, (np.ndarray, np.generic)) else factor
        if not cmath.isfinite(factor):
            raise ValueError(f"a model times {factor} was asked for; a finite number is needed")
        size = abs(factor)
        share = float(size) ** (1.0 / len(self._matrices))
        if share > float(np.finfo(self.dtype).max):
            raise ValueError(
                f"a model times {factor} is beyond the range of {self.dtype}; use model.astype(float) first"
            )
        matrices = [matrix * matrix.dtype.type(share) for matrix in self._matrices]
        sign = complex(factor) / size if size else 1.0
        if sign != 1.0:
            matrices[0] = matrices[0] * (sign if sign.imag else matrices[0].dtype.type(sign.real))
            if sign.imag:
                matrices = [matrix.astype(np.complex128, copy=False) for matrix in matrices]
        return self.with_matrices(matrices)

    def __mul__(self: Self, factor: Any) -> Self:
        if not _is_number(factor):
            refused: Self = _refused("times", factor)
            return refused
        return self.scaled(factor)

    __rmul__ = __mul__

    def __truediv__(self: Self, factor: Any) -> Self:
        if not _is_number(factor):
            refused: Self = _refused("divided by", factor)
            return refused
        if factor == 0:
            raise ZeroDivisionError("a model cannot be divided by zero")
        return self.scaled(1.0 / factor)

    def __neg__(self: Self) -> Self:
        return self.scaled(-1.0)

    def __pos__(self: Self) -> Self:
        return self

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Arithmetic):
            return self._plus(other)
        if isinstance(other, np.ndarray) and other.ndim:
            return self.full() + other
        return _refused("plus", other)

    def __radd__(self, other: Any) -> Any:
        # `sum` begins with zero.
        if _is_number(other) and other == 0:
            return self
        return self.__add__(other)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Arithmetic):
            return self._plus(-other)
        if isinstance(other, np.ndarray) and other.ndim:
            return self.full() - other
        return _refused("minus", other)

    def __rsub__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray) and other.ndim:
            return other - self.full()
        return _refused("taken from", other)

    def _plus(self, other: Arithmetic) -> Arithmetic:
        if self.shape != other.shape:
            raise ValueError(f"models of shapes {self.shape} and {other.shape} cannot be added; equal ones are needed")
        kind = type(other) if isinstance(self, type(other)) else type(self)
        if not isinstance(other, kind) or self.network.modes != other.network.modes:
            raise TypeError(
                f"a {type(self).__name__} and a {type(other).__name__} were to be added; two models of one kind are "
                "needed, whose ranks add: take model.full() for arrays"
            )
        return kind.from_matrices(*self._joined(other))

    def _joined(self, other: Arithmetic) -> tuple[Network, list[Array]]:
        """Wiring and blocks of a sum: the direct sum along all bonds, or the terms of both where there are several."""
        mine, theirs = self.network.terms, other.network.terms
        if len(mine) > 1 or len(theirs) > 1 or mine[0].bonds != theirs[0].bonds:
            return self._terms_of_both(other)
        term = mine[0]
        if not _is_connected(term):
            return self._terms_of_both(other)
        matrices = [
            direct_sum(one, two).reshape(len(one), -1)
            for one, two in zip(self.operands(0), other.operands(0), strict=True)
        ]
        sizes = tuple((letter, size + theirs[0].size_of[letter]) for letter, size in term.sizes)
        return Network((Term(term.bonds, sizes),), self.network.modes), matrices

    def _terms_of_both(self, other: Arithmetic) -> tuple[Network, list[Array]]:
        network = Network((*self.network.terms, *other.network.terms), self.network.modes)
        pairs = zip(self._matrices, other._matrices, strict=True)
        return network, [np.concatenate(pair, axis=1) for pair in pairs]

    # -- identity -----------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Arithmetic):
            return NotImplemented
        return (
            type(self) is type(other)
            and self.network == other.network
            and self._row_counts == other._row_counts
            and all(
                one.dtype == two.dtype and np.array_equal(one, two)
                for one, two in zip(self._matrices, other._matrices, strict=True)
            )
        )

    def __hash__(self) -> int:
        # Equal models have equal hashes; a few entries tell most others apart.
        return hash((type(self), self.network, self.shape, *(matrix.flat[0].item() for matrix in self._matrices)))


def _refused(operation: str, other: object) -> Any:
    """NotImplemented; a TypeError for NumPy's arrays and numbers, which would take the model for an array."""
    if isinstance(other, (np.ndarray, np.generic)):
        raise TypeError(f"a model {operation} a {type(other).__name__}: take model.full() for arithmetic of entries")
    return NotImplemented


def direct_sum(one: Array, two: Array, shared: Sequence[int] = (0,)) -> Array:
    """Two arrays on the diagonal of a larger one along all axes but the shared ones, whose sizes are equal."""
    shape = [a if axis in shared else a + b for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True))]
    total = np.zeros(shape, dtype=np.result_type(one, two))
    total[tuple(slice(size) for size in one.shape)] = one
    total[tuple(slice(None) if axis in shared else slice(size, None) for axis, size in enumerate(one.shape))] += two
    return total


def _is_connected(term: Term) -> bool:
    """Whether all blocks hang together by their bonds."""
    reached, letters = {0}, set(term.bonds[0])
    while True:
        more = {k for k, bonds in enumerate(term.bonds) if k not in reached and letters & set(bonds)}
        if not more:
            return len(reached) == len(term.bonds)
        reached |= more
        letters.update(*(term.bonds[k] for k in more))


def _is_number(value: object) -> bool:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.dtype.kind in "iufc"
    return isinstance(value, (numbers.Number, np.number)) and not isinstance(value, (bool, np.bool_))
