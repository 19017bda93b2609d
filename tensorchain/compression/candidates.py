"""Ranks that a layer could take, with their costs and quickly measured errors.

For each method the ranks lie on a ladder whose parameters go from 1 % to 90 % of the dense kernel's in equal ratios;
along a ladder the ranks stay in the proportion of the channels (a : b = S : T).  A chain has one ladder for each number
of folds, a BTD one for each number of terms.

**Reduction first.**  The kernel (S, D, T) is rotated once onto the singular vectors of its modes S and T.  A model
whose first block has P columns is fitted to the first min(S, P) rows of the rotated kernel, and its last block
likewise: what is cut off is ||W||^2 - ||core||^2, to the last digit, and the fit is one of a small core.

**Short fits.**  The rotated kernel gives the errors of SVD and Tucker-2 at all ranks at once.  Chains and block terms
start from orthonormal groups (:mod:`tensorchain.compression.starts`), which is all that wide ones get;
CP starts from the strongest singular pairs of the rotated taps; a few sweeps of alternating least squares follow.  The
errors rank candidates; the chosen one is fitted again with care.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry, LayerPlan, Pair, Sizes, macs_of
from tensorchain.compression.fitting import METHODS, WIDEST
from tensorchain.compression.kernel_search import fitted, started
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, plan_of, tensor_kernel, tucker_cp
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.starts import orthonormal_groups
from tensorchain.kernels import Array
from tensorchain.models import CP, Model, TensorChain

FOLDS = (2, 3)
TERMS = (2, 4)
_QUICK, _WIDE = 12, 2
"""Most sweeps of a short fit, and where the rank of a CP is above `_WIDE_RANK`."""
_WIDE_RANK = 256
_DENSER = {"svd": 4, "tucker2": 2}
"""Times as many ranks on ladders whose errors all come from one decomposition."""
_LEAST, _MOST = 0.01, 0.9
"""Ends of a ladder, as shares of the kernel's parameters."""


@dataclass(frozen=True)
class Candidate:
    """One rank of a layer.

    Attributes
    ----------
    rank : int, tuple or list
        As in `fit_kernel`.
    parameters, macs : int
        Of the layers that would replace it.
    error : float
        Squared relative error, of the kernel or of the output; 0 when not measured.
    method : str
        One of `METHODS`; "dense" for the layer as it is.
    seconds : float
        Of a pass, where the budget is a time; else 0.
    """

    rank: Any
    parameters: int
    macs: int
    error: float = 0.0
    method: str = "dense"
    seconds: float = 0.0

    def cost(self, budget: str) -> float:
        """What a budget, one of `BUDGETS`, counts of it."""
        return float({"keep_macs": self.macs, "keep_params": self.parameters, "keep_latency": self.seconds}[budget])


