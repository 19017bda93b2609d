"""The two modules that compressed networks need beside PyTorch's own: folding, and rounding with a gradient.

Their classes are made at first use, so that this package is imported without PyTorch; the attribute lookup at the end
lets pickled networks find them.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def fold_class() -> Any:
    """`ChannelFold(groups, back)`: groups of channels into the batch, or back."""
    from torch import Tensor, nn

    class ChannelFold(nn.Module):  # type: ignore[misc, unused-ignore]
        """(B, groups * C, ..) to (B * groups, C, ..), or back."""

        def __init__(self, groups: int, back: bool) -> None:
            super().__init__()
            self.groups, self.back = groups, back

        def forward(self, x: Tensor) -> Tensor:
            # Without the shape of x, which scripted and traced graphs do not fix; -1 for the batch.
            if self.back:
                return x.unflatten(0, [-1, self.groups]).flatten(1, 2)
            return x.unflatten(1, [self.groups, -1]).flatten(0, 1)

        def extra_repr(self) -> str:
            return f"{self.groups}, back={self.back}"

    return _named(ChannelFold)


@cache
def fake_quantize_class() -> Any:
    """`FakeQuantize(bits, axis)`: values on a grid going forward, the identity inside its range backward."""
    import torch
    from torch import Tensor, nn

    class FakeQuantize(nn.Module):  # type: ignore[misc, unused-ignore]
        """Round to `step * (integer - zero)` with straight-through gradients."""

        def __init__(self, step: Tensor, zero: Tensor, low: int, high: int, axis: int | None) -> None:
            super().__init__()
            self.low, self.high, self.axis = low, high, axis
            self.register_buffer("step", step)
            self.register_buffer("zero", zero)

        def forward(self, x: Tensor) -> Tensor:
            step, zero = self.step, self.zero
            if self.axis is not None:
                shape = [1] * x.ndim
                shape[self.axis] = -1
                step, zero = step.reshape(shape), zero.reshape(shape)
            scaled = x / step
            inside = torch.clamp(scaled, self.low - zero, self.high - zero)
            # Only the rounding is hidden from the gradient: values that are clipped get none.
            return (inside + (torch.round(inside) - inside).detach()) * step

        def extra_repr(self) -> str:
            return f"{self.low} .. {self.high}, axis={self.axis}"

    return _named(FakeQuantize)


def _named(kind: Any) -> Any:
    kind.__module__, kind.__qualname__ = __name__, kind.__name__
    return kind


def __getattr__(name: str) -> Any:
    makers = {"ChannelFold": fold_class, "FakeQuantize": fake_quantize_class}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return makers[name]()
