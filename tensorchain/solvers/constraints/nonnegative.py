"""Non-negative factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorchain.solvers.constraints.base import Constraint
from tensorchain.solvers.constraints.domain import Domain, NonNegativeBlocks


@dataclass(frozen=True)
class NonNegative(Constraint):
    """Least error with blocks whose entries are all >= 0.

    It combines with the other constraints: ``NonNegative() & Penalty(1e-3)``.  A best approximation always exists
    when all blocks are non-negative: parts cannot grow and cancel.  Data may have entries of either sign, but not be
    complex.

    Parameters
    ----------
    modes : sequence of int, int or None
        Modes whose blocks are non-negative; None for all.
    core : bool, optional
        Whether the core of a Tucker model, and the cores of block terms, are non-negative as well.  By default they
        are where `modes` is None.

    Raises
    ------
    TypeError
        When a mode is not an integer, or `core` not a bool.
    ValueError
        When nothing is left to be non-negative.

    References
    ----------
    Lim and Comon, "Nonnegative approximations of nonnegative tensors" (2009), for the existence of a best one;
    Cichocki and Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations" (2009).

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> rng = np.random.default_rng(0)
    >>> spectra = tc.CP([rng.uniform(size=(size, 3)) for size in (8, 9, 10)])
    >>> fit = tc.decompose(spectra.full(), "cp", rank=3, constraint=tc.NonNegative(), rng=0)
    >>> fit.error < 1e-4, min(float(factor.min()) for factor in fit.model.factors) >= 0
    (True, True)
    """

    modes: Sequence[int] | int | None = None
    core: bool | None = None

    def __post_init__(self) -> None:
        modes = self.modes
        if modes is not None:
            modes = (modes,) if isinstance(modes, (int, np.integer)) and not isinstance(modes, bool) else modes
            named = tuple(modes) if isinstance(modes, Sequence) and not isinstance(modes, str) else (modes,)
            for mode in named:
                if isinstance(mode, bool) or not isinstance(mode, (int, np.integer)):
                    raise TypeError(f"NonNegative: modes is {self.modes!r}; integers are needed, as modes=(0, 2)")
            object.__setattr__(self, "modes", tuple(int(mode) for mode in named))
        if self.core is not None and not isinstance(self.core, (bool, np.bool_)):
            raise TypeError(f"NonNegative: core is {self.core!r}; True, False or None is needed")
        if self.modes == () and not self.core:
            raise ValueError("NonNegative: no mode is named and core is not True: nothing would be non-negative")

    @property
    def domain(self) -> Domain:
        """Where the blocks may lie."""
        modes = self.modes
        assert not isinstance(modes, int)
        return NonNegativeBlocks(modes, modes is None if self.core is None else bool(self.core))
