"""Convolutions written as sequences of smaller ones, described without any network library.

A convolution maps S channels to T channels with a kernel W (T, S, D1, D2), or (T, S, D1, D2, D3) over volumes,

    Y[t, y] = bias[t] + sum_{s, d} W[t, s, d] X[s, stride * y + dilation * d - padding],

and a transposed one adds W[t, s, d] X[s, x] to Y[t, stride * x + dilation * d - padding].  When W is the composition
of small kernels, so is the layer.  A `LayerPlan` holds these small convolutions in order, as bare arrays with their
strides, paddings and groups.  Pointwise maps commute with zero padding, so the spatial layer carries stride, padding
and dilation, and the last layer the bias: the plan equals the convolution with the composed kernel exactly, at every
stride, padding and dilation.

`Fold(g)` moves g groups of channels into the batch, and `Unfold(g)` back: one small kernel serves all groups.

**Sensitivity of a plan.**  X(theta) = the composed kernel is multilinear in the small ones.  With L the composition
of the layers before layer k and Z that of the layers behind it, each (D_k taps; groups join inputs i and outputs o)

    ||dX/dW_k||^2 = D_k sum_groups (sum_{i in group} ||L_i||^2) (sum_{o in group} ||Z_o||^2),

since in every plan at most one of the layers that meet has an extent along an axis.  A folded kernel is one block for
all groups, and their contributions add before they are squared.  This is SS of :mod:`tensorchain.models`, counted for
the blocks that are deployed.

Reference: Kozyrskiy, Phan, "CNN acceleration by low-rank approximation with quantized factors" (2020).

Long by its docstrings: the code alone has fewer than 300 lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tensorchain.kernels import Array

Pair = tuple[int, int]
Sizes = tuple[int, ...]
"""One number for each axis of an image or a volume."""
Margins = tuple[Pair, ...]
"""Zeros added ((top, bottom), (left, right)), one pair for each axis."""


@dataclass(frozen=True)
class Geometry:
    """How a kernel is moved over an image, or over a volume.

    Parameters
    ----------
    stride, dilation : Sizes, optional
        (vertical, horizontal), at least 1; one number for each axis.
    padding : tuple of ((int, int), (int, int)), optional
        ((top, bottom), (left, right)), not negative.
    transposed : bool, default False
        Whether the positions of the input are those that the stride spreads out.
    extra : Sizes, optional
        Of a transposed one, rows and columns that the output has beyond the last that is reached without them.

    Examples
    --------
    >>> Geometry(stride=(2, 2), padding=((1, 1), (1, 1))).output_size((3, 3), (28, 28))
    (14, 14)
    >>> Geometry(stride=(2, 2), transposed=True).output_size((2, 2), (14, 14))
    (28, 28)
    """

    stride: Sizes = (1, 1)
    padding: Margins = ((0, 0), (0, 0))
    dilation: Sizes = (1, 1)
    transposed: bool = False
    extra: Sizes = (0, 0)

    def __post_init__(self) -> None:
        axes = len(self.stride)
        if len(self.padding) == axes == len(self.dilation) and self.extra == (0, 0) != (0,) * axes:
            object.__setattr__(self, "extra", (0,) * axes)
        if any(len(one) != axes for one in (self.padding, self.dilation, self.extra)):
            raise ValueError(f"{self} mixes numbers of axes; one entry for each of {axes} axes is needed")
        flat = [*self.stride, *self.dilation]
        if min(flat) < 1:
            raise ValueError(f"stride {self.stride} and dilation {self.dilation} need numbers of at least 1")
        if any(min(side) < 0 for side in self.padding) or min(self.extra) < 0:
            raise ValueError(f"padding is {self.padding}; ((top, bottom), (left, right)), not negative, is needed")

    @classmethod
    def trivial(cls, axes: int) -> Geometry:
        """Every position, one by one.

        Parameters
        ----------
        axes : int
            How many there are.

        Returns
        -------
        Geometry
            A stride of 1, without padding.

        Examples
        --------
        >>> from tensorchain.compression import Geometry
        >>> Geometry.trivial(2).output_size((3, 3), (9, 9))
        (7, 7)
        """
        return cls((1,) * axes, ((0, 0),) * axes, (1,) * axes, extra=(0,) * axes)

    def output_size(self, window: Sizes, image: Sizes) -> Sizes:
        """Height and width of the result.

        Parameters
        ----------
        window : Sizes
            (D1, D2).
        image : Sizes
            Height and width.

        Returns
        -------
        Sizes
            Height and width.

        Raises
        ------
        ValueError
            When the kernel does not fit the image.

        Examples
        --------
        >>> from tensorchain.compression import Geometry
        >>> Geometry(stride=(2, 2)).output_size((3, 3), (9, 9))
        (4, 4)
        """
        sizes = []
        for axis, (taps, length) in enumerate(zip(window, image, strict=True)):
            reach, margin = self.dilation[axis] * (taps - 1), sum(self.padding[axis])
            if self.transposed:
                size = (length - 1) * self.stride[axis] + reach + 1 + self.extra[axis] - margin
            else:
                size = (length + margin - reach - 1) // self.stride[axis] + 1
            if size < 1:
                raise ValueError(f"a kernel of {window} taps, {self}, does not fit an image of {image}")
            sizes.append(size)
        return tuple(sizes)

    def along(self, *axes: int) -> Geometry:
        """The same along some axes, and trivial along the others.

        Parameters
        ----------
        *axes : int
            0 for the vertical one, 1 for the horizontal one.

        Returns
        -------
        Geometry
            For a convolution along one axis.

        Examples
        --------
        >>> from tensorchain.compression import Geometry
        >>> Geometry(stride=(2, 3)).along(0).stride
        (2, 1)
        """
        each = range(len(self.stride))
        return replace(
            self,
            stride=tuple(self.stride[n] if n in axes else 1 for n in each),
            padding=tuple(self.padding[n] if n in axes else (0, 0) for n in each),
            dilation=tuple(self.dilation[n] if n in axes else 1 for n in each),
            extra=tuple(self.extra[n] if n in axes else 0 for n in each),
        )


POINTWISE = Geometry()


def macs_of(shape: Sizes, geometry: Geometry, image: Sizes) -> int:
    """Multiplications of a dense kernel (T, S, D1, ..): at each position of the output, or of a transposed one's input.

    Examples
    --------
    >>> macs_of((8, 4, 3, 3), Geometry(), (10, 10))
    18432
    """
    places = image if geometry.transposed else geometry.output_size(shape[2:], image)
    return math.prod(shape) * math.prod(places)


@dataclass(frozen=True)
class Convolution:
    """One small convolution.

    Parameters
    ----------
    weight : ndarray
        (outputs, inputs / groups, D1, D2), or one axis more for volumes.
    geometry : Geometry, optional
        Stride, padding and dilation.
    groups : int, default 1
        Channels are joined only within a group.
    bias : ndarray, optional
        (outputs,) or None.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Convolution(np.ones((2, 3, 1, 1))).weight.shape
    (2, 3, 1, 1)
    """

    weight: Array
    geometry: Geometry = POINTWISE
    groups: int = 1
    bias: Array | None = None

    @property
    def inputs(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])

    @property
    def window(self) -> Sizes:
        """Taps (D1, D2), or (D1, D2, D3)."""
        return tuple(int(taps) for taps in self.weight.shape[2:])

    @property
    def parameters(self) -> int:
        """Numbers stored."""
        return self.weight.size + (0 if self.bias is None else self.bias.size)


@dataclass(frozen=True)
class Fold:
    """(B, groups * C, ..) to (B * groups, C, ..).

    Attributes
    ----------
    groups : int
        How many groups of channels move to or from the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Fold(2).groups
    2
    """

    groups: int


@dataclass(frozen=True)
class Unfold:
    """(B * groups, C, ..) to (B, groups * C, ..).

    Attributes
    ----------
    groups : int
        How many groups of channels move to or from the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Unfold(2).groups
    2
    """

    groups: int


Step = Convolution | Fold | Unfold


@dataclass(frozen=True)
class LayerPlan:
    """Small convolutions that replace one.

    Attributes
    ----------
    method : str
        What made it, such as "tc".
    rank : int, tuple or list
        Ranks of the decomposition.
    steps : tuple of Step
        In the order of their application.

    Examples
    --------
    >>> import numpy as np
    >>> weight = np.ones((4, 3, 3, 3))
    >>> plan = LayerPlan("dense", None, (Convolution(weight, Geometry(padding=((1, 1), (1, 1)))),))
    >>> plan.parameters, plan.macs((8, 8)), np.array_equal(plan.kernel, weight)
    (108, 6912, True)
    """

    method: str
    rank: Any
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The steps that hold weights."""
        return tuple(step for step in self.steps if isinstance(step, Convolution))

    @property
    def parameters(self) -> int:
        """Numbers stored, biases among them."""
        return sum(convolution.parameters for convolution in self.convolutions)

    @property
    def geometry(self) -> Geometry:
        """Of the convolution that the steps compose: at most one of them moves along an axis."""
        parts = [convolution.geometry for convolution in self.convolutions]
        axes = range(len(parts[0].stride))
        return Geometry(
            stride=tuple(math.prod(part.stride[n] for part in parts) for n in axes),
            padding=tuple((sum(p.padding[n][0] for p in parts), sum(p.padding[n][1] for p in parts)) for n in axes),
            dilation=tuple(max(part.dilation[n] for part in parts) for n in axes),
            transposed=any(part.transposed for part in parts),
            extra=tuple(sum(part.extra[n] for part in parts) for n in axes),
        )

    def output_size(self, image: Sizes) -> Sizes:
        """Size of the result.

        Parameters
        ----------
        image : Sizes
            Height and width.

        Returns
        -------
        Sizes
            Height and width.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.output_size((4, 4))
        (4, 4)
        """
        for convolution in self.convolutions:
            image = convolution.geometry.output_size(convolution.window, image)
        return image

    def macs(self, image: Sizes) -> int:
        """Multiplications for one image of this size.

        Parameters
        ----------
        image : Sizes
            Height and width.

        Returns
        -------
        int
            Multiplications.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.macs((4, 4))
        96
        """
        total, copies = 0, 1
        for step in self.steps:
            if isinstance(step, Fold):
                copies *= step.groups
            elif isinstance(step, Unfold):
                copies //= step.groups
            else:
                before, image = image, step.geometry.output_size(step.window, image)
                total += copies * step.weight.size * math.prod(before if step.geometry.transposed else image)
        return total

    @cached_property
    def kernel(self) -> Array:
        """The composed kernel (T, S, D1, D2)."""
        return composed([layer for layer, _ in self.flat_layers])

    def sensitivity(self, relative: bool = False) -> float:
        """SS = sum_k ||dX/dW_k||_F^2 of the composed kernel X; biases are left out.

        With `relative`, SS / ||X||^(2(K-1)/K), which does not change when X is scaled.

        Parameters
        ----------
        relative : bool, default False
            SS / ||X||^(2(K-1)/K), which does not change when X is scaled.

        Returns
        -------
        float
            The sensitivity.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.sensitivity()
        6.0
        """
        total = sum(self.layer_sensitivities())
        if not relative:
            return total
        count, size = len(self.flat_layers), float(np.linalg.norm(self.kernel))
        if size == 0.0:
            raise ValueError("the relative sensitivity of a zero kernel is undefined; use relative=False")
        return float(total / size ** (2 * (count - 1) / count))

    def balanced(self) -> LayerPlan:
        """The same layer with every convolution scaled so that SS is least, which makes all its terms equal.

        Returns
        -------
        LayerPlan
            The same kernel.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.balanced().sensitivity() <= plan.sensitivity()
        True
        """
        terms = np.array(self.layer_sensitivities())
        if not terms.all():
            return self
        scales = iter(np.exp(0.5 * (np.log(terms) - np.log(terms).mean())))
        steps = [replace(s, weight=s.weight * next(scales)) if isinstance(s, Convolution) else s for s in self.steps]
        return replace(self, steps=tuple(steps))

    def layer_sensitivities(self) -> list[float]:
        """||dX/dW_k||_F^2 of each convolution.

        Returns
        -------
        list of float
            One entry for each convolution.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.layer_sensitivities()
        [6.0]
        """
        found = []
        for k, (layer, shared) in enumerate(self.flat_layers):
            before = [earlier for earlier, _ in self.flat_layers[:k]]
            behind = [later for later, _ in self.flat_layers[k + 1 :]]
            joined = _overlaps(before, layer.groups, layer.inputs, 0) * _overlaps(
                behind, layer.groups, layer.outputs, 1
            )
            found.append(math.prod(layer.window) * float(joined.sum() if shared else np.trace(joined)))
        return found

    @cached_property
    def flat_layers(self) -> list[tuple[Convolution, bool]]:
        """The convolutions with folded ones written as grouped ones, and whether their groups share a kernel."""
        flat, copies = [], 1
        for step in self.steps:
            if isinstance(step, Fold):
                copies *= step.groups
            elif isinstance(step, Unfold):
                copies //= step.groups
            else:
                weight = np.tile(step.weight, (copies, *[1] * (step.weight.ndim - 1)))
                flat.append((replace(step, weight=weight, groups=step.groups * copies, bias=None), copies > 1))
        return flat

    def grouped(self) -> LayerPlan:
        """The same layer without folds: the kernel that the groups share is written out for each of them.

        Returns
        -------
        LayerPlan
            The same kernel.

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> np.array_equal(plan.grouped().kernel, plan.kernel)
        True
        """
        bias = [step.bias for step in self.convolutions]
        steps = [replace(layer, bias=b) for (layer, _), b in zip(self.flat_layers, bias, strict=True)]
        return LayerPlan(self.method, self.rank, tuple(steps))

    def apply(self, images: Array) -> Array:
        """The layers on images (B, S, H, W) or volumes, by the definition: slow, for tests and small checks.

        Parameters
        ----------
        images : ndarray
            (B, S, H, W).

        Returns
        -------
        ndarray
            (B, T, H', W').

        Examples
        --------
        >>> import numpy as np
        >>> from tensorchain.compression import Convolution, LayerPlan
        >>> plan = LayerPlan("dense", None, (Convolution(np.ones((2, 3, 1, 1))),))
        >>> plan.apply(np.ones((1, 3, 4, 4))).shape
        (1, 2, 4, 4)
        """
        for step in self.steps:
            if isinstance(step, Fold):
                images = images.reshape(-1, images.shape[1] // step.groups, *images.shape[2:])
            elif isinstance(step, Unfold):
                images = images.reshape(-1, images.shape[1] * step.groups, *images.shape[2:])
            else:
                images = convolve(images, step)
        return images


def convolve(images: Array, layer: Convolution) -> Array:
    """A convolution by its definition, one product a tap.

    Parameters
    ----------
    images : ndarray
        (B, S, H, W).

    Returns
    -------
    ndarray
        (B, T, H', W').

    Examples
    --------
    >>> import numpy as np
    >>> box = Convolution(np.ones((1, 1, 2, 2)), Geometry(stride=(2, 2)))
    >>> convolve(np.arange(16.0).reshape(1, 1, 4, 4), box)[0, 0]
    array([[10., 18.], [42., 50.]])
    """
    axes = len(layer.window)
    if images.ndim != 2 + axes or images.shape[1] != layer.inputs:
        raise ValueError(f"images have shape {images.shape}; (B, {layer.inputs}) with {axes} sizes behind is needed")
    geometry, groups = layer.geometry, layer.groups
    sizes = geometry.output_size(layer.window, images.shape[2:])
    weight = layer.weight.reshape(groups, -1, *layer.weight.shape[1:])
    if geometry.transposed:
        result = _spread(images, weight, geometry, sizes)
    else:
        padded = np.pad(images, ((0, 0), (0, 0), *geometry.padding))
        padded = padded.reshape(len(images), groups, -1, *padded.shape[2:])
        result = np.zeros((len(images), groups, weight.shape[1], *sizes), np.result_type(images, weight))
        for tap in np.ndindex(layer.window):
            here: Any = [
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, geometry.dilation, sizes, geometry.stride, strict=True)
            ]
            result += np.einsum("gts,bgs...->bgt...", weight[(..., *tap)], padded[(..., *here)])
    result = result.reshape(len(images), -1, *sizes)
    return result if layer.bias is None else result + layer.bias.reshape(-1, *[1] * axes)


