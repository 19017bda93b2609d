"""Convolutions written as sequences of smaller ones, described without any network library.

A convolution maps S channels to T channels with a kernel W (T, S, D1, D2),

    Y[t, y] = bias[t] + sum_{s, d} W[t, s, d] X[s, stride * y + dilation * d - padding].

When W is the composition of small kernels, so is the layer.  A `LayerPlan` holds these small convolutions in order,
as bare arrays with their strides, paddings and groups.  Pointwise maps commute with zero padding, so the spatial
layer carries stride, padding and dilation, and the last layer the bias: the plan equals the convolution with the
composed kernel exactly, at every stride, padding and dilation.

`Fold(g)` moves g groups of channels into the batch, and `Unfold(g)` back: one small kernel serves all groups.

**Sensitivity of a plan.**  X(theta) = the composed kernel is multilinear in the small ones.  With L the composition
of the layers before layer k and Z that of the layers behind it, each (D_k taps; groups join inputs i and outputs o)

    ||dX/dW_k||^2 = D_k sum_groups (sum_{i in group} ||L_i||^2) (sum_{o in group} ||Z_o||^2),

since in every plan at most one of the layers that meet has an extent along an axis.  A folded kernel is one block for
all groups, and their contributions add before they are squared.  This is SS of :mod:`tensorchain.models`, counted for
the blocks that are deployed.

Reference: Kozyrskiy, Phan, "CNN acceleration by low-rank approximation with quantized factors" (2020).
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
Margins = tuple[Pair, Pair]
"""Zeros added ((top, bottom), (left, right))."""


@dataclass(frozen=True)
class Geometry:
    """How a kernel is moved over an image.

    Parameters
    ----------
    stride, dilation : tuple of (int, int), optional
        (vertical, horizontal), at least 1.
    padding : tuple of ((int, int), (int, int)), optional
        ((top, bottom), (left, right)), not negative.

    Examples
    --------
    >>> Geometry(stride=(2, 2), padding=((1, 1), (1, 1))).output_size((3, 3), (28, 28))
    (14, 14)
    """

    stride: Pair = (1, 1)
    padding: Margins = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        flat = [*self.stride, *self.dilation]
        if min(flat) < 1:
            raise ValueError(f"stride {self.stride} and dilation {self.dilation} need two numbers of at least 1 each")
        if any(min(side) < 0 for side in self.padding):
            raise ValueError(f"padding is {self.padding}; ((top, bottom), (left, right)), not negative, is needed")

    def output_size(self, window: Pair, image: Pair) -> Pair:
        """Height and width of the result.

        Parameters
        ----------
        window : tuple of (int, int)
            (D1, D2).
        image : tuple of (int, int)
            Height and width.

        Returns
        -------
        tuple of (int, int)
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
        for axis in range(2):
            room = image[axis] + sum(self.padding[axis]) - self.dilation[axis] * (window[axis] - 1) - 1
            if room < 0:
                raise ValueError(f"a kernel of {window} taps, {self}, does not fit an image of {image}")
            sizes.append(room // self.stride[axis] + 1)
        return sizes[0], sizes[1]

    def along(self, axis: int) -> Geometry:
        """The same along one axis, and trivial along the other.

        Parameters
        ----------
        axis : int
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
        keep = [axis == 0, axis == 1]
        return Geometry(
            stride=(self.stride[0] if keep[0] else 1, self.stride[1] if keep[1] else 1),
            padding=(self.padding[0] if keep[0] else (0, 0), self.padding[1] if keep[1] else (0, 0)),
            dilation=(self.dilation[0] if keep[0] else 1, self.dilation[1] if keep[1] else 1),
        )


POINTWISE = Geometry()


@dataclass(frozen=True)
class Convolution:
    """One small convolution.

    Parameters
    ----------
    weight : ndarray
        (outputs, inputs / groups, D1, D2).
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
    def window(self) -> Pair:
        """Taps (D1, D2)."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    @property
    def parameters(self) -> int:
        """Numbers stored."""
        return self.weight.size + (0 if self.bias is None else self.bias.size)


@dataclass(frozen=True)
class Fold:
    """(B, groups * C, H, W) to (B * groups, C, H, W).

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
    """(B * groups, C, H, W) to (B, groups * C, H, W).

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
        sides = [tuple(sum(part.padding[axis][end] for part in parts) for end in (0, 1)) for axis in (0, 1)]
        return Geometry(
            stride=(math.prod(part.stride[0] for part in parts), math.prod(part.stride[1] for part in parts)),
            padding=((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1])),
            dilation=(max(part.dilation[0] for part in parts), max(part.dilation[1] for part in parts)),
        )

    def output_size(self, image: Pair) -> Pair:
        """Height and width of the result.

        Parameters
        ----------
        image : tuple of (int, int)
            Height and width.

        Returns
        -------
        tuple of (int, int)
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

    def macs(self, image: Pair) -> int:
        """Multiplications for one image of this height and width.

        Parameters
        ----------
        image : tuple of (int, int)
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
                image = step.geometry.output_size(step.window, image)
                total += copies * step.weight.size * math.prod(image)
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
                weight = np.tile(step.weight, (copies, 1, 1, 1))
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
        """The layers on images (B, S, H, W), by the definition: slow, for tests and small checks.

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
    if images.ndim != 4 or images.shape[1] != layer.inputs:
        raise ValueError(f"images have shape {images.shape}; (B, {layer.inputs}, H, W) is needed")
    geometry, groups = layer.geometry, layer.groups
    height, width = geometry.output_size(layer.window, (images.shape[2], images.shape[3]))
    padded = np.pad(images, ((0, 0), (0, 0), *geometry.padding))
    padded = padded.reshape(len(images), groups, -1, *padded.shape[2:])
    weight = layer.weight.reshape(groups, -1, *layer.weight.shape[1:])
    result = np.zeros((len(images), groups, weight.shape[1], height, width), np.result_type(images, weight))
    for p in range(layer.window[0]):
        for q in range(layer.window[1]):
            top, left = p * geometry.dilation[0], q * geometry.dilation[1]
            rows = slice(top, top + (height - 1) * geometry.stride[0] + 1, geometry.stride[0])
            columns = slice(left, left + (width - 1) * geometry.stride[1] + 1, geometry.stride[1])
            result += np.einsum("gts,bgshw->bgthw", weight[..., p, q], padded[..., rows, columns])
    result = result.reshape(len(images), -1, height, width)
    return result if layer.bias is None else result + layer.bias[:, None, None]


def _dense(layer: Convolution) -> Array:
    """The kernel of a grouped convolution as (outputs, inputs, D1, D2)."""
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
        rows, columns = weight.shape[2] + kernel.shape[2] - 1, weight.shape[3] + kernel.shape[3] - 1
        result = np.zeros((weight.shape[0], kernel.shape[1], rows, columns), np.result_type(weight, kernel))
        for p in range(weight.shape[2]):
            for q in range(weight.shape[3]):
                here = slice(p, p + kernel.shape[2]), slice(q, q + kernel.shape[3])
                result[:, :, here[0], here[1]] += np.tensordot(weight[:, :, p, q], kernel, axes=1)
        kernel = result
    return kernel


def _overlaps(layers: Sequence[Convolution], groups: int, channels: int, axis: int) -> Array:
    """Inner products of the composed kernels that end (axis 0) or begin (axis 1) in each group, (groups, groups)."""
    kernel = composed(layers) if layers else np.eye(channels)[:, :, None, None]
    rows = np.moveaxis(kernel, axis, 0).reshape(groups, -1).astype(np.float64, copy=False)
    return np.asarray(rows @ rows.T)
