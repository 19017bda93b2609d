"""Ranks that a layer could take, with their costs and quickly measured errors.

For each method the ranks lie on a short ladder from small to as large as is cheaper than the dense layer; along a
ladder the ranks keep the proportion of the channels (a : b = S : T).  A chain has one ladder for each number of folds,
a BTD one for each number of terms; the curve of a layer holds what no other candidate beats in cost and error.

Errors come from short least-squares fits: they rank candidates, the chosen one is fitted again with care.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.compression.conv import Geometry, LayerPlan, Pair
from tensorchain.compression.fitting import METHODS, best_matrix, best_tucker2
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, plan_of, tucker_cp
from tensorchain.compression.sandwich import Sandwich
from tensorchain.kernels import Array
from tensorchain.models import CP, Model, TensorChain
from tensorchain.solvers import ALS

FOLDS = (2, 3)
TERMS = (2, 4)
_QUICK = ALS(max_iter=12, tol=1e-3)
_WIDEST = 1024
"""Most unknowns for each row of a block of a chain or BTD: a least-squares step costs their cube."""


@dataclass(frozen=True)
class Candidate:
    """One rank of a layer.

    Attributes
    ----------
    rank : as in `fit_kernel`.
    parameters, macs : of the layers that would replace it.
    error : squared relative error, of the kernel or of the output; 0 when not measured.
    """

    rank: Any
    parameters: int
    macs: int
    error: float = 0.0


def ladder(method: str, shape: tuple[int, int, int, int], rungs: int = 6) -> list[Any]:
    """Ranks for a kernel (T, S, D1, D2), from small to full, at most `rungs` on each ladder.

    Examples
    --------
    >>> ladder("tucker2", (32, 16, 3, 3), rungs=4)
    [(1, 2), (2, 5), (6, 12), (14, 29)]
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    outputs, inputs, rows, columns = shape
    taps = rows * columns
    found: list[Any]

    def pairs(groups: int, largest: float) -> Iterator[tuple[int, int]]:
        for share in np.geomspace(1.0 / min(inputs, outputs), largest, rungs):
            a, b = max(1, round(share * inputs / groups)), max(1, round(share * outputs / groups))
            yield min(a, inputs), min(b, outputs)

    if method in ("cp3", "cp4", "svd"):
        # Up to the rank at which the layers cost as much as the kernel.
        most = inputs * outputs * taps / (inputs + outputs + (0 if method == "svd" else rows + columns))
        found = [max(1, round(rank)) for rank in np.geomspace(1.0, max(most, 1.0), rungs + 4)]
    elif method == "tucker2":
        found = list(pairs(1, 0.9))
    elif method == "tucker-cp":
        found = [(a, b, min(2 * max(a, b), a * b, taps * min(a, b))) for a, b in pairs(1, 0.9)]
    elif method == "btd":
        found = [[pair] * terms for terms in TERMS for pair in pairs(terms, 1.0)]
    else:
        found = [(folds, *pair) for folds in FOLDS for pair in pairs(folds, 1.4)]
    return [rank for n, rank in enumerate(found) if rank not in found[:n] and _fits(method, rank, shape)]


def cost_of(
    method: str, rank: Any, shape: tuple[int, int, int, int], geometry: Geometry, image: Pair, grouped: bool = True
) -> Candidate:
    """Parameters and multiplications at a rank, without fitting anything."""
    plan = _blank(method, rank, shape, geometry)
    plan = plan.grouped() if grouped else plan
    return Candidate(rank, plan.parameters, plan.macs(image))