def _spread(images: Array, weight: Array, geometry: Geometry, sizes: Sizes) -> Array:
    """A transposed convolution, (B, groups, T / groups, *sizes)."""
    inputs = images.reshape(len(images), len(weight), -1, *images.shape[2:])
    # Behind the last position reached there may be zeros, and margins are cut off on either side.
    whole = [n + sum(side) for n, side in zip(sizes, geometry.padding, strict=True)]
    result = np.zeros((len(images), len(weight), weight.shape[1], *whole), np.result_type(images, weight))
    for tap in np.ndindex(weight.shape[3:]):
        here: Any = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, geometry.dilation, images.shape[2:], geometry.stride, strict=True)
        ]
        result[(..., *here)] += np.einsum("gts,bgs...->bgt...", weight[(..., *tap)], inputs)
    cut: Any = [slice(first, first + n) for (first, _), n in zip(geometry.padding, sizes, strict=True)]
    return np.asarray(result[(..., *cut)])


def _dense(layer: Convolution) -> Array:
    """The kernel of a grouped convolution as (outputs, inputs, D1, ..)."""
    if layer.groups == 1:
        return layer.weight
    parts = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
    result = np.zeros((layer.groups, parts.shape[1], layer.groups, *parts.shape[2:]), layer.weight.dtype)
    each = np.arange(layer.groups)
    result[each, :, each] = parts
    return result.reshape(layer.outputs, layer.inputs, *layer.window)


def composed(layers: Sequence[Convolution]) -> Array:
    """The kernel of several convolutions, one after the other, with their strides and dilations left out."""
    kernel = _dense(layers[0])
    for layer in layers[1:]:
        weight = _dense(layer)
        window = [a + b - 1 for a, b in zip(weight.shape[2:], kernel.shape[2:], strict=True)]
        result = np.zeros((weight.shape[0], kernel.shape[1], *window), np.result_type(weight, kernel))
        for tap in np.ndindex(weight.shape[2:]):
            here: Any = [slice(t, t + n) for t, n in zip(tap, kernel.shape[2:], strict=True)]
            result[(..., *here)] += np.tensordot(weight[(..., *tap)], kernel, axes=1)
        kernel = result
    return kernel


def _overlaps(layers: Sequence[Convolution], groups: int, channels: int, axis: int) -> Array:
    """Inner products of the composed kernels that end (axis 0) or begin (axis 1) in each group, (groups, groups)."""
    kernel = composed(layers) if layers else np.eye(channels)
    rows = np.moveaxis(kernel, axis, 0).reshape(groups, -1).astype(np.float64, copy=False)
    return np.asarray(rows @ rows.T)
