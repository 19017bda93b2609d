"""What a solver returns: one frozen `Fit`, with why it stopped and how it went.

Long by its docstrings: the code alone has fewer than 250 lines.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorchain.html import report as html_report
from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.regularisation import PathPoint, RegularisationPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_UNEXPLAINED = 0.5
"""Share of the squared norm from which a model is said to leave most of the data unexplained."""


class StopReason(enum.Enum):
    """Why a solver stopped; the value says it in words, with the cure where one is needed.

    Examples
    --------
    >>> import tensorchain as tc
    >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
    >>> fit.reason in tc.StopReason
    True
    """

    EXACT = "the error is at rounding level"
    CONVERGED = "the objective no longer decreases by more than the tolerance, and no block alone can lower it"
    STABILISED = (
        "the least error that was found goes with a sensitivity more than ten times as large: returned is the model of "
        "least sensitivity within the slack on the error; solver=Auto(slack=0) returns the least error"
    )
    ITERATION_LIMIT = "the iteration limit was reached; raise max_iter, or warm-start with init=fit.model"
    TIME_LIMIT = "max_seconds was reached; the best model so far is returned"
    INTERRUPTED = "interrupted from the keyboard; the best model so far is returned"
    CALLBACK = "the callback asked to stop; the best model so far is returned"
    STALLED = (
        "no step lowers the objective; try other starts (starts=10) or the default solver, or ask tc.diagnose(fit, T)"
    )
    DIVERGING = (
        "the sensitivity grows without bound as the error falls: from here no best approximation is in reach; "
        "bound it with constraint=SensitivityBound(...) or Penalty(...), or try other starts (starts=10)"
    )
    INFEASIBLE = (
        "the bound could not be met; the model nearest to it is returned: loosen it, raise the rank or the starts"
    )
    NON_FINITE = "values overflowed; the best finite model is returned: add a Penalty or a SensitivityBound"

    @property
    def success(self) -> bool:
        """Whether the solver reached a solution."""
        return self in (StopReason.EXACT, StopReason.CONVERGED, StopReason.STABILISED)


@dataclass(frozen=True, eq=False)
class History:
    """One entry per iteration.

    Attributes
    ----------
    error : ndarray
        ||T - X|| / ||T||.
    sensitivity : ndarray
        SS of the iterate, for T as given.
    penalty : ndarray
        Weight nu of SS in ||T - X||^2 + nu SS, for T as given.
    seconds : ndarray
        Since the start.

    Examples
    --------
    >>> import tensorchain as tc
    >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
    >>> len(fit.history) == fit.iterations + 1 == len(fit.history.error)
    True
    """

    error: Array
    sensitivity: Array
    penalty: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.error)


@dataclass(frozen=True, eq=False)
class Start:
    """Outcome of one of several starts.

    Attributes
    ----------
    model : Model
        Its decomposition.
    error, sensitivity, reason, iterations, seconds : float or StopReason or int
        As in `Fit`.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> len(tc.decompose(T, "cp", rank=2, starts=2, rng=0).starts)
    2
    """

    model: Model = field(repr=False)
    error: float
    sensitivity: float
    reason: StopReason
    iterations: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of `decompose`.

    Attributes
    ----------
    model : Model
        The decomposition, in the gauge of least sensitivity.
    error : float
        ||T - X||_F / ||T||_F of `model`, measured on the data at the end.
    sensitivity : float
        SS = ||J||_F^2 of `model`, for T as given.
    reason : StopReason
        Why the run ended, judged on `model`.
    iterations, seconds : int or float
        Of the run that is returned.
    history : History
        Error, sensitivity and penalty of each iteration.
    solver : str
        The solver and its options.
    starts : tuple of Start
        Outcome of every start, in the order of their seeds, when there were several.
    dimension_names : tuple of str or None
        Names of the modes, where the tensor had some.
    labels : tuple of tuple of object or None or None
        For each mode the names of its indices, or None, where the tensor had some.
    gap : float
        How far the bounds of the constraint are from met, relative to them; 0 where they are.
    objective : float
        What was minimised, for the tensor of norm 1: the squared error, with a price on the sensitivity if one was
        asked for, or the sensitivity under a bound on the error.
    standard_error : float or None
        Of `error` where that is an estimate from a sample of entries, None where it was measured.
    least_error : float or None
        Least relative error that was found, where a model of far less sensitivity at a slightly larger error is
        returned in its place (`StopReason.STABILISED`); None else.
    optimality : float or None
        What the best change of each block alone could still take off what is minimised (multipliers of bounds
        included), relative to it, all blocks together; zero exactly where the conditions of Karush, Kuhn and Tucker
        hold.  None where that was not measured, and where the error is at rounding level; with `NonNegative` and fixed
        blocks it always is measured.
    fixed, nonnegative : tuple of str
        Names of the blocks that were given and stayed as they are, and of those that may not have negative entries.
    path : RegularisationPath
        Models that were passed on a sensitivity path, from little sensitivity to little error; empty where the solver
        took none.
    again : callable or None
        What `at` calls to fit again; a fit from a file has none.

    See Also
    --------
    tensorchain.decompose : Makes one.
    tensorchain.load : Reads one from a file.
    tensorchain.diagnose : Says whether it is healthy.

    Notes
    -----
    Fits are compared and hashed by identity.

    Examples
    --------
    >>> import tensorchain as tc
    >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
    >>> fit.error < 0.1, fit.model.rank
    (True, 2)
    """

    model: Model
    error: float
    sensitivity: float
    reason: StopReason
    iterations: int
    seconds: float
    history: History = field(repr=False)
    solver: str = ""
    starts: tuple[Start, ...] = field(default=(), repr=False)
    dimension_names: tuple[str, ...] | None = None
    gap: float = 0.0
    objective: float = float("nan")
    standard_error: float | None = None
    least_error: float | None = None
    optimality: float | None = None
    labels: tuple[tuple[Any, ...] | None, ...] | None = None
    fixed: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    path: RegularisationPath = field(default_factory=RegularisationPath, repr=False)
    again: Callable[[Model, float | None, float | None], Fit] | None = field(default=None, repr=False)
    """Fits the same data from a model, at an error or a sensitivity."""

    @property
    def dimensions(self) -> dict[str, tuple[Any, ...] | None] | None:
        """Names of the modes and their coordinates, where the tensor had some: what tables and plots take as `dims`."""
        names = self.dimension_names
        if names is None or len(set(names)) < len(names):
            return None
        return dict(zip(names, self.labels or (None,) * len(names), strict=True))

    @property
    def components(self) -> Any:
        """The parts that the model is the sum of, as a table; see `Model.components`."""
        return self.model.components

    def to_pandas(self) -> Any:
        """The blocks as tables of pandas, under the names and coordinates of the data.

        Returns
        -------
        dict of str to pandas.DataFrame
            One table for each block, by the name of its dimension where the data had names.

        Raises
        ------
        ImportError
            When pandas is not installed (extra `tables`).

        See Also
        --------
        tensorchain.Model.to_pandas : The same with names of your own.

        Examples
        --------
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> fit.to_pandas()["factor 1"].shape
        (6, 2)
        """
        return self.model.to_pandas(self.dimensions)

    def to_xarray(self, *, full: bool = False) -> Any:
        """The blocks as arrays of xarray, with the names and coordinates of the data.

        Parameters
        ----------
        full : bool, default False
            Add the tensor of the model.

        Returns
        -------
        xarray.Dataset
            One array for each block.

        Raises
        ------
        ImportError
            When xarray is not installed (extra `tables`).

        See Also
        --------
        tensorchain.Model.to_xarray : The same with names of your own.

        Examples
        --------
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> fit.to_xarray(full=True)["tensor"].shape
        (6, 6, 6)
        """
        return self.model.to_xarray(self.dimensions, full=full)

    @property
    def knee(self) -> PathPoint | None:
        """The corner of the path, where most of the error is gone for little sensitivity; None without a path."""
        return self.path.knee

    def at(self, *, error: float | None = None, sensitivity: float | None = None) -> Fit:
        """Another trade-off: the model of least sensitivity at an error, or of least error at a sensitivity.

        One warm run on the same data, from the nearest model of the path.

        Parameters
        ----------
        error : float, optional
            Relative error that is allowed.
        sensitivity : float, optional
            SS that is allowed.

        Returns
        -------
        Fit

        Raises
        ------
        ValueError
            When neither or both are given.
        RuntimeError
            When the fit comes from a file or another process, without its data.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.border_cp((5, 5, 5), np.random.default_rng(0)).tensor
        >>> fit = tc.decompose(T, "cp", rank=2, rng=0)
        >>> mild = fit.at(error=0.02)
        >>> mild.error <= 0.02 * (1 + 1e-6), mild.sensitivity < fit.sensitivity
        (True, True)
        """
        if (error is None) == (sensitivity is None):
            raise ValueError("fit.at needs one of error= and sensitivity=: at which error, or at which sensitivity")
        if self.again is None:
            raise RuntimeError(
                "this fit is without its data: call tc.decompose(tensor, init=fit.model, constraint=...) with "
                "ErrorBound(error) or SensitivityBound(sensitivity)"
            )
        start = self.path.within(error=error, sensitivity=sensitivity)
        return self.again(self.model if start is None else start.model, error, sensitivity)

    def __getstate__(self) -> dict[str, Any]:
        # Data do not travel with their fits.
        return {**self.__dict__, "again": None}

    @property
    def converged(self) -> bool:
        """Whether a solution was reached; `reason` says more."""
        return self.reason.success

    @property
    def note(self) -> str:
        """What is said of a model that leaves most of the data unexplained, whatever the reason; empty of others."""
        if not self.error**2 >= _UNEXPLAINED:
            return ""
        share = f"{100.0 * self.error**2:.0f} % of the squared norm of the data"
        return f"{share} is left unexplained: a higher rank, or a looser bound, may explain more"

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self.report())

    def report(self) -> list[tuple[str, str]]:
        """(name, value) pairs: what `repr` prints.

        Returns
        -------
        list of tuple of (str, str)
            In the order in which `repr` prints them.

        Examples
        --------
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> "error" in dict(fit.report())
        True
        """
        model = self.model
        sizes = " x ".join(map(str, model.shape))
        if self.dimension_names:
            sizes = " x ".join(f"{n} {s}" for n, s in zip(self.dimension_names, model.shape, strict=True))
        dense = float(np.prod([float(size) for size in model.shape]))
        relative = "undefined" if model.norm() == 0.0 else f"{model.sensitivity(relative=True):.3g}"
        rows = [
            ("model", f"{type(model).__name__} {sizes}, rank {model.rank}, {model.dtype}"),
            ("parameters", f"{model.n_parameters} ({model.n_parameters / dense:.3g} of the tensor's entries)"),
            ("error", self._error_text()),
            ("sensitivity", f"{self.sensitivity:.4g} (relative {relative})"),
            *([("least error", f"{self.least_error:.4g} was found")] if self.least_error is not None else []),
            ("stopped", f"{self.reason.name}: {self.reason.value}"),
            *([("KKT residual", f"{self.optimality:.2g}")] if self.optimality is not None else []),
            *([("fixed", ", ".join(self.fixed))] if self.fixed else []),
            *([("non-negative", ", ".join(self.nonnegative))] if self.nonnegative else []),
            ("iterations", f"{self.iterations} in {self.seconds:.3g} s"),
            ("solver", self.solver),
            *([("note", self.note)] if self.note else []),
        ]
        if len(self.starts) > 1:
            errors = np.array([start.error for start in self.starts])
            spread = f"min {errors.min():.3g}, median {np.median(errors):.3g}, max {errors.max():.3g}"
            rows.append(("starts", f"{len(errors)}: error {spread}"))
        return rows

    def _error_text(self) -> str:
        if self.standard_error is None:
            return f"{self.error:.4g}"
        return f"{self.error:.4g}, an estimate with standard error {self.standard_error:.1g}"

    def _repr_html_(self) -> str:
        return html_report(self.report(), self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to a file, .safetensors where `path` ends so and .npz else; `tensorchain.load` reads it.

        Parameters
        ----------
        path : str or path-like
            The file, which is replaced when all is written.

        See Also
        --------
        tensorchain.load : Reads the file.

        Examples
        --------
        >>> import os, tempfile
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit.save(os.path.join(folder, "fit.npz"))
        ...     tc.load(os.path.join(folder, "fit.npz")).error == fit.error
        True
        """
        from tensorchain.fit_writing import save_fit

        save_fit(self, path)

    def plot(self, ax: Axes | None = None) -> Any:
        """Error and sensitivity over the iterations.

        All steps of the run are shown: the error rises where the solver begins afresh from another start.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Those of the error.

        Raises
        ------
        ValueError
            When the run stopped before its first iterate.

        See Also
        --------
        tensorchain.plotting.plot_history : The same for a history alone.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> fit.plot(Figure().subplots()).get_xlabel()
        'iteration'
        """
        from tensorchain.plotting import plot_history

        return plot_history(self.history, ax=ax, title=f"{type(self.model).__name__}, rank {self.model.rank}")

    def plot_path(self, ax: Axes | None = None) -> Any:
        """Error against sensitivity along the path, with this fit and the corner.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.

        Raises
        ------
        ValueError
            When the solver took no path.

        See Also
        --------
        tensorchain.plotting.plot_path : The same as a function.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.border_cp((4, 4, 4), np.random.default_rng(0)).tensor
        >>> tc.decompose(T, "cp", rank=2, solver="path", rng=0).plot_path(Figure().subplots()).get_xscale()
        'log'
        """
        from tensorchain.plotting import plot_path

        return plot_path(self, ax=ax)

    def plot_factors(self, axes: Sequence[Axes] | None = None, **options: Any) -> Any:
        """Factors as lines or bars over the coordinates of the data.

        Parameters
        ----------
        axes : sequence of matplotlib.axes.Axes, optional
            One for each mode; by default those of a new figure.
        **options : object
            As in :func:`tensorchain.plotting.plot_factors`.

        Returns
        -------
        list of matplotlib.axes.Axes
            One for each mode.

        See Also
        --------
        tensorchain.plotting.plot_factors : The same as a function.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, rng=0)
        >>> len(fit.plot_factors(Figure().subplots(1, 3)))
        3
        """
        from tensorchain.plotting import plot_factors

        return plot_factors(self, axes, **options)

    def plot_starts(self, ax: Axes | None = None) -> Any:
        """Errors and sensitivities of the starts, and how similar they are to the best.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.

        See Also
        --------
        tensorchain.plotting.plot_starts : The same as a function.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import tensorchain as tc
        >>> fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=6), "cp", rank=2, starts=2, rng=0)
        >>> len(fit.starts), fit.plot_starts(Figure().subplots()) is not None
        (2, True)
        """
        from tensorchain.plotting import plot_starts

        return plot_starts(self, ax=ax)


def starts_table(fits: Sequence[Fit]) -> tuple[Start, ...]:
    """The outcomes of several fits."""
    return tuple(Start(f.model, f.error, f.sensitivity, f.reason, f.iterations, f.seconds) for f in fits)
