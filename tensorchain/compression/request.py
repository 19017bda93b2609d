"""A layer that could be replaced, and what is asked of a compression."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorchain.compression.conv import Geometry, LayerPlan, Pair, Sizes, macs_of
from tensorchain.compression.fitting import METHODS
from tensorchain.compression.projections import PROJECTIONS
from tensorchain.compression.quantize import check_bits
from tensorchain.kernels import Array
from tensorchain.solvers import Constraint

SPATIAL = tuple(method for method in METHODS if method != "svd")
"""Methods for kernels of several taps."""
METHOD_NAMES = ("auto", *SPATIAL, "svd", "channels")
"""What may be asked for; "svd" projects outputs or inputs, whichever serves the budget; "channels" takes some out."""
FORMS = ("grouped", "fold", "auto")
ALLOCATIONS = ("global", "one-step")
BUDGETS = ("keep_macs", "keep_params", "keep_latency")


@dataclass(frozen=True)
class Site:
    """A layer that could be replaced.

    Attributes
    ----------
    name : str
        Of the layer.
    kernel : ndarray
        (T, S / groups, D1, ..); composed where there is a plan.
    bias : ndarray or None
        (T,) or None.
    geometry : Geometry
        Of the convolution.
    image : Sizes
        Height and width of its input; three sizes of a volume.
    uses : int
        How often it is applied for one sample.
    refusal : str
        Why it must stay as it is; empty where it need not.
    plan : LayerPlan or None
        The small convolutions that stand for the layer already, or None.
    counts : tuple of (int, int) or None
        Parameters and multiplications of a layer that is no convolution, and stays; None for all others.
    stored : int or None
        Numbers that the layer stores, where they are not its kernel and its bias.
    groups : int
        Of its channels, each with a kernel of its own.
    calls : int
        How often the layer is called in one pass; `uses` counts images, which may be more.
    parameters, macs : int
        Of the dense layer.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> site = compression.Site("conv", np.ones((4, 4, 3, 3)), None, compression.Geometry(), (8, 8))
    >>> site.macs
    5184
    """

    name: str
    kernel: Array
    bias: Array | None
    geometry: Geometry
    image: Sizes
    uses: int = 1
    refusal: str = ""
    plan: LayerPlan | None = None
    counts: Pair | None = None
    stored: int | None = None
    groups: int = 1
    calls: int = 1

    @property
    def parameters(self) -> int:
        """Numbers that the dense layer stores."""
        if self.counts is not None:
            return self.counts[0]
        if self.stored is not None:
            return self.stored
        return self.kernel.size + (0 if self.bias is None else self.bias.size)

    @property
    def macs(self) -> int:
        """Multiplications of the dense layer in one pass."""
        if self.counts is not None:
            return self.counts[1]
        return macs_of(self.kernel.shape, self.geometry, self.image) * self.uses

    @property
    def costs(self) -> Pair:
        """Parameters and multiplications of the layer as it is now."""
        if self.plan is None:
            return self.parameters, self.macs
        return self.plan.parameters, self.plan.macs(self.image) * self.uses

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix, or one for each group."""
        return math.prod(self.kernel.shape[2:]) == 1

    @property
    def parts(self) -> Array:
        """The kernels of the groups, (groups, T / groups, S / groups, D1, ..)."""
        return self.kernel.reshape(self.groups, -1, *self.kernel.shape[1:])


