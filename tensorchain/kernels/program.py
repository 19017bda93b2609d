"""Array operations on memory that stays where it is.

A solver on small data spends less time on arithmetic than on asking for arrays, reshaping and permuting them, and
looking up how that is done.  A program does this once: its arrays are made and viewed in all the ways that they
will be needed in when it is written, and to run it is to call NumPy's functions on them, one after the other.  What
changes between two runs is copied into the arrays, or changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tensorchain.kernels.contraction import View, lowered
from tensorchain.kernels.linalg import Array


class Program:
    """Steps that are run in the order in which they were written.

    Examples
    --------
    >>> a, b = np.ones((2, 3)), np.ones((3, 2))
    >>> program = Program()
    >>> product = program.contract("ij,jk->ki", a, b)
    >>> a[0] = 2.0
    >>> program.run()
    >>> product.tolist()
    [[6.0, 3.0], [6.0, 3.0]]
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], Any]] = []

    def run(self) -> None:
        """Run all steps."""
        for step in self._steps:
            step()

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Write a step: a function that puts its result into one of its arguments."""
        self._steps.append(partial(function, *arguments, **keywords))

    def product(self, left: Array, right: Array, out: Array | None = None) -> Array:
        """left @ right."""
        if out is None:
            out = np.matmul(left, right)
        self.call(np.matmul, left, right, out=out)
        return out

    def matrix(self, array: Array, shape: tuple[int, ...]) -> Array:
        """An array in another shape: a view where that is one, a copy made in each run where not."""
        view = array.reshape(shape)
        if np.shares_memory(view, array):
            return view
        copy = np.array(array, order="C")
        self.call(np.copyto, copy, array)
        return copy.reshape(shape)

    def contract(self, subscripts: str, *operands: Array) -> Array:
        """Einsum with explicit subscripts, as :func:`tensorchain.kernels.contract`; an array that the runs fill."""
        plan = lowered(subscripts, tuple(operand.shape for operand in operands))
        stack = list(operands)
        for position, lonely in plan.sums:
            stack[position] = self._sum(stack[position], lonely)
        if plan.order is not None:
            stack = [stack[position] for position in plan.order]
        for step in plan.steps:
            b = self._viewed(stack.pop(step.right), step.right_view)
            a = self._viewed(stack.pop(step.left), step.left_view)
            if step.right_first:
                a, b = b, a
            if step.multiply:
                value = np.multiply(a, b)
                self.call(np.multiply, a, b, out=value)
            else:
                value = self.product(a, b)
            if step.summed:
                value = self._sum(value, step.summed)
            stack.append(value.reshape(step.shape))
        return stack[0] if plan.axes is None else stack[0].transpose(plan.axes)

    def _sum(self, array: Array, axes: tuple[int, ...]) -> Array:
        total = np.asarray(array.sum(axis=axes))
        self.call(np.add.reduce, array, axis=axes, out=total)
        return total

    def _viewed(self, array: Array, view: View) -> Array:
        array = array if view.axes is None else array.transpose(view.axes)
        array = self.matrix(array, view.shape)
        return array.swapaxes(-1, -2) if view.swap else array
