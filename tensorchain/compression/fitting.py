"""Fit a decomposition to the kernel of a convolution, with its sensitivity controlled or not.

**Error-preserving correction.**  A least-squares fit (:mod:`tensorchain.compression.kernel_search`) reaches a relative
error e.  Then, from there,

    minimise SS   subject to   ||W - X|| <= (1 + slack) e ||W||,

which gives factors that can be rounded and trained, at practically the same error.  Without it the fit is plain
least squares; its gauge is optimal in both cases, since that is free.

SVD (a matrix) and Tucker-2 have best approximations and need no correction: there the optimal gauge is the minimum.

**Few bits.**  With `weight_bits` the weights are then moved onto the grid of a quantizer, all together
(:mod:`tensorchain.compression.grid`); the stabilised fit is the start.

References: Phan et al., "Stable low-rank tensor decomposition for compression of convolutional neural network" (2020),
for the correction; Phan et al., "How to train your unstable looped tensor network" (2022).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.compression.conv import POINTWISE, Convolution, Geometry, LayerPlan, Sizes
from tensorchain.compression.grid import GridFit, fit_on_grid
from tensorchain.compression.kernel_search import finished, searched
from tensorchain.compression.patches import PatchCovariance
from tensorchain.compression.plans import kernel_tensor, plan_of, tucker_cp, tucker_cp_model, with_tucker_cp_model
from tensorchain.compression.quantize import MOST_BITS, check_bits
from tensorchain.compression.sandwich import Sandwich
from tensorchain.compression.starts import orthonormal_groups
from tensorchain.fit import StopReason
from tensorchain.kernels import Array
from tensorchain.models import CP, Model, TensorChain
from tensorchain.solvers import ALS, Constraint, ErrorBound, Path
from tensorchain.stability import allocate_bits, optimal_gauge

METHODS = ("cp3", "cp4", "tucker2", "tucker-cp", "btd", "tc", "svd")
"""Ranks: cp3, cp4, svd: R.  tucker2: (a, b).  tucker-cp: (a, b, R).  btd: [(a, b), ...].  tc: (R1, R2, R3)."""

_PLAIN, _CORRECTION = ALS(max_iter=200, tol=1e-5), ALS(max_iter=100, tol=1e-4)
"""Of the general solvers, for block terms of several sizes."""
_PATH = Path(cycles=1, stage_iter=30, max_iter=60, tol=1e-6)
_SMALL = 1500
"""Parameters up to which random starts are tried as well."""
_LARGE = 50_000
"""Entries of a kernel above which its core is fitted."""
WIDEST = 512
"""Most unknowns for each row of a block of a chain or BTD that least squares are solved for, at the cost of their cube.
Wider ones stay with orthonormal groups."""
_EXACT = 1e-6
"""Below this error a kernel in single precision is exact."""


@dataclass(frozen=True)
class KernelFit:
    """A decomposed kernel.

    Attributes
    ----------
    plan : LayerPlan
        The small convolutions.
    error : float
        ||W - X|| / ||W||.
    sensitivity : float
        SS / ||X||^(2(K-1)/K) of the plan.
    output_error : float or None
        Relative error of the layer's output on the calibration data, or None without them.
    stabilised : bool
        Whether the sensitivity was controlled: asked for, and reached within the time limit.
    seconds : float
        Time of the fit.
    bits : tuple of int or None
        Of each layer of the plan, where its weights lie on a grid; else None.
    rounded_error : float or None
        Error of the same fit with its weights only rounded to these bits, in the norm that was minimised.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    >>> compression.fit_kernel(kernel, "tucker2", (2, 2), rng=0).plan.method
    'tucker2'
    """

    plan: LayerPlan
    error: float
    sensitivity: float
    output_error: float | None
    stabilised: bool
    seconds: float
    bits: tuple[int, ...] | None = None
    rounded_error: float | None = None


def fit_kernel(
    kernel: Array,
    method: str,
    rank: Any,
    *,
    stabilise: bool | Constraint = True,
    slack: float = 0.02,
    geometry: Geometry = POINTWISE,
    bias: Array | None = None,
    covariance: PatchCovariance | None = None,
    fit_output: bool = True,
    weight_bits: int | None = None,
    share_bits: bool = False,
    rng: int | np.random.Generator | None = None,
    max_seconds: float | None = None,
) -> KernelFit:
    """Decompose a kernel and write it as small convolutions.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, D2), or (T, S, D1, D2, D3) over volumes; real.
    method : str
        One of `METHODS`; "svd" is for kernels of one tap.
    rank : int, tuple or list
        See `METHODS`.
    stabilise : bool or Constraint, default True
        True: least sensitivity at (1 + slack) times the least error found.  False: plain least squares. Or a
        constraint: `Penalty(nu)`, `SensitivityBound(s)`, `ErrorBound(e)`.
    slack : float, default 0.02
        Relative increase of the error that the correction may use.
    geometry : Geometry, optional
        Of the layer.
    bias : ndarray, optional
        Of the layer.
    covariance : PatchCovariance, optional
        Of the layer's input patches; the error of the output is then reported ...
    fit_output : bool, default True
        ... and minimised, instead of that of the kernel.
    weight_bits : int, optional
        2 to 8: the weights of each layer become integers of so many bits times one step; None: free.
    share_bits : bool, default False
        `weight_bits` is the mean over all weights, and `tc.allocate_bits` shares it out among the layers.
    rng : int or numpy.random.Generator, optional
        Seed or generator.
    max_seconds : float, optional
        Time limit of the search, and of what finishes it on a large kernel.

    Returns
    -------
    KernelFit
        With weights in the dtype of the kernel.

    Raises
    ------
    TypeError
        When the rank is of another kind than the method needs.
    ValueError
        When the kernel is zero or the method or rank does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    >>> fit = fit_kernel(kernel, "tc", (2, 3, 3), rng=0)
    >>> plain = fit_kernel(kernel, "tc", (2, 3, 3), stabilise=False, rng=0)
    >>> fit.error <= 1.03 * plain.error, fit.sensitivity < plain.sensitivity, fit.plan.kernel.shape
    (True, True, (8, 6, 3, 3))
    """
    _check(kernel, method, slack, stabilise)
    if weight_bits is not None:
        check_bits("weight_bits", weight_bits)
    start, generator = time.perf_counter(), np.random.default_rng(rng)
    double = kernel.astype(np.float64)
    order = {"svd": 2, "cp4": 4}.get(method, 3)
    tensor = kernel_tensor(double, order)
    weights = _weights(covariance, tensor.shape) if fit_output and covariance is not None else None
    window = kernel.shape[2:]
    search = _Search(stabilise, slack, generator, max_seconds, weights)
    grid = None
    if method == "tucker-cp":
        plan = search.tucker_cp(tensor, rank, window, geometry, bias)
        if weight_bits is not None:
            grid = _on_grid(tensor, tucker_cp_model(plan), weight_bits, share_bits, weights)
            plan = with_tucker_cp_model(plan, grid.model)
    else:
        model = search.model(tensor, method, rank)
        if weight_bits is not None:
            grid = _on_grid(tensor, model, weight_bits, share_bits, weights)
            model = grid.model
        plan = plan_of(model, window, geometry, bias).balanced()
    plan = replace(plan, method=method, steps=tuple(_cast(step, kernel.dtype) for step in plan.steps))
    approximation = plan.kernel
    return KernelFit(
        plan=plan,
        error=float(np.linalg.norm(approximation - double) / np.linalg.norm(double)),
        sensitivity=plan.sensitivity(relative=True),
        output_error=None if covariance is None else covariance.relative_error(approximation, double),
        stabilised=stabilise is not False and search.controlled,
        seconds=time.perf_counter() - start,
        bits=None if grid is None else grid.bits,
        rounded_error=None if grid is None else grid.rounded_error,
    )


def _on_grid(tensor: Array, model: Model, bits: int, share: bool, weights: list[Array] | None) -> GridFit:
    model = optimal_gauge(model)
    counts = allocate_bits(model, bits * model.n_parameters, max_bits=MOST_BITS).bits if share else bits
    roots = None if weights is None else [*weights, *[None] * (tensor.ndim - len(weights))]
    return fit_on_grid(tensor, model, counts, roots=roots)


@dataclass
class _Search:
    """How models are fitted: one of these for all methods."""

    stabilise: bool | Constraint
    slack: float
    rng: np.random.Generator
    max_seconds: float | None
    weights: list[Array] | None
    controlled: bool = True

    def model(self, tensor: Array, method: str, rank: Any) -> Model:
        """The decomposition of a kernel, weighted on its way in and out."""
        target = tensor if self.weights is None else _in_modes(tensor, self.weights)
        if method in ("svd", "tucker2"):
            model: Model = best_matrix(target, rank) if method == "svd" else best_tucker2(target, rank)
        else:
            kind: type[Model] = {"tc": TensorChain, "btd": Sandwich}.get(method, CP)
            model = self._fitted(target, kind, rank)
        if self.weights is not None:
            inverse = [np.linalg.inv(weight) for weight in self.weights]
            modes = zip(model.matrices, model.network.modes, strict=True)
            model = model.with_matrices(
                [matrix if mode is None or mode >= len(inverse) else inverse[mode] @ matrix for matrix, mode in modes]
            )
        # The Gram of a wide chain would not fit into memory; orthonormal groups need their scales only.
        wide = isinstance(model, TensorChain) and max(model.network.widths) > WIDEST
        return model if wide else optimal_gauge(model)

    def tucker_cp(self, tensor: Array, rank: Any, window: Sizes, geometry: Geometry, bias: Array | None) -> LayerPlan:
        """Tucker-2 with orthonormal outer factors, so that errors of its core are errors of the kernel."""
        inner, outer, terms = rank
        target = tensor if self.weights is None else _in_modes(tensor, self.weights)
        (left, core, right), *_ = best_tucker2(target, (inner, outer)).terms
        inside = self._fitted(core.transpose(1, 0, 2), CP, terms)
        first, taps, last = inside.blocks
        if self.weights is not None:
            left = np.linalg.solve(self.weights[0], left)
            taps = np.linalg.solve(self.weights[1], taps)
        return tucker_cp(left, CP([first, taps, last]), right, window, geometry, bias)

    def _fitted(self, tensor: Array, kind: type[Model], rank: Any) -> Model:
        """A model of a kernel: of its core where that is much smaller, wide groups orthonormal."""
        widths = kind.wiring(tensor.shape, rank).widths
        if kind is not CP and max(widths) > WIDEST:
            self.controlled &= not isinstance(self.stabilise, Constraint)
            return _grouped_start(tensor, kind, rank, sweeps=40)
        if tensor.ndim != 3 or tensor.size <= _LARGE or isinstance(self.stabilise, Constraint):
            return self._searched(tensor, kind, rank, 0.0, tensor.shape)
        bases = [_leading(np.moveaxis(tensor, m, 0), min(tensor.shape[m], widths[m])) for m in (0, 2)]
        core = np.einsum("sdt,sa,tb->adb", tensor, *bases, optimize=True)
        outside = max(float(np.vdot(tensor, tensor) - np.vdot(core, core)), 0.0)
        model = self._searched(core, kind, rank, outside, tensor.shape)
        first, middle, last = model.matrices
        model = kind.from_matrices(model.network, [bases[0] @ first, middle, bases[1] @ last])
        if kind is Sandwich and len(set(map(tuple, rank))) > 1:
            return model
        # The best core lies in slightly other subspaces than the strongest.
        slack = self.slack if self.stabilise else None
        model, ended = finished(tensor, model, slack=slack, max_seconds=self.max_seconds)
        self.controlled &= ended
        return model

    def _searched(self, tensor: Array, kind: type[Model], rank: Any, outside: float, sizes: Sizes) -> Model:
        """Least squares, then the correction; `outside` is the squared error that no model of this tensor can avoid."""
        options: dict[str, Any] = {"rng": self.rng, "max_seconds": self.max_seconds}
        if isinstance(self.stabilise, Constraint):
            bounded = decompose(tensor, kind, rank, solver=_PATH, constraint=self.stabilise, **options)
            self.controlled = bounded.reason not in (StopReason.INFEASIBLE, StopReason.TIME_LIMIT)
            return bounded.model
        if kind is Sandwich and len(set(map(tuple, rank))) > 1:
            return self._unequal(tensor, rank, options)
        # With several terms every pair of them can cancel.
        small = _unknowns(kind, tensor.shape, rank) <= _SMALL
        slack = self.slack if self.stabilise else None
        model, self.controlled = searched(
            tensor, kind, rank, slack=slack, outside=outside, sizes=sizes, small=small, **options
        )
        return model

    def _unequal(self, tensor: Array, rank: Any, options: dict[str, Any]) -> Model:
        """Block terms of several sizes, by the general solvers."""
        plain = decompose(tensor, Sandwich, rank, solver=_PLAIN, init="svd", **options)
        if not self.stabilise:
            return plain.model
        bound = min(max((1.0 + self.slack) * plain.error, _EXACT), (1.0 + plain.error) / 2.0)
        fit = decompose(tensor, init=plain.model, solver=_CORRECTION, constraint=ErrorBound(bound), **options)
        met = fit.error <= bound * (1.0 + 1e-3)
        self.controlled = met and fit.reason is not StopReason.TIME_LIMIT
        return fit.model if met and fit.sensitivity < plain.sensitivity else plain.model


def _unknowns(kind: type[Model], shape: Sizes, rank: Any) -> int:
    """Parameters of a model, times the square of the number of its terms."""
    network = kind.wiring(shape, rank)
    rows = [1 if mode is None else shape[mode] for mode in network.modes]
    return sum(n * w for n, w in zip(rows, network.widths, strict=True)) * len(network.terms) ** 2


def best_matrix(matrix: Array, rank: int) -> CP:
    """The truncated SVD of a matrix as a CP of order 2."""
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank is {rank!r}; a matrix of shape {matrix.shape} needs 1 .. {min(matrix.shape)}")
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:rank])
    return CP([u[:, :rank] * root, vh[:rank].T * root])


def _grouped_start(tensor: Array, kind: type[Model], rank: Any, sweeps: int = 12) -> Model:
    """Orthonormal groups; ValueError where they are too wide for that."""
    if kind is TensorChain:
        return orthonormal_groups(tensor, rank[0], (rank[1], rank[2]), shared=True, sweeps=sweeps)[0]
    if len(set(rank)) > 1:
        raise ValueError(f"terms of ranks {rank} are too wide to be fitted; give all of them the same ranks")
    return orthonormal_groups(tensor, len(rank), rank[0], shared=False, sweeps=sweeps)[0]


def best_tucker2(tensor: Array, rank: Any, sweeps: int = 20) -> Sandwich:
    """Tucker-2 of a tensor (S, D, T) by higher-order orthogonal iteration; the mode of the taps is not reduced."""
    Sandwich.wiring(tensor.shape, [rank])
    inner, outer = rank
    right = _leading(np.moveaxis(tensor, 2, 0), outer)
    left = _leading(tensor, inner)
    energy = 0.0
    for _ in range(sweeps):
        left = _leading(np.tensordot(tensor, right, axes=1), inner)
        half = np.tensordot(tensor, left, axes=(0, 0)).transpose(1, 0, 2)
        right = _leading(half, outer)
        before, energy = energy, float(np.linalg.norm(np.tensordot(right, half, axes=(0, 0)))) ** 2
        if energy - before <= 1e-5 * energy:
            break
    core = np.einsum("sdt,sa,tb->dab", tensor, left, right, optimize=True)
    return Sandwich([(left, core, right)])


def _leading(tensor: Array, count: int) -> Array:
    """Leading left singular vectors of the first unfolding."""
    rows = tensor.reshape(len(tensor), -1)
    _, vectors = np.linalg.eigh(rows @ rows.T)
    return np.asarray(vectors[:, ::-1][:, :count])


def _weights(covariance: PatchCovariance, shape: tuple[int, ...]) -> list[Array]:
    """Roots for the modes S and D; at order 4 the taps are left alone."""
    channel, taps = covariance.roots()
    if len(channel) != shape[0]:
        raise ValueError(f"the covariance is of {len(channel)} channels, the kernel has {shape[0]}")
    return [channel, taps] if len(shape) == 3 else [channel]


def _in_modes(tensor: Array, weights: list[Array]) -> Array:
    for mode, weight in enumerate(weights):
        tensor = np.moveaxis(np.tensordot(weight, tensor, axes=(1, mode)), 0, mode)
    return np.ascontiguousarray(tensor)


def _cast(step: Any, dtype: Any) -> Any:
    if not isinstance(step, Convolution):
        return step
    return replace(step, weight=step.weight.astype(dtype), bias=None if step.bias is None else step.bias.astype(dtype))


def _check(kernel: Array, method: str, slack: float, stabilise: Any) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    if kernel.ndim not in (4, 5) or kernel.dtype.kind != "f":
        raise ValueError(
            f"the kernel has shape {kernel.shape} and dtype {kernel.dtype}; real (T, S, D1, D2), or one axis more, is "
            "needed"
        )
    if not np.isfinite(kernel).all() or not kernel.any():
        raise ValueError("the kernel is zero everywhere, or holds NaN or infinity: there is nothing to fit")
    if not slack >= 0.0:
        raise ValueError(f"slack is {slack!r}; a number >= 0 is needed")
    if not isinstance(stabilise, (bool, Constraint)):
        raise TypeError(f"stabilise is {stabilise!r}; True, False or a constraint such as Penalty(1e-3) is needed")