def ladder(method: str, shape: Sizes, candidates: int = 6) -> list[Any]:
    """Ranks for a kernel (T, S, D1, ..), from 1 to 90 % of its parameters; `candidates` on each ladder, or a multiple.

    Examples
    --------
    >>> ladder("tucker2", (32, 16, 3, 3), candidates=2)
    [(1, 1), (2, 4), (5, 11), (13, 26)]
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    outputs, inputs, *window = shape
    taps, size = math.prod(window), math.prod(shape)
    shares = np.geomspace(_LEAST, _MOST, max(candidates, 2) * _DENSER.get(method, 1))

    def pairs(groups: int) -> Iterator[tuple[int, int]]:
        # Of a = y S and b = y T: groups (y S^2 + y^2 S T D + y T^2) parameters.
        for share in shares:
            y = _root(groups * size, groups * (inputs**2 + outputs**2), share * size)
            yield max(1, round(y * inputs)), max(1, round(y * outputs))

    found: list[Any]
    if method in ("cp3", "cp4", "svd"):
        each = inputs + outputs + {"svd": 0, "cp3": taps, "cp4": window[0] + math.prod(window[1:])}[method]
        found = [max(1, round(share * size / each)) for share in shares]
    elif method == "tucker2":
        found = list(pairs(1))
    elif method == "tucker-cp":
        larger = max(inputs, outputs)
        # R = 2 max(a, b): y (S^2 + T^2) + 2 y max(S, T) (y (S + T) + D) parameters.
        linear = inputs**2 + outputs**2 + 2 * larger * taps
        ys = [_root(2 * larger * (inputs + outputs), linear, share * size) for share in shares]
        ab = [(max(1, round(y * inputs)), max(1, round(y * outputs))) for y in ys]
        found = [(a, b, min(2 * max(a, b), a * b, taps * min(a, b))) for a, b in ab]
    elif method == "btd":
        found = [[pair] * terms for terms in TERMS for pair in pairs(terms)]
    else:
        found = [(folds, *pair) for folds in FOLDS for pair in pairs(folds)]
    return [rank for n, rank in enumerate(found) if rank not in found[:n] and _fits(method, rank, shape)]


def _root(square: float, linear: float, value: float) -> float:
    """The positive y with square y^2 + linear y = value."""
    return 2.0 * value / (linear + math.sqrt(linear**2 + 4.0 * square * value))


def cost_of(method: str, rank: Any, shape: Sizes, geometry: Geometry, image: Sizes, grouped: bool = True) -> Candidate:
    """Parameters and multiplications at a rank, without fitting anything."""
    plan = blank_plan(method, rank, shape, geometry)
    plan = plan.grouped() if grouped else plan
    return Candidate(rank, plan.parameters, plan.macs(image), method=method)


def curve(
    kernel: Array,
    methods: str | Sequence[str],
    *,
    geometry: Geometry,
    image: Sizes,
    covariance: PatchCovariance | None = None,
    candidates: int = 6,
    grouped: bool = True,
    below: tuple[int, int] | None = None,
    refit: bool = False,
    rng: int | np.random.Generator | None = None,
) -> list[Candidate]:
    """Measured candidates of a kernel that are cheaper than the kernel itself.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, ..).
    methods : str or sequence of str
        One of `METHODS`, or several, whose candidates come in one list.
    image : Sizes
        Height and width of the layer's input, or its three sizes.
    covariance : PatchCovariance, optional
        Errors are those of the output when given, else those of the kernel.
    candidates : int, default 6
        Ranks on each ladder.
    grouped : bool, default True
        Whether the kernel that the groups of a chain share is stored for each of them.
    refit : bool, default False
        Whether errors of the output are those after a fit of the last layer to it.
    below : tuple of (int, int), optional
        Parameters and multiplications that a candidate must not reach; by default those of the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> points = curve(kernel, "tucker2", geometry=Geometry(), image=(8, 8), rng=0)
    >>> points[0].macs < points[-1].macs < 576 * 36, points[0].error > points[-1].error
    (True, True)
    """
    generator = np.random.default_rng(rng)
    shape, window = kernel.shape, kernel.shape[2:]
    double = kernel.astype(np.float64)
    most = kernel.size, macs_of(shape, geometry, image)
    if below is not None:
        most = min(most[0], below[0]), min(most[1], below[1])
    reduced = _Reduced(kernel_tensor(double))
    points = []
    names = (methods,) if isinstance(methods, str) else methods
    for method, rank in [(name, rank) for name in names for rank in ladder(name, shape, candidates)]:
        point = cost_of(method, rank, shape, geometry, image, grouped)
        if point.parameters >= most[0] or point.macs >= most[1]:
            continue
        error, approximation = reduced.fitted(method, rank, window, generator)
        if covariance is not None:
            measure = covariance.refitted_error if refit else covariance.relative_error
            error = measure(tensor_kernel(approximation(), window), double) ** 2
        points.append(replace(point, error=error))
    return sorted(points, key=lambda point: (point.macs, point.error))


class _Reduced:
    """A kernel (S, D, T) in the singular vectors of its modes S and T, and short fits of its corners."""

    def __init__(self, tensor: Array) -> None:
        self.first = _vectors(tensor.reshape(len(tensor), -1))
        self.last = _vectors(np.moveaxis(tensor, 2, 0).reshape(tensor.shape[2], -1))
        self.core = np.einsum("sdt,sa,tb->adb", tensor, self.first, self.last, optimize=True)
        self.energy = float(np.vdot(tensor, tensor))

    def fitted(
        self, method: str, rank: Any, window: Sizes, rng: np.random.Generator
    ) -> tuple[float, Callable[[], Array]]:
        """The squared relative error of a short fit, and a function that gives its (S, D, T)."""
        inner, outer = _columns(method, rank)
        corner = np.ascontiguousarray(self.core[: min(inner, len(self.core)), :, : min(outer, self.core.shape[2])])
        near = corner if method == "tucker2" else _short_fit(corner, method, rank, window, rng)
        left = self.energy - float(np.vdot(corner, corner)) + float(np.sum((near - corner) ** 2))

        def whole() -> Array:
            first, last = self.first[:, : near.shape[0]], self.last[:, : near.shape[2]]
            return np.asarray(np.einsum("adb,sa,tb->sdt", near, first, last, optimize=True))

        return max(left, 0.0) / self.energy, whole


def _vectors(rows: Array) -> Array:
    """All left singular vectors that rows can have, the strongest first."""
    if len(rows) > rows.shape[1]:
        # The Gram of 10,000 outputs of a last layer would take minutes, and most of it is zero.
        basis, small = np.linalg.qr(rows)
        return np.ascontiguousarray(basis @ _vectors(small))
    return np.ascontiguousarray(np.linalg.eigh(rows @ rows.T)[1][:, ::-1])


def _columns(method: str, rank: Any) -> Pair:
    """Columns of the first and of the last block of a model."""
    if method in ("tucker2", "tucker-cp"):
        return int(rank[0]), int(rank[1])
    if method == "btd":
        return sum(a for a, _ in rank), sum(b for _, b in rank)
    if method == "tc":
        return rank[0] * rank[1], rank[0] * rank[2]
    return int(rank), int(rank)


def _short_fit(tensor: Array, method: str, rank: Any, window: Sizes, rng: np.random.Generator) -> Array:
    """An approximation of a small core (S, D, T) by a short fit."""
    inputs, _, outputs = tensor.shape
    if method == "svd":
        # The core of a matrix is diagonal but for rounding: its corner is the truncated SVD.
        return tensor
    if method == "tucker-cp":
        return _swept(tensor, CP, int(rank[2]), rng)
    kind, rank = _kind(method, rank)
    if method in ("tc", "btd"):
        groups, pair = (rank[0], rank[1:]) if method == "tc" else (len(rank), rank[0])
        wide = max(kind.wiring(tensor.shape, rank).widths) > WIDEST
        if wide and groups * pair[0] <= inputs and groups * pair[1] <= outputs:
            return _full(orthonormal_groups(tensor, groups, pair, shared=method == "tc")[0])
    values = tensor.reshape(inputs, window[0], -1, outputs) if method == "cp4" else tensor
    return _swept(values, kind, rank, rng)


def _swept(tensor: Array, kind: type[Model], rank: Any, rng: np.random.Generator) -> Array:
    """An approximation (S, D, T) by a few sweeps."""
    problem = started(tensor, kind, rank, rng)
    fitted(problem, _QUICK if kind is not CP or rank <= _WIDE_RANK else _WIDE, 1e-3)
    return np.ascontiguousarray(problem.full().transpose(1, 0, 2))


def _full(model: Model) -> Array:
    """The tensor of a wide chain or BTD, one product a group."""
    if isinstance(model, TensorChain):
        first, core, last = model.cores
        terms = [(first[g], core.transpose(1, 0, 2), last[:, :, g].T) for g in range(len(first))]
    elif isinstance(model, Sandwich):
        terms = model.terms
    else:
        return np.asarray(model.full())
    return np.asarray(sum(np.einsum("sa,dab,tb->sdt", *term, optimize=True) for term in terms))


def _kind(method: str, rank: Any) -> tuple[type[Model], Any]:
    kinds: dict[str, type[Model]] = {"tc": TensorChain, "btd": Sandwich, "tucker2": Sandwich}
    return kinds.get(method, CP), [rank] if method == "tucker2" else rank


def blank_plan(method: str, rank: Any, shape: Sizes, geometry: Geometry) -> LayerPlan:
    """A plan with the shapes of a rank and no values."""
    outputs, inputs, *window = shape
    taps = math.prod(window)
    if method == "tucker-cp":
        a, b, r = rank
        core = CP([np.zeros((a, r)), np.zeros((taps, r)), np.zeros((b, r))])
        return tucker_cp(np.zeros((inputs, a)), core, np.zeros((outputs, b)), tuple(window), geometry, None)
    kind, rank = _kind(method, rank)
    sizes = _tensor_shape(method, shape)
    network = kind.wiring(sizes, rank)
    blank = [
        np.zeros((sizes[m] if m is not None else 1, w)) for m, w in zip(network.modes, network.widths, strict=True)
    ]
    return plan_of(kind.from_matrices(network, blank), tuple(window), geometry)


def _tensor_shape(method: str, shape: Sizes) -> Sizes:
    """Of the tensor that a method decomposes."""
    outputs, inputs, first, *rest = shape
    others = math.prod(rest)
    known: dict[str, Sizes] = {"svd": (inputs, outputs), "cp4": (inputs, first, others, outputs)}
    return known.get(method, (inputs, first * others, outputs))


def _fits(method: str, rank: Any, shape: Sizes) -> bool:
    """Whether every block has fewer unknowns for a row than there are data."""
    outputs, inputs, *window = shape
    sizes, taps = _tensor_shape(method, shape), math.prod(window)
    if method == "tucker-cp":
        a, b, r = rank
        return bool(a <= inputs and b <= outputs and 1 <= r <= min(a * taps, b * taps, a * b))
    inner, outer = _columns(method, rank)
    kind, rank = _kind(method, rank)
    try:
        network = kind.wiring(sizes, rank)
    except ValueError:
        return False
    if method in ("tc", "btd") and max(network.widths) > WIDEST and (inner > inputs or outer > outputs):
        # Too wide for least squares, and for orthonormal groups.
        return False
    entries = int(np.prod(sizes))
    return all(w <= entries // sizes[m] for m, w in zip(network.modes, network.widths, strict=True) if m is not None)
