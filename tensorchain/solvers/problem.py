"""What a solver is given, and what it gives back as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Lagrangian, Sensitivity, SquaredError
from tensorchain.solvers.constraints.base import Values
from tensorchain.tensors import Tensor


class Clock:
    """Seconds that are left of a limit, counted from now.

    Parameters
    ----------
    limit : float or None
        Seconds; None for no limit.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.began = time.perf_counter()
        self.end = math.inf if limit is None else self.began + limit

    @property
    def left(self) -> float | None:
        """Seconds that are left; None without a limit."""
        return None if math.isinf(self.end) else max(self.end - time.perf_counter(), 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    @property
    def expired(self) -> bool:
        """Whether the limit is reached."""
        return time.perf_counter() >= self.end


@dataclass(frozen=True)
class Problem:
    """What a solver is given.

    Attributes
    ----------
    tensor : Tensor
        T / ||T||.
    constraint : Constraint
        In that scale.
    rng : numpy.random.Generator
        Randomness, for restarts.
    warm : bool
        Whether the start carries information, so that it must not be thrown away.
    clock : Clock
        The time that is left; the loop looks at it after each iterate, a solver within long ones.
    resumable : bool
        Whether a checkpoint is written, so that memories of iterates are asked for.
    """

    tensor: Tensor
    constraint: Constraint
    rng: np.random.Generator
    warm: bool = False
    clock: Clock = field(default_factory=Clock)
    resumable: bool = False

    def evaluator(self, model: Model) -> Evaluator:
        """What a run computes with, at `model` to begin with."""
        return self.tensor.evaluator(model)


@dataclass(frozen=True)
class Memory:
    """What a solver needs to go on from an iterate: plain figures (JSON) and models of one wiring."""

    figures: dict[str, Any]
    models: dict[str, Model]


@dataclass(frozen=True)
class Iterate:
    """A point on the way, in the scale ||T|| = 1.

    Attributes
    ----------
    model : Model
        The model.
    error : float
        ||T - X||.
    sensitivity : float
        SS.
    merit : tuple of (float, float) or None
        (violation of the bounds, objective), by which iterates are compared; None for (0, error^2).
    penalty : float
        Weight nu of SS in ||T - X||^2 + nu SS.
    damping : float
        Of a Levenberg-Marquardt step.
    iteration, seconds : int or float
        Set by the loop.
    memory : Memory or None
        Set where the run can be resumed from.
    stage_of : float or None
        The penalty whose minimiser this is, at the end of a stage of a sensitivity path.
    standard_error : float or None
        Of the error, where that is an estimate.
    answer : bool
        Whether the run returns this one, whatever its merit.
    way : str
        Which way a solver took that chooses among several.
    least_error : float or None
        Least error that was found, where the answer has a larger one.

    Examples
    --------
    >>> import tensorchain as tc
    >>> errors = []
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> fit = tc.decompose(T, "cp", 2, solver="als", rng=0, callback=lambda iterate: errors.append(iterate.error))
    >>> errors[-1] < errors[0]
    True
    """

    model: Model
    error: float
    sensitivity: float
    merit: tuple[float, float] | None = None
    penalty: float = 0.0
    damping: float = float("nan")
    iteration: int = 0
    seconds: float = 0.0
    memory: Memory | None = field(default=None, repr=False)
    stage_of: float | None = None
    standard_error: float | None = None
    answer: bool = False
    way: str = ""
    least_error: float | None = None


def iterate_at(
    at: Evaluator,
    constraint: Constraint,
    lagrangian: Lagrangian | None = None,
    *,
    values: Values | None = None,
    damping: float = math.nan,
    memory: Memory | None = None,
) -> Iterate:
    """The model that an evaluator holds, with its figures; `values` are quantities that are at hand."""
    measured = {} if values is None else dict(values)
    for quantity in constraint.quantities:
        if quantity not in measured:
            measured[quantity] = quantity.value(at)
    squared, sensitivity = measured.get(SquaredError()), measured.get(Sensitivity())
    return Iterate(
        at.model,
        at.error() if squared is None else math.sqrt(squared),
        at.sensitivity() if sensitivity is None else sensitivity,
        constraint.merit(measured),
        0.0 if lagrangian is None else lagrangian.penalty(measured),
        damping,
        memory=memory,
    )


@dataclass(frozen=True)
class Ended:
    """How a solver's run ended.

    Attributes
    ----------
    reason : StopReason
        Why, in the solver's view.
    optimality : float or None
        What single blocks could still take off the objective of the last iterate, relative to it, where the solver has
        measured that.
    """

    reason: StopReason
    optimality: float | None = None


Steps = Generator[Iterate, None, Ended]
"""A solver's run: iterates as they come, and how it ended."""

T_co = TypeVar("T_co", covariant=True)
Stage = Generator[Iterate, None, T_co]
"""A part of a run that hands a result to the part that called it."""


class Solver(Protocol):
    """Anything with `steps`."""

    def steps(self, problem: Problem, start: Model, memory: Memory | None = None) -> Steps:
        """Iterate from `start` (the first iterate is the start itself), or go on from `memory`."""
        ...


Callback = Callable[[Iterate], object]
"""Called after each iteration; a true return value stops the run."""
