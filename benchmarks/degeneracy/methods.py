"""The methods that are compared: the solvers of this package, and every peer that pip can install.

All start from Gaussian blocks drawn with the seed of the run, get the same tensor in float64, and run until they stop
by themselves at a tight tolerance, or the time is up.  The time at which the target was met is noted on the way, except
for pyttb, which shows no iterates and is taken at its end.  Peers are given more iterations than their defaults, which
stop too early to be compared.

| method | package | models | what runs |
|---|---|---|---|
| ALS, LM, path | tensorchain | all | `ALS()`, `LM()`, `Path()` |
| ... bounded | tensorchain | all | the same with `SensitivityBound`, ten times the SS of a stable random model |
| path penalised | tensorchain | all | `Path()` with `Penalty`, 1e-6 ||T||^2 / SS of that model |
| parafac | TensorLy | CP | `parafac` |
| ring ALS, ring SVD | TensorLy | chain | `tensor_ring_als`, `tensor_ring` (one pass, no start) |
| HOOI | TensorLy | Tucker | `tucker` |
| cp_als, gcp_opt | pyttb | CP | `cp_als`, and `gcp_opt` with Gaussian loss by L-BFGS-B, which has replaced `cp_opt` |
| least_squares, L-BFGS | SciPy | all | `least_squares` with the exact Jacobian; `minimize` with the exact gradient |

SciPy gets the residual and the derivatives from the models of this package, so it is plain optimisation on the same
wiring, without gauge, penalty or path.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorchain as tc
from benchmarks.degeneracy.problems import Problem
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.jacobian import jacobian

_ITERATIONS = 5000
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Outcome:
    """A model, and why the method stopped.

    Attributes
    ----------
    reached : seconds after which the error had first met the target, where the method lets one see it.
    """

    model: Model | None
    stopped: str
    iterations: int | None = None
    reached: float | None = None


@dataclass(frozen=True)
class Method:
    """One way to fit a model.

    Attributes
    ----------
    name, package : for the table; the name of a method is unique.
    models : which models it can fit.
    run : (problem, tensor, generator, seconds) to outcome.
    module : what has to be installed.
    quick : part of the quick form.
    deterministic : whether the seed plays no part.
    """

    name: str
    package: str
    models: tuple[str, ...]
    run: Callable[[Problem, Array, np.random.Generator, float], Outcome]
    module: str
    quick: bool = False
    deterministic: bool = False

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.module.split(".")[0]) is not None


ALL = ("cp", "tc", "tucker", "btd")


def methods() -> tuple[Method, ...]:
    """All methods whose packages are installed."""
    table = (
        Method("ALS", "tensorchain", ALL, _ours(tc.ALS(max_iter=_ITERATIONS)), "tensorchain", quick=True),
        Method("LM", "tensorchain", ALL, _ours(tc.LM(max_iter=_ITERATIONS)), "tensorchain", quick=True),
        Method("path", "tensorchain", ALL, _ours(tc.Path()), "tensorchain", quick=True),
        Method("ALS bounded", "tensorchain", ALL, _ours(tc.ALS(max_iter=_ITERATIONS), "bound"), "tensorchain"),
        Method("LM bounded", "tensorchain", ALL, _ours(tc.LM(), "bound"), "tensorchain"),
        Method("path bounded", "tensorchain", ALL, _ours(tc.Path(), "bound"), "tensorchain", quick=True),
        Method("path penalised", "tensorchain", ALL, _ours(tc.Path(), "penalty"), "tensorchain"),
        Method("parafac", "TensorLy", ("cp",), _parafac, "tensorly.decomposition", quick=True),
        Method("ring ALS", "TensorLy", ("tc",), _ring_als, "tensorly.decomposition", quick=True),
        Method("ring SVD", "TensorLy", ("tc",), _ring_svd, "tensorly.decomposition", deterministic=True),
        Method("HOOI", "TensorLy", ("tucker",), _hooi, "tensorly.decomposition", quick=True),
        Method("cp_als", "pyttb", ("cp",), _cp_als, "pyttb", quick=True),
        Method("gcp_opt", "pyttb", ("cp",), _gcp_opt, "pyttb.gcp_opt"),
        Method("least_squares", "SciPy", ALL, _least_squares, "scipy.optimize", quick=True),
        Method("L-BFGS", "SciPy", ALL, _lbfgs, "scipy.optimize", quick=True),
    )
    return tuple(method for method in table if method.available)


class OutOfTimeError(Exception):
    """The time limit of a run is up."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in this thread after so many seconds; in other threads and systems do nothing."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError

    try:
        previous = signal.signal(signal.SIGALRM, stop)
    except (ValueError, AttributeError):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