def curve(
    kernel: Array,
    method: str,
    *,
    geometry: Geometry,
    image: Pair,
    covariance: PatchCovariance | None = None,
    rungs: int = 6,
    grouped: bool = True,
    below: tuple[int, int] | None = None,
    rng: int | np.random.Generator | None = None,
) -> list[Candidate]:
    """Measured candidates of a kernel that are cheaper than the kernel itself.

    Parameters
    ----------
    kernel : (T, S, D1, D2).
    image : height and width of the layer's input.
    covariance : errors are those of the output when given, else those of the kernel.
    rungs : ranks on each ladder.
    grouped : whether the kernel that the groups of a chain share is stored for each of them.
    below : parameters and multiplications that a candidate must not reach; by default those of the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> points = curve(kernel, "tucker2", geometry=Geometry(), image=(8, 8), rng=0)
    >>> points[0].macs < points[-1].macs < 576 * 36, points[0].error > points[-1].error
    (True, True)
    """
    generator = np.random.default_rng(rng)
    outputs, inputs, rows, columns = kernel.shape
    shape = (outputs, inputs, rows, columns)
    double = kernel.astype(np.float64)
    most = kernel.size, kernel.size * int(np.prod(geometry.output_size((rows, columns), image)))
    if below is not None:
        most = min(most[0], below[0]), min(most[1], below[1])
    points = []
    for rank in ladder(method, shape, rungs):
        point = cost_of(method, rank, shape, geometry, image, grouped)
        if point.parameters >= most[0] or point.macs >= most[1]:
            continue
        approximation = _quick(double, method, rank, generator)
        if covariance is None:
            error = float(np.linalg.norm(approximation - double) / np.linalg.norm(double))
        else:
            error = covariance.relative_error(approximation, double)
        points.append(Candidate(rank, point.parameters, point.macs, error**2))
    return sorted(points, key=lambda point: (point.macs, point.error))


def _quick(kernel: Array, method: str, rank: Any, rng: np.random.Generator) -> Array:
    """An approximation of the kernel by a short fit."""
    window = int(kernel.shape[2]), int(kernel.shape[3])
    tensor = kernel_tensor(kernel, {"svd": 2, "cp4": 4}.get(method, 3))
    if method == "tucker-cp":
        (left, core, right), *_ = best_tucker2(tensor, rank[:2]).terms
        inside = decompose(core.transpose(1, 0, 2), CP, rank[2], solver=_QUICK, init="svd", rng=rng).model
        return tucker_cp(left, CP(inside.blocks), right, window, Geometry(), None).kernel
    if method == "svd":
        model: Model = best_matrix(tensor, rank)
    elif method == "tucker2":
        model = best_tucker2(tensor, rank)
    else:
        kind, rank = _kind(method, rank)
        model = decompose(tensor, kind, rank, solver=_QUICK, init="svd", rng=rng).model
    return plan_of(model, window).kernel


def _kind(method: str, rank: Any) -> tuple[type[Model], Any]:
    kinds: dict[str, type[Model]] = {"tc": TensorChain, "btd": Sandwich, "tucker2": Sandwich}
    return kinds.get(method, CP), [rank] if method == "tucker2" else rank


def _blank(method: str, rank: Any, shape: tuple[int, int, int, int], geometry: Geometry) -> LayerPlan:
    """A plan with the shapes of a rank and no values."""
    outputs, inputs, rows, columns = shape
    window = rows, columns
    if method == "tucker-cp":
        a, b, r = rank
        core = CP([np.zeros((a, r)), np.zeros((rows * columns, r)), np.zeros((b, r))])
        return tucker_cp(np.zeros((inputs, a)), core, np.zeros((outputs, b)), window, geometry, None)
    tensor = {"svd": (inputs, outputs), "cp4": (inputs, rows, columns, outputs)}
    kind, rank = _kind(method, rank)
    network = kind.wiring(tensor.get(method, (inputs, rows * columns, outputs)), rank)
    sizes = tensor.get(method, (inputs, rows * columns, outputs))
    blank = [
        np.zeros((sizes[m] if m is not None else 1, w)) for m, w in zip(network.modes, network.widths, strict=True)
    ]
    return plan_of(kind.from_matrices(network, blank), window, geometry)


def _fits(method: str, rank: Any, shape: tuple[int, int, int, int]) -> bool:
    """Whether every block has fewer unknowns for a row than there are data."""
    outputs, inputs, rows, columns = shape
    sizes = {"svd": (inputs, outputs), "cp4": (inputs, rows, columns, outputs)}.get(
        method, (inputs, rows * columns, outputs)
    )
    if method == "tucker-cp":
        a, b, r = rank
        return bool(1 <= r <= min(a * rows * columns, b * rows * columns, a * b))
    kind, rank = _kind(method, rank)
    try:
        network = kind.wiring(sizes, rank)
    except ValueError:
        return False
    if method in ("tc", "btd") and max(network.widths) > _WIDEST:
        return False
    entries = int(np.prod(sizes))
    return all(w <= entries // sizes[m] for m, w in zip(network.modes, network.widths, strict=True) if m is not None)
