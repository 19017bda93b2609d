"""Where an axis of a value is after a node of an ONNX graph that leaves it whole.

Transpositions and changes of the other axes move an axis or leave it where it is; a node that mixes or cuts its entries
ends it.  What a node does to its other axes is a matter of attributes in old opsets, of constant inputs in new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorchain.kernels import Array

ELEMENTWISE = frozenset((
    "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Gelu", "Mish",
    "Softplus", "Softsign", "ThresholdedRelu", "Clip", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign",
    "Floor", "Ceil", "Round", "Identity", "Dropout", "Cast", "Swish", "Sin", "Cos", "Not",
))  # fmt: skip
"""Operators that change each entry by itself."""
BROADCAST = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where", "Greater", "Less", "Equal",
    "GreaterOrEqual", "LessOrEqual", "And", "Or",
))  # fmt: skip
"""Those that do so to entries of several values, whose axes are counted from the last one."""
POOLS = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"))
"""Those that take entries of one channel together."""
REDUCTIONS = tuple(
    f"Reduce{what}"
    for what in ("Mean", "Max", "Min", "Sum", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)  # fmt: skip
MOVES = frozenset((*REDUCTIONS, "Transpose", "Squeeze", "Unsqueeze", "Pad", "Slice", "Softmax", "LogSoftmax"))
"""Operators that `axis_after` knows."""


def axis_after(
    operator: str, axis: int, rank: int, attributes: Mapping[str, Any], numbers: Sequence[Array | None], opset: int = 17
) -> int | None:
    """The axis in the output, or None where it is not whole there.

    Parameters
    ----------
    operator : str
        Of `MOVES`.
    axis, rank : int
        Of the first input.
    attributes : mapping of str to object
        Of the node.
    numbers : sequence of ndarray or None
        The constant inputs behind the first; None for those that are left out.
    opset : int
        Of the model.

    Examples
    --------
    >>> import numpy as np
    >>> axis_after("Transpose", 1, 4, {"perm": [0, 2, 3, 1]}, [])
    3
    >>> [axis_after("ReduceMean", 3, 4, {"axes": [1, 2], "keepdims": keep}, []) for keep in (1, 0)]
    [3, 1]
    >>> [axis_after("Unsqueeze", 1, 3, {}, [np.array(axes)]) for axes in ([0], [-1], [0, 2])]
    [2, 1, 3]
    """

    def given(name: str, place: int) -> list[int] | None:
        if len(numbers) > place and numbers[place] is not None:
            return [int(value) for value in numbers[place].ravel()]  # type: ignore[union-attr]
        return None if attributes.get(name) is None else [int(value) for value in attributes[name]]

    if operator == "Transpose":
        order = given("perm", len(numbers)) or list(range(rank))[::-1]
        return order.index(axis)
    if operator in ("Softmax", "LogSoftmax"):
        # Before opset 13 all axes from this one on are one.
        return None if opset < 13 or int(attributes.get("axis", -1)) % rank == axis else axis
    if operator == "Pad":
        pads, axes = given("pads", 0) or [], given("axes", 2)
        places = list(range(rank)) if axes is None else [a % rank for a in axes]
        if len(pads) != 2 * len(places):
            return None
        ends = dict(zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True))
        return axis if not any(ends.get(axis, ())) else None
    axes = given("axes", 2 if operator == "Slice" else 0)
    if operator == "Slice":
        starts = given("starts", 0) or []
        axes = list(range(len(starts))) if axes is None else axes
        return axis if starts and axis not in [a % rank for a in axes] else None
    if not axes:
        # All of them, or none.
        return None
    if operator == "Unsqueeze":
        new = {a % (rank + len(axes)) for a in axes}
        return [a for a in range(rank + len(axes)) if a not in new][axis]
    gone = {a % rank for a in axes}
    if axis in gone:
        return None
    left = operator != "Squeeze" and attributes.get("keepdims", 1)
    return axis if left else axis - sum(a < axis for a in gone)