GRACE = 2.0
"""Seconds beyond twice the limit after which a method that does not heed it is stopped."""


def attempt(method: Method, problem: Problem, tensor: Array, seed: int, seconds: float) -> tuple[Outcome, float]:
    """Run a method; failures and the time limit become outcomes.  Also the seconds that it took."""
    rng = np.random.default_rng((11, seed))
    # Imports are not part of the time.
    importlib.import_module(method.module)
    began = time.perf_counter()
    try:
        with limited(2.0 * seconds + GRACE), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with np.errstate(all="ignore"):
                outcome = method.run(problem, tensor, rng, seconds)
    except OutOfTimeError:
        outcome = Outcome(None, "TIME_LIMIT")
    except (ValueError, ArithmeticError, IndexError, RuntimeError, np.linalg.LinAlgError) as error:
        outcome = Outcome(None, f"{type(error).__name__}: {error}".splitlines()[0][:80])
    return outcome, time.perf_counter() - began


# -- this package -----------------------------------------------------------------------------


def _ours(solver: Any, constraint: str = "") -> Callable[[Problem, Array, np.random.Generator, float], Outcome]:
    def run(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
        limit: Any = None
        if constraint == "bound":
            limit = tc.SensitivityBound(problem.bound(tensor))
        elif constraint == "penalty":
            limit = tc.Penalty(1e-6 * float(np.vdot(tensor, tensor)) / problem.tame_sensitivity(tensor))
        fit = tc.decompose(
            tensor, problem.model, problem.rank, solver=solver, constraint=limit, rng=rng, max_seconds=seconds
        )
        met = np.flatnonzero(fit.history.error <= (problem.target or 0.0))
        reached = float(fit.history.seconds[met[0]]) if met.size else None
        return Outcome(fit.model, fit.reason.name, fit.iterations, reached)

    return run


# -- TensorLy ---------------------------------------------------------------------------------


class _Watch:
    """A callback that stops a TensorLy run when the time is up, and notes when the target was met."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        self.began, self.seconds, self.target = time.perf_counter(), seconds, problem.target or 0.0
        self.count = 0
        self.reached: float | None = None

    def __call__(self, _: Any, error: Any = None) -> bool:
        self.count += 1
        if self.reached is None and error is not None and error <= self.target:
            self.reached = self.elapsed
        return self.elapsed > self.seconds

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def outcome(self, model: Model) -> Outcome:
        stopped = "TIME_LIMIT" if self.elapsed > self.seconds else "RETURNED"
        return Outcome(model, stopped, self.count, self.reached)


def _parafac(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from tensorly.decomposition import parafac

    watch = _Watch(problem, seconds)
    weights, factors = parafac(
        tensor,
        problem.rank,
        n_iter_max=_ITERATIONS,
        init="random",
        tol=_TOLERANCE,
        random_state=_state(rng),
        callback=watch,
    )
    return watch.outcome(_weighted(weights, factors))


def _ring_als(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from tensorly.decomposition import tensor_ring_als

    watch = _Watch(problem, seconds)
    cores = tensor_ring_als(
        tensor, _ring_rank(problem), n_iter_max=_ITERATIONS, tol=_TOLERANCE, random_state=_state(rng), callback=watch
    )
    return watch.outcome(tc.TensorChain(list(cores)))


def _ring_svd(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from tensorly.decomposition import tensor_ring

    return Outcome(tc.TensorChain(list(tensor_ring(tensor, _ring_rank(problem)))), "RETURNED", 1)


def _hooi(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from tensorly.decomposition import tucker

    core, factors = tucker(
        tensor, problem.rank, n_iter_max=_ITERATIONS, init="random", tol=_TOLERANCE, random_state=_state(rng)
    )
    return Outcome(tc.Tucker(core, factors), "RETURNED")


def _ring_rank(problem: Problem) -> list[int]:
    return [*problem.rank, problem.rank[0]]


def _state(rng: np.random.Generator) -> np.random.RandomState:
    """TensorLy takes the older kind of generator."""
    return np.random.RandomState(int(rng.integers(2**31)))


# -- pyttb ------------------------------------------------------------------------------------


def _cp_als(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    import pyttb

    start = pyttb.ktensor([np.asfortranarray(rng.standard_normal((size, problem.rank))) for size in tensor.shape])
    result, _, output = pyttb.cp_als(
        pyttb.tensor(tensor), problem.rank, stoptol=_TOLERANCE, maxiters=_ITERATIONS, init=start, printitn=0
    )
    return Outcome(_weighted(result.weights, result.factor_matrices), "RETURNED", int(output["iters"]))


def _gcp_opt(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    import pyttb
    from pyttb.gcp.handles import Objectives
    from pyttb.gcp.optimizers import LBFGSB

    start = pyttb.ktensor([np.asfortranarray(rng.standard_normal((size, problem.rank))) for size in tensor.shape])
    result, *_ = pyttb.gcp_opt(
        pyttb.tensor(tensor), problem.rank, objective=Objectives.GAUSSIAN, init=start, printitn=0,
        optimizer=LBFGSB(maxiter=_ITERATIONS, maxfun=4 * _ITERATIONS, factr=10.0, pgtol=1e-12),
    )  # fmt: skip
    return Outcome(_weighted(result.weights, result.factor_matrices), "RETURNED")


def _weighted(weights: Any, factors: Any) -> tc.CP:
    """A CP of factors with weights, the weights shared evenly."""
    weights = np.ones(factors[0].shape[1]) if weights is None else np.asarray(weights)
    share = np.abs(weights) ** (1.0 / len(factors))
    blocks = [np.asarray(factor) * share for factor in factors]
    blocks[0] = blocks[0] * np.sign(weights)
    return tc.CP(blocks)


# -- SciPy ------------------------------------------------------------------------------------


class _Flat:
    """A model as a function of one flat vector."""

    def __init__(self, problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> None:
        start = Model.registry[problem.model].random(tensor.shape, problem.rank, rng)
        self.tensor, self.source = tensor, tc.Dense(tensor)
        self.start = start.scaled(float(np.linalg.norm(tensor)) / start.norm())
        self.sizes = [matrix.size for matrix in self.start.matrices]
        self.began, self.seconds = time.perf_counter(), seconds
        self.best, self.least = self.vector(self.start.matrices), math.inf
        self.enough = ((problem.target or 0.0) * float(np.linalg.norm(tensor))) ** 2
        self.reached: float | None = None

    @staticmethod
    def vector(blocks: Any) -> Array:
        return np.concatenate([block.ravel() for block in blocks])

    def model(self, flat: Array) -> Model:
        pieces = np.split(flat, np.cumsum(self.sizes)[:-1])
        shapes = [matrix.shape for matrix in self.start.matrices]
        return self.start.with_matrices([piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])

    def residual(self, flat: Array) -> Array:
        """X - T, noting the best point, so that an interrupted run has a result."""
        difference = (self.model(flat).full() - self.tensor).ravel()
        square = float(difference @ difference)
        if square < self.least:
            self.best, self.least = flat.copy(), square
        elapsed = time.perf_counter() - self.began
        if self.reached is None and square <= self.enough:
            self.reached = elapsed
        if elapsed > self.seconds:
            raise OutOfTimeError
        return difference

    def jacobian(self, flat: Array) -> Array:
        return jacobian(self.model(flat))

    def value_and_gradient(self, flat: Array) -> tuple[float, Array]:
        """||T - X||^2 / 2 and its gradient."""
        difference = self.residual(flat)
        gradient = self.source.residual(self.model(flat)).gradient
        return 0.5 * float(difference @ difference), -self.vector(gradient)

    def outcome(self, minimise: Callable[[], Any]) -> Outcome:
        """Run an optimiser and return the best point that it tried."""
        try:
            result = minimise()
            stopped, count = "RETURNED", int(result.nfev)
        except OutOfTimeError:
            stopped, count = "TIME_LIMIT", None
        return Outcome(self.model(self.best), stopped, count, self.reached)


def _least_squares(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from scipy.optimize import least_squares

    flat = _Flat(problem, tensor, rng, seconds)
    tolerances = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12}
    return flat.outcome(
        lambda: least_squares(flat.residual, flat.best, jac=flat.jacobian, max_nfev=_ITERATIONS, **tolerances)
    )


def _lbfgs(problem: Problem, tensor: Array, rng: np.random.Generator, seconds: float) -> Outcome:
    from scipy.optimize import minimize

    flat = _Flat(problem, tensor, rng, seconds)
    options = {"maxiter": 4 * _ITERATIONS, "maxfun": 8 * _ITERATIONS, "ftol": 1e-16, "gtol": 1e-10}
    return flat.outcome(
        lambda: minimize(flat.value_and_gradient, flat.best, jac=True, method="L-BFGS-B", options=options)
    )
