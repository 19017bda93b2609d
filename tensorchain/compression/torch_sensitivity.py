"""The sensitivity of sequences of small convolutions as a tensor with a gradient in closed form, many at once.

With L the composition of the layers before layer k and Z that of those behind it, each with D_k taps,

    SS = sum_k ||dX/dW_k||^2,
    ||dX/dW_k||^2 = D_k sum_groups (sum_{i in group} ||L_i||^2) (sum_{o in group} ||Z_o||^2)

(:mod:`tensorchain.compression.conv`).  Only inner products of channels are needed, not the composed kernels: M_k of L's
channels and N_k of Z's, with M_0 = I and N_{K+1} = I,

    M_k = F_k(M_{k-1}) = sum over taps of W_k M_{k-1} W_k',     N_k = B_k(N_{k+1}) = sum over taps of W_k' N_{k+1} W_k.

SS is bilinear in M_{k-1} and N_{k+1}.  With P_k = dSS / dM_k, Q_k = dSS / dN_k, and E_k what term k gives directly,

    P_{k-1} = B_k(P_k) + E_k(N_{k+1}),     Q_{k+1} = F_k(Q_k) + E_k(M_{k-1}),
    dSS / dW_k = 2 (P_k W_k M_{k-1} + N_{k+1} W_k Q_k)        on every tap:

each value is met once going forward and once going back, as many products as the value itself needs.

**Many layers at once.**  A network has tens of such sequences, of many shapes, and on a GPU a step is bound by the
number of operations that are launched.  Channels of zeros change neither SS nor its gradient, so sequences of one
structure are padded to one shape and computed together; all their weights go into one padded array by one gather with
indices that are made once, and the gradient comes back by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from tensorchain.compression.torch_modules import fold_class


def sensitivity_of(part: Any) -> Any:
    """SS of a sequence of convolutions or linear layers, the formula of `LayerPlan.sensitivity`.

    Parameters
    ----------
    part : torch.nn.Sequential
        As `compress` puts in place of a layer.

    Returns
    -------
    object
        Tensor ().

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> part = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1, bias=False), torch.nn.Conv2d(1, 2, 1, bias=False))
    >>> for layer in part:
    ...     torch.nn.init.constant_(layer.weight, 2.0)[0, 0, 0, 0].item()
    2.0
    2.0
    >>> float(sensitivity_of(part).detach())  # 3 ||second||^2 + 2 ||first||^2
    48.0
    """
    return Sensitivities([part])()[0]


class Sensitivities:
    """SS of several sequences; a call gives the present values, (n,), with a gradient.

    Parameters
    ----------
    parts : sequence of torch.nn.Sequential
        On one device.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> parts = [torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 3 + n)) for n in range(3)]
    >>> torch.allclose(Sensitivities(parts)()[1], sensitivity_of(parts[1]))
    True
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        import torch

        self.modules = [[module for module in part if hasattr(module, "weight")] for part in parts]
        weights = self._weights()
        self.dtype = torch.float64 if all(weight.dtype == torch.float64 for weight in weights) else torch.float32
        self.device = weights[0].device
        described, first = [], 0
        for part, modules in zip(parts, self.modules, strict=True):
            layers = _layers(part, first)
            described.append(layers)
            first += sum(module.weight.numel() for module in modules)
        together: dict[Any, list[int]] = {}
        for n, layers in enumerate(described):
            together.setdefault(_structure(layers), []).append(n)
        self.batches = [_Batch([described[n] for n in members], first) for members in together.values()]
        order = torch.tensor([n for members in together.values() for n in members])
        self.order = order.argsort().to(self.device)
        sizes = torch.tensor([sum(module.weight.numel() for module in modules) for modules in self.modules])
        self.owner = torch.arange(len(sizes)).repeat_interleave(sizes).to(self.device)
        self.inverse = _inverse(torch.cat([i.flatten() for batch in self.batches for i in batch.indices]), first)
        self.inverse = self.inverse.to(self.device)
        for batch in self.batches:
            batch.to(self.device, self.dtype)

    def __call__(self) -> Any:
        return _function().apply(self, *self._weights())

    def _weights(self) -> list[Any]:
        return [module.weight for modules in self.modules for module in modules]

    def measured(self, weights: Sequence[Any]) -> tuple[Any, Any]:
        """SS (n,) and its gradient with respect to all weights, one after the other in one array."""
        import torch

        rows = [weight.detach().reshape(-1) for weight in weights]
        if any(row.dtype != self.dtype for row in rows):
            rows = [row.to(self.dtype) for row in rows]
        flat = torch.cat([*rows, self._zero()])
        values, gradients = zip(*(batch.measured(flat) for batch in self.batches), strict=True)
        gradient = torch.cat([piece for pieces in gradients for piece in pieces] + [self._zero()])
        # Copies of a shared kernel add up.
        return torch.cat(values)[self.order], gradient[self.inverse].sum(0)

    def _zero(self) -> Any:
        import torch

        return torch.zeros(1, dtype=self.dtype, device=self.device)