@dataclass(frozen=True)
class Request:
    """What is asked of a compression; the adapters document the fields for their callers.

    Attributes
    ----------
    method : str
        For kernels of several taps, one of `METHODS`; "svd" projects the outputs or the inputs, and serves all
        matrices; "auto" takes for each layer the one that serves the budget best.
    keep_macs, keep_params, keep_latency : float or None
        The budget, as a share of the dense network; one of them.  `keep_latency` is a share of the time of a run, and
        both forms of a chain are timed.
    stabilise, slack, fit_output, weight_bits, share_bits, max_seconds : bool or Constraint or float or int or None
        As in `fit_kernel`.
    pointwise : bool
        Whether 1 x 1 and linear layers are compressed, by SVD.
    keep : tuple of str
        Names of layers to leave alone.
    form : str
        "grouped" or "fold", for chains; "auto" times both on the layer's input and takes the faster.
    allocation : str
        "global" for the least sum of squared errors, "one-step" for the least largest one.
    candidates : int
        Ranks measured on each ladder.
    jobs : int
        Processes in which layers are measured and fitted side by side; -1 for one a processor.
    refit : bool
        Whether layers that are replaced are refitted afterwards; each then has a bias.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Request("tc", keep_macs=0.5).keep_macs
    0.5
    """

    method: str
    keep_macs: float | None = None
    keep_params: float | None = None
    stabilise: bool | Constraint = True
    slack: float = 0.02
    fit_output: bool = False
    pointwise: bool = True
    keep: tuple[str, ...] = ()
    form: str = "grouped"
    allocation: str = "global"
    candidates: int = 12
    max_seconds: float | None = 30.0
    weight_bits: int | None = None
    share_bits: bool = False
    refit: bool = False
    jobs: int = 1
    keep_latency: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHOD_NAMES:
            raise ValueError(f"method is {self.method!r}; one of {', '.join(METHOD_NAMES)} is needed")
        if self.method in ("svd", "channels") and self.weight_bits is not None:
            raise ValueError(f"{self.method} has no weights on a grid; give another method, or leave weight_bits out")
        if sum(getattr(self, name) is not None for name in BUDGETS) != 1:
            raise ValueError(f"give one of {', '.join(BUDGETS)}, a share of the dense network such as 0.3")
        share = self.share
        if not 0.0 < share <= 1.0:
            raise ValueError(f"the share to keep is {share!r}; a number above 0, up to 1, is needed")
        if isinstance(self.keep, str):
            raise TypeError(f"keep is {self.keep!r}; a tuple of names is needed, such as ({self.keep!r},)")
        if isinstance(self.candidates, bool) or self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates!r}; an integer of at least 1 is needed")
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; {' or '.join(FORMS)} is needed")
        if self.weight_bits is not None:
            check_bits("weight_bits", self.weight_bits)
        if self.allocation not in ALLOCATIONS:
            raise ValueError(f"allocation is {self.allocation!r}; {' or '.join(ALLOCATIONS)} is needed")

    @property
    def share(self) -> float:
        """The share of the dense network to keep."""
        return float(getattr(self, self.budget))

    @property
    def budget(self) -> str:
        """The name of the budget's field."""
        return next(name for name in BUDGETS if getattr(self, name) is not None)

    @property
    def both_forms(self) -> bool:
        """Whether both forms of a chain are timed."""
        return self.form == "auto" or self.keep_latency is not None

    def at(self, share: float) -> Request:
        """The same with another share to keep.

        Parameters
        ----------
        share : float
            Of what the budget counts, between 0 and 1.

        Returns
        -------
        Request
            With that share.

        Examples
        --------
        >>> from tensorchain.compression import Request
        >>> Request("tc", keep_macs=0.5).at(0.3).keep_macs
        0.3
        """
        budget: dict[str, Any] = {self.budget: share}
        return replace(self, **budget)

    def methods_of(self, site: Site) -> tuple[str, ...]:
        """The methods from which one is chosen for a layer.

        Parameters
        ----------
        site : Site
            A layer.

        Returns
        -------
        tuple of str
            By name.
        """
        if site.pointwise:
            return ("svd",)
        if self.method == "svd":
            return PROJECTIONS
        # Where one axis holds all taps, there is nothing to separate.
        flat = site.kernel.shape[2] == 1 or math.prod(site.kernel.shape[3:]) == 1
        if self.method == "auto":
            fitted = tuple(method for method in SPATIAL if method != "cp4" or not flat)
            return fitted if self.weight_bits is not None else (*fitted, *PROJECTIONS)
        return ("cp3",) if self.method == "cp4" and flat else (self.method,)

    def refusal(self, site: Site) -> str:
        """Why a layer stays as it is, or nothing.

        Parameters
        ----------
        site : Site
            A layer.

        Returns
        -------
        str
            Empty where it may change.
        """
        if site.name in self.keep:
            return "kept on request"
        if site.refusal:
            return site.refusal
        if site.pointwise and not self.pointwise:
            return "1 x 1"
        if min(site.parts.shape[1:3]) < 2:
            return "depthwise" if site.groups > 1 else "one channel"
        if site.groups > 1 and self.weight_bits is not None:
            return "in groups, with weights on a grid"
        if not np.isfinite(site.kernel).all() or not site.kernel.any():
            return "zero, or not finite"
        return ""
