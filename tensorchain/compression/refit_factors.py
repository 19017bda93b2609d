"""Refit all small convolutions of a replaced layer to the outputs of the original one, by alternating least squares.

**The problem.**  The small convolutions compose a kernel X, unfolded as (T, p), that is applied to the patches x of the
inputs that the compressed network gives.  The original layer, with kernel W, gave y.  With C = cov(x), B = cov(y, x)
and v the mean diagonal entry of C, the mean square of y - X x - b over positions and images, with the best bias b, plus
ridge * v ||X - W||^2, is up to a constant

    f(X) = tr(X M X') - 2 tr(X Q'),      M = C + ridge v I,      Q = B + ridge v W.

The whole covariance of the patches is used, not its Kronecker roots, and the ridge asks directions of which the
calibration inputs say nothing to stay near the original kernel.

**The step.**  X is linear in the weights w of one convolution, X = J w, so f is least where J' M J w = J' Q.  Written
with L for the composition of the convolutions before it and Z for that of those behind it:

- no groups, and no taps behind: X = Z w L, and w = (Z'Z)^{-1} Z' Q L' (L M L')^{-1};
- a small block in groups, and no taps behind: by its normal matrix, (Z'Z) (L M L') for each pair of groups;
- else by a few conjugate gradients from the present weights, with the Kronecker product of the two small matrices that
  stand for Z'Z and L M L' as the preconditioner.  It is exact without groups when M is a product of channels and taps.

Every step lowers f, the inexact ones too.

Cost: T p^2 multiplications for each product with M; p = S D numbers of a patch.

References: Kalle et al., arXiv 2511.04494 (2025), for the norm ||(W - X) C^{1/2}|| with the whole covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from tensorchain.compression.conv import Convolution, Fold, LayerPlan, Sizes, Unfold, composed
from tensorchain.compression.refit import RIDGE, Moments
from tensorchain.kernels import Array

_STEPS, _CLOSE = 4, 1e-6
"""Conjugate gradients for one block: most steps, since the next sweep goes on, and the share of the squared residual at
which they end."""
_DIRECT = 512
"""Unknowns of a block in groups up to which its normal equations are solved at once."""


def refit_factors(
    plan: LayerPlan,
    kernel: Array,
    moments: Moments,
    *,
    sweeps: int = 8,
    ridge: float = RIDGE,
    tol: float = 1e-3,
    with_bias: bool = True,
) -> LayerPlan:
    """The plan with all its weights and its bias fitted to the outputs of the original layer.

    Parameters
    ----------
    plan : LayerPlan
        The start.
    kernel : ndarray (T, S, D1, ..)
        Of the original layer.
    moments : Moments
        Of the patches (S D1 D2 numbers, channels first) that the layer sees in the compressed network, and of the
        outputs (T,) of the original layer.
    sweeps : int
        Most passes over the convolutions.
    ridge : float
        Weight of ||X - W||^2, relative to the mean variance of an entry of a patch.
    tol : float
        A sweep that lowers the squared error by less than this share of it is the last.
    with_bias : bool
        Whether the last convolution gets the best bias, or none.

    Returns
    -------
    LayerPlan
        In the dtype of `plan`; its squared error on the moments, with the ridge, is at most that of `plan`.

    Raises
    ------
    ValueError
        When the moments do not fit the kernel or hold no row.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import fit_kernel
    >>> rng = np.random.default_rng(0)
    >>> kernel = rng.standard_normal((6, 4, 3, 3))
    >>> plan = fit_kernel(kernel, "tucker2", (2, 3)).plan
    >>> patches = rng.standard_normal((500, 36)) * np.linspace(0.1, 3.0, 36)
    >>> moments = Moments(36, 6)
    >>> moments.add(patches, patches @ kernel.reshape(6, 36).T)
    >>> better = refit_factors(plan, kernel, moments)
    >>> errors = [moments.relative_error(p.kernel.reshape(6, 36)) for p in (plan, better)]
    >>> errors[1] < 0.9 * errors[0]
    True
    """
    rows = kernel.reshape(len(kernel), -1).astype(np.float64)
    if moments.cross.shape != rows.T.shape or moments.count == 0:
        raise ValueError(
            f"moments of {moments.count} rows and shape {moments.cross.shape} do not fit a kernel of {kernel.shape}; "
            f"{rows.T.shape}, and one row or more, are needed"
        )
    # A layer whose inputs never vary is fitted to its kernel alone.
    damping = max(ridge, 1e-9) * (float(np.trace(moments.covariance)) / rows.shape[1] or 1.0)
    shift = 0.0 if with_bias else 1.0
    metric = moments.covariance + shift * np.outer(moments.input_mean, moments.input_mean)
    goal = moments.cross_covariance.T + shift * np.outer(moments.target_mean, moments.input_mean)
    metric, goal = metric + damping * np.eye(len(metric)), goal + damping * rows
    weights = [step.weight.astype(np.float64) for step in plan.convolutions]
    energy = moments.energy / moments.count + shift * float(moments.target_mean @ moments.target_mean)
    energy += damping * float(np.sum(rows * rows))
    value = _value(plan.kernel.reshape(rows.shape), metric, goal)
    inverses = [_Inverse() for _ in weights]
    for _ in range(sweeps):
        before = value
        for k in range(len(weights) - 1, -1, -1):
            better = _at_the_end(plan, weights, k, metric, goal, inverses[k])
            if better is None:
                better = _Block.of(plan, weights, k).best(weights[k], metric, goal, inverses[k])
            weights[k] = better
        value = _value(_with(plan, weights).kernel.reshape(rows.shape), metric, goal)
        if before - value <= tol * max(energy + value, 0.0):
            break
    fitted = _with(plan, weights)
    last = fitted.convolutions[-1]
    bias = moments.best_bias(fitted.kernel.reshape(rows.shape)) if with_bias else None
    steps = [replace(step, bias=bias) if step is last else step for step in fitted.steps]
    cast = [_cast(step, old) for step, old in zip(steps, plan.steps, strict=True)]
    return replace(plan, steps=tuple(cast))


def _at_the_end(
    plan: LayerPlan, weights: Sequence[Array], k: int, metric: Array, goal: Array, inverse: _Inverse
) -> Array | None:
    """The best weights of a last layer without groups that is pointwise, or alone; None for others.

    Nothing stands behind it: with L of the layers before, w = Q L' (L M L')^{-1}, however many outputs there are.
    """
    layers = [layer for layer, _ in _with(plan, weights).flat_layers]
    pointwise = math.prod(layers[-1].window) == 1
    if k + 1 < len(layers) or layers[k].groups > 1 or not (pointwise or len(layers) == 1):
        return None
    weight = weights[k].reshape(len(weights[k]), -1)
    inner, wanted = metric, goal
    if k > 0:
        before = composed(layers[:k])
        rows = before.reshape(len(before), -1)
        half = rows @ metric
        inner, wanted = half @ rows.T, goal @ rows.T
    step = inverse.of(inner[None]).times((wanted - weight @ inner).T[None])[0].T
    return np.asarray((weight + step).reshape(weights[k].shape))


def _value(rows: Array, metric: Array, goal: Array) -> float:
    return float(np.sum(rows * (rows @ metric - 2.0 * goal)))


def _with(plan: LayerPlan, weights: Sequence[Array]) -> LayerPlan:
    left = iter(weights)
    steps = [replace(s, weight=next(left)) if isinstance(s, Convolution) else s for s in plan.steps]
    return replace(plan, steps=tuple(steps))


def _cast(step: Convolution | Fold | Unfold, old: Convolution | Fold | Unfold) -> Convolution | Fold | Unfold:
    if not isinstance(step, Convolution) or not isinstance(old, Convolution):
        return step
    dtype = old.weight.dtype
    bias = None if step.bias is None else step.bias.astype(dtype)
    return replace(step, weight=step.weight.astype(dtype), bias=bias)


@dataclass(frozen=True)
class _Block:
    """The kernel as a linear function of the weights of one convolution.

    Attributes
    ----------
    before : ndarray
        L, composition of the layers before it, (groups, i, S, P1, ..), i channels in a group.
    behind : ndarray
        Z, of those behind it, (T, groups, o, Q1, ..).
    window : Sizes
        (R1, ..), its taps.
    copies : int
        How many groups share one weight.
    """

    before: Array
    behind: Array
    window: Sizes
    copies: int

    @classmethod
    def of(cls, plan: LayerPlan, weights: Sequence[Array], k: int) -> _Block:
        layers = [layer for layer, _ in _with(plan, weights).flat_layers]
        here = layers[k]
        one = [1] * len(here.window)
        identity = np.eye(here.inputs).reshape(here.inputs, -1, *one) if k == 0 else composed(layers[:k])
        last = k + 1 == len(layers)
        behind = np.eye(here.outputs).reshape(here.outputs, -1, *one) if last else composed(layers[k + 1 :])
        return cls(
            identity.reshape(here.groups, -1, *identity.shape[1:]),
            behind.reshape(len(behind), here.groups, -1, *behind.shape[2:]),
            here.window,
            here.groups // plan.convolutions[k].groups,
        )

    def best(self, weight: Array, metric: Array, goal: Array, inverse: _Inverse | None = None) -> Array:
        """Weights that lower f as far as they can, or by conjugate gradients nearly so."""
        gap = self.adjoint(goal) - self.adjoint(self.forward(weight) @ metric)
        free = math.prod(self.behind.shape[3:]) == 1
        if free and len(self.before) > 1 and weight.size <= _DIRECT:
            return np.asarray(weight + _solved(self._normal(metric), gap))
        small = self._small(metric)
        outer, inner = _Inverse().of(small[0]), (inverse or _Inverse()).of(small[1])
        shape = (len(small[0]), small[0].shape[1], small[1].shape[1])

        def product(w: Array) -> Array:
            return self.adjoint(self.forward(w) @ metric)

        def precondition(w: Array) -> Array:
            half = inner.times(outer.times(w.reshape(shape)).swapaxes(1, 2))
            return np.ascontiguousarray(half.swapaxes(1, 2)).reshape(weight.shape)

        if free and len(self.before) == 1:
            return np.asarray(weight + precondition(gap))
        return np.asarray(weight + _conjugate_gradients(product, precondition, gap))

    def forward(self, weight: Array) -> Array:
        """X of weights (outputs, i, R1, ..), (T, p)."""
        groups, inner = self.before.shape[:2]
        tiled = np.tile(weight, (self.copies, *[1] * (weight.ndim - 1)))
        tiled = tiled.reshape(groups, -1, inner, *weight.shape[2:])
        r, p, _, mixed, order = self._axes()
        inside = np.einsum(f"goi{r},gis{p}->gos{mixed}", tiled, self.before, optimize=True)
        whole = np.tensordot(self.behind, inside, axes=((1, 2), (0, 1)))
        # (T, Q1, .., S, R1, P1, ..): along each axis one of Q, R, P has an extent.
        return np.ascontiguousarray(whole.transpose(order)).reshape(len(self.behind), -1)

    def adjoint(self, rows: Array) -> Array:
        """J' rows, the gradient of <rows, X> with respect to the weights."""
        sizes = zip(self.behind.shape[3:], self.window, self.before.shape[3:], strict=True)
        whole = rows.reshape(len(rows), self.before.shape[2], *(n for axis in sizes for n in axis))
        r, p, _, mixed, order = self._axes()
        whole = whole.transpose(np.argsort(order))
        count = len(self.window)
        inside = np.tensordot(self.behind, whole, axes=((0, *range(3, 3 + count)), tuple(range(1 + count))))
        found = np.einsum(f"gos{mixed},gis{p}->goi{r}", inside, self.before, optimize=True)
        found = found.reshape(self.copies, -1, *found.shape[2:])
        return np.asarray(found.sum(0))

    def _axes(self) -> tuple[str, str, str, str, list[int]]:
        """Letters of R, P, Q, and of R and P in turn; places of T, S, Q1, R1, P1, Q2, .. in (T, Q.., S, R1, P1, ..)."""
        count = len(self.window)
        r, p, q = "abc"[:count], "xyz"[:count], "uvw"[:count]
        mixed = "".join(a + b for a, b in zip(r, p, strict=True))
        order = [0, count + 1]
        for axis in range(count):
            order += [1 + axis, count + 2 + 2 * axis, count + 3 + 2 * axis]
        return r, p, q, mixed, order

    def _normal(self, metric: Array) -> Array:
        """J' M J where nothing behind has taps: (Z'Z) (L M L') for each pair of groups, summed over shared weights."""
        groups, inner, inputs = self.before.shape[:3]
        taps = math.prod(self.window)
        sizes = [n for pair in zip(self.window, self.before.shape[3:], strict=True) for n in pair]
        r, p, _, mixed, _ = self._axes()
        whole = metric.reshape(2 * (inputs, *sizes))
        before = self.before.reshape(groups * inner, *self.before.shape[2:])
        half = np.einsum(
            f"hs{p},s{mixed}{'S' + mixed.upper()}->h{r}{'S' + mixed.upper()}", before, whole, optimize=True
        )
        both = np.einsum(f"h{r}{'S' + mixed.upper()},HS{p.upper()}->h{r}H{r.upper()}", half, before, optimize=True)
        both = both.reshape(groups, inner * taps, groups, inner * taps)
        behind = self.behind.reshape(len(self.behind), -1)
        outer = (behind.T @ behind).reshape(groups, -1, groups, self.behind.shape[2])
        normal = np.einsum("goGO,giGI->goiGOI", outer, both)
        each = groups // self.copies
        split = self.copies, each * normal.shape[1] * normal.shape[2]
        return np.asarray(normal.reshape(*split, *split).sum((0, 2)))

    def _small(self, metric: Array) -> tuple[Array, Array]:
        """For each weight group, matrices (o, o) and (i R, i R) whose Kronecker product stands for J' M J.

        Taps behind take their share of the metric, its partial trace; the rest goes with what is before.
        """
        groups, _, inputs = self.before.shape[:3]
        behind_taps, taps, before_taps = (math.prod(sizes) for sizes in self._extents())
        sizes = [n for axis in zip(*self._extents(), strict=True) for n in axis]
        whole = metric.reshape(2 * (inputs, *sizes))
        r, p, q, _, _ = self._axes()
        axes = "".join(a + b + c for a, b, c in zip(q, r, p, strict=True))
        other = axes.translate({ord(a): a.upper() for a in r + p})
        rest = np.einsum(f"s{axes}S{other}->s{p}{r}S{p.upper()}{r.upper()}", whole)
        rest = rest.reshape(2 * (inputs * before_taps, taps))
        other = axes.translate({ord(a): a.upper() for a in q})
        share = np.einsum(f"s{axes}s{other}->{q}{q.upper()}", whole).reshape(2 * (behind_taps,))
        share = share / float(np.trace(metric))
        before = self.before.reshape(groups, -1, inputs * before_taps)
        behind = self.behind.reshape(*self.behind.shape[:3], -1)
        inner = np.einsum("gix,xryt,gjy->girjt", before, rest, before, optimize=True)
        outer = np.einsum("tgoq,qp,tgup->gou", behind, share, behind, optimize=True)
        inner = inner.reshape(self.copies, groups // self.copies, *2 * (before.shape[1] * taps,))
        outer = outer.reshape(self.copies, groups // self.copies, *outer.shape[1:])
        return outer.sum(0), inner.mean(0)

    def _extents(self) -> tuple[Sizes, Sizes, Sizes]:
        """Taps (Q1, ..), (R1, ..) and (P1, ..)."""
        return self.behind.shape[3:], self.window, self.before.shape[3:]


def _solved(normal: Array, gap: Array) -> Array:
    """The change of the weights that closes a gap of the normal equations; nothing in directions that do nothing."""
    mean = float(np.trace(normal)) / len(normal)
    if not mean > 0.0:
        return np.zeros_like(gap)
    damped = normal + 1e-10 * mean * np.eye(len(normal))
    return np.asarray(scipy.linalg.solve(damped, gap.ravel(), assume_a="pos").reshape(gap.shape))


class _Inverse:
    """The inverses of a stack of positive semidefinite matrices, singular ones damped.

    One large matrix is factored, once: that of a first layer is the metric in every sweep, and the largest of all.
    """

    def __init__(self) -> None:
        self.stack: Array | None = None
        self.factor: Any = None

    def of(self, stack: Array) -> _Inverse:
        """The inverse for a stack, factored again where it is another."""
        if self.stack is None or not np.array_equal(self.stack, stack):
            size = stack.shape[-1]
            mean = np.trace(stack, axis1=1, axis2=2)[:, None, None] / size
            damped = stack + np.where(mean > 0.0, 1e-9 * mean, 1.0) * np.eye(size)
            one = len(stack) == 1
            self.stack = stack
            self.factor = scipy.linalg.cho_factor(damped[0], lower=True) if one else np.linalg.inv(damped)
        return self

    def times(self, values: Array) -> Array:
        """Inverses (g, n, n) times values (g, n, m)."""
        if len(values) == 1:
            return np.asarray(scipy.linalg.cho_solve(self.factor, values[0]))[None]
        return np.asarray(self.factor @ values)


def _conjugate_gradients(
    product: Callable[[Array], Array], precondition: Callable[[Array], Array], right: Array
) -> Array:
    """A few steps towards the solution of product(x) = right, from zero; each lowers x'product(x) / 2 - x'right."""
    found, residual = np.zeros_like(right), right
    direction = preconditioned = precondition(residual)
    size = first = float(np.vdot(residual, preconditioned))
    for _ in range(_STEPS):
        if not size > _CLOSE * first:
            break
        image = product(direction)
        curvature = float(np.vdot(direction, image))
        if not curvature > 0.0:
            break
        found = found + size / curvature * direction
        residual = residual - size / curvature * image
        preconditioned = precondition(residual)
        size, last = float(np.vdot(residual, preconditioned)), size
        direction = preconditioned + size / last * direction
    return found