@cache
def _function() -> Any:
    import torch

    class Measured(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
        """Values, and gradients that are made with them."""

        @staticmethod
        def forward(ctx: Any, whole: Sensitivities, *weights: Any) -> Any:
            with torch.autocast(whole.device.type, enabled=False):
                values, gradient = whole.measured(weights)
            ctx.whole, ctx.gradient = whole, gradient
            ctx.shapes = [(weight.shape, weight.dtype) for weight in weights]
            return values

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
        def backward(ctx: Any, upstream: Any) -> Any:
            flat = ctx.gradient * upstream.to(ctx.gradient.dtype)[ctx.whole.owner]
            pairs = zip(flat.split([shape.numel() for shape, _ in ctx.shapes]), ctx.shapes, strict=True)
            # A call that changes nothing still takes its time, once for each weight.
            return None, *(
                piece.view(shape) if piece.dtype == dtype else piece.view(shape).to(dtype)
                for piece, (shape, dtype) in pairs
            )

    return Measured


@dataclass(frozen=True)
class _Layer:
    """Places of the weights of a layer, (groups, o, i, D), groups written out; how many groups share one weight."""

    places: Any
    copies: int

    @property
    def depthwise(self) -> bool:
        groups, outputs, inputs, _ = self.places.shape
        return groups > 1 and outputs == 1 and inputs == 1 and self.copies == 1


def _layers(part: Any, first: int) -> list[_Layer]:
    """The layers of a sequence whose weights stand in one array from `first` on."""
    import torch

    layers, copies = [], 1
    for module in part:
        if isinstance(module, fold_class()):
            copies = copies // module.groups if module.back else copies * module.groups
        elif hasattr(module, "weight"):
            shape, groups = module.weight.shape, getattr(module, "groups", 1)
            places = torch.arange(first, first + shape.numel()).reshape(shape)
            first += shape.numel()
            if getattr(module, "transposed", False):
                # (S, T / groups, ..)
                places = places.reshape(groups, -1, *shape[1:]).transpose(1, 2)
                places = places.reshape(-1, *places.shape[2:])
            places = places.reshape(groups, places.shape[0] // groups, places.shape[1], -1)
            layers.append(_Layer(places.repeat(copies, 1, 1, 1), copies))
    return layers


def _structure(layers: list[_Layer]) -> Any:
    """What sequences that are computed together have in common; sizes may differ by a factor of four."""
    key: list[Any] = [
        (0 if layer.depthwise else _blocks(layer), layer.copies, layer.places.shape[3]) for layer in layers
    ]
    widest = max(n for layer in layers for n in _channels(layer))
    key.append((widest - 1).bit_length() // 2)
    blocks = [[_blocks(one) for one in pair] for pair in pairwise(layers)]
    if any(max(pair) % min(pair) for pair in blocks):
        # Groups that do not nest cannot be padded.
        key += [tuple(layer.places.shape) for layer in layers]
    return tuple(key)


def _blocks(layer: _Layer) -> int:
    return 1 if layer.depthwise else int(layer.places.shape[0])


def _inverse(indices: Any, total: int) -> Any:
    """(copies, weights): where each of the weights stands in an array of `indices`; one past the end for no place."""
    import torch

    where = torch.nonzero(indices < total).flatten()
    where = where[indices[where].argsort(stable=True)]
    counts = torch.bincount(indices[where], minlength=total)
    starts = counts.cumsum(0) - counts
    rows = [
        torch.where(counts > copy, where[(starts + copy).clamp(max=len(where) - 1)], len(indices))
        for copy in range(int(counts.max()))
    ]
    return torch.stack(rows)


class _Batch:
    """Sequences of one structure, padded.

    Attributes
    ----------
    groups, shared, taps : list
        Of each layer; 0 groups for depthwise ones.
    indices : list of tensor
        For each layer the places of its weights, (n, o, D, i) over all channels, or (n, C, D) of depthwise ones; the
        last place, of a zero, where there is no weight.
    ends : tuple of tensor
        Channels that each sequence truly takes, and gives, (n,).
    """

    def __init__(self, members: list[list[_Layer]], total: int) -> None:
        import torch

        first = members[0]
        self.groups = [0 if layer.depthwise else int(layer.places.shape[0]) for layer in first]
        self.shared, self.taps = [layer.copies > 1 for layer in first], [int(layer.places.shape[3]) for layer in first]
        # Blocks of channels on each side of a layer are those of the finer groups that meet there.
        blocks = [_blocks(first[0]), *(max(map(_blocks, pair)) for pair in pairwise(first)), _blocks(first[-1])]
        counts = torch.tensor([[_channels(s[0])[0], *(_channels(layer)[1] for layer in s)] for s in members])
        widths = (counts // torch.tensor(blocks)).amax(0).tolist()
        self.indices: list[Any] = []
        for k, layer in enumerate(first):
            outer, inner = (blocks[m] * widths[m] for m in (k + 1, k))
            shape = (len(members), outer, self.taps[k]) + (() if layer.depthwise else (inner,))
            index = torch.full(shape, total)
            for n, sequence in enumerate(members):
                rows, columns = (_spread(int(counts[n, m]), blocks[m], widths[m]) for m in (k + 1, k))
                places = sequence[k].places
                if layer.depthwise:
                    index[n, rows] = places[:, 0, 0]
                    continue
                groups = len(places)
                for own, out, into in zip(places, rows.chunk(groups), columns.chunk(groups), strict=True):
                    index[n, out[:, None], :, into[None]] = own
            self.indices.append(index)
        self.ends: tuple[Any, Any] = (counts[:, 0], counts[:, -1])
        # Of depthwise layers, whose channels are groups.
        self.real = [(index[..., 0] < total) if index.ndim == 3 else None for index in self.indices]

    def to(self, device: Any, dtype: Any) -> None:
        """Move the indices to a device."""
        self.indices = [index.to(device) for index in self.indices]
        self.ends = self.ends[0].to(device, dtype), self.ends[1].to(device, dtype)
        self.real = [None if mask is None else mask.to(device, dtype) for mask in self.real]

    def measured(self, flat: Any) -> tuple[Any, list[Any]]:
        """SS (n,) and its gradient in the padded arrays, each flat."""
        import torch

        layers = [_Padded(flat[index]) for index in self.indices]
        count = len(layers)
        # M_k and N_k; the ends, unit matrices, are left out.
        before: list[Any] = [None]
        for layer in layers[:-1]:
            before.append(layer.forward(before[-1]))
        behind: list[Any] = [None]
        for layer in reversed(layers[1:]):
            behind.append(layer.backward(behind[-1]))
        behind.reverse()
        left = [self._sums(k, before[k], self.ends[0]) for k in range(count)]
        right = [self._sums(k, behind[k], self.ends[1]) for k in range(count)]
        total = sum(d * (a * b).flatten(1).sum(1) for d, a, b in zip(self.taps, left, right, strict=True))
        # P_k behind layer k, Q_k before it.
        p: list[Any] = [None] * count
        q: list[Any] = [None] * count
        for k in range(count - 1, 0, -1):
            passed = None if p[k] is None else layers[k].backward(p[k])
            p[k - 1] = self._direct(k, right[k], passed, before[k])
        for k in range(count - 1):
            passed = None if q[k] is None else layers[k].forward(q[k])
            q[k + 1] = self._direct(k, left[k], passed, behind[k])
        found = []
        for k, layer in enumerate(layers):
            parts = [layer.product(p[k], before[k])] if k + 1 < count else []
            parts += [layer.product(behind[k], q[k])] if k > 0 else []
            found.append((2.0 * sum(parts)).flatten() if parts else torch.zeros_like(layer.weight).flatten())
        return total, found

    def _sums(self, k: int, matrix: Any, end: Any) -> Any:
        """Inner products of layer k's groups of channels, (n, g, h), or their squared norms (n, g)."""
        groups = self.groups[k]
        if groups == 0:
            return self.real[k] if matrix is None else matrix.diagonal(dim1=1, dim2=2)
        if matrix is None:
            # Of unit vectors: each group has its share.
            each = (end / groups)[:, None].expand(-1, groups)
            return each.diag_embed() if self.shared[k] else each
        if not self.shared[k]:
            return matrix.diagonal(dim1=1, dim2=2).unflatten(1, (groups, -1)).sum(2)
        parts = matrix.unflatten(2, (groups, -1)).unflatten(1, (groups, -1))
        return parts.diagonal(dim1=2, dim2=4).sum(3)

    def _direct(self, k: int, sums: Any, passed: Any, like: Any) -> Any:
        """D_k E_k: the derivative of term k by the matrix on the other side of `sums`, added to what was passed on."""
        import torch

        groups = self.groups[k]
        found = torch.zeros_like(like) if passed is None else passed
        if groups and self.shared[k]:
            parts = found.unflatten(2, (groups, -1)).unflatten(1, (groups, -1)).diagonal(dim1=2, dim2=4)
            parts.add_(sums[..., None], alpha=self.taps[k])
        elif groups:
            found.diagonal(dim1=1, dim2=2).unflatten(1, (groups, -1)).add_(sums[..., None], alpha=self.taps[k])
        else:
            found.diagonal(dim1=1, dim2=2).add_(sums, alpha=self.taps[k])
        return found


def _channels(layer: _Layer) -> tuple[int, int]:
    """How many a layer takes, and gives."""
    groups, outputs, inputs, _ = layer.places.shape
    return groups * inputs, groups * outputs


def _spread(count: int, blocks: int, width: int) -> Any:
    """Where channels stand when each block of them is padded."""
    import torch

    each = count // blocks
    channels = torch.arange(count)
    return channels // each * width + channels % each


class _Padded:
    """The weights of one layer of some sequences, (n, o, D, i), or (n, C, D) depthwise; see the module for F and B."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight
        self.depthwise = weight.ndim == 3
        if self.depthwise:
            self.products = weight @ weight.transpose(1, 2)
        else:
            self.flat, self.tall = weight.flatten(2), weight.flatten(1, 2)

    def forward(self, matrix: Any) -> Any:
        """F: sum over taps of W M W'; M = I for None."""
        import torch

        if self.depthwise:
            return (
                torch.diag_embed(self.products.diagonal(dim1=1, dim2=2)) if matrix is None else self.products * matrix
            )
        rows = self.flat if matrix is None else (self.tall @ matrix).view(self.weight.shape).flatten(2)
        return rows @ self.flat.transpose(1, 2)

    def backward(self, matrix: Any) -> Any:
        """B: sum over taps of W' N W; N = I for None."""
        if self.depthwise:
            # One input for each output: the same products.
            return self.forward(matrix)
        rows = self.tall if matrix is None else (matrix @ self.flat).view(self.weight.shape).flatten(1, 2)
        return self.tall.transpose(1, 2) @ rows

    def product(self, left: Any, right: Any) -> Any:
        """Left W right on every tap; None for a unit matrix."""
        if self.depthwise:
            both = left * right if left is not None and right is not None else _unit_times(left, right)
            return both @ self.weight
        rows = self.flat if left is None else left @ self.flat
        rows = rows.view(self.weight.shape)
        return rows if right is None else (rows.flatten(1, 2) @ right).view(self.weight.shape)


def _unit_times(left: Any, right: Any) -> Any:
    """The elementwise product of a matrix with the unit matrix."""
    import torch

    return torch.diag_embed((right if left is None else left).diagonal(dim1=1, dim2=2))
