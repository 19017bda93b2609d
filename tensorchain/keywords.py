"""Keywords that other packages have: an error that names the one that is meant here."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Set
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

ELSEWHERE = {
    "seed": "use rng=0",
    "random_state": "use rng=0",
    "random_seed": "use rng=0",
    "max_iter": "options belong to the solver: solver=tc.ALS(max_iter=100)",
    "maxiters": "options belong to the solver: solver=tc.ALS(max_iter=100)",
    "n_iter_max": "options belong to the solver: solver=tc.ALS(max_iter=100)",
    "tol": "options belong to the solver: solver=tc.ALS(tol=1e-8); for ranks from an error use error=0.05",
    "stoptol": "options belong to the solver: solver=tc.ALS(tol=1e-8)",
    "eps": "use error=0.05 for ranks from an error, or solver=tc.ALS(tol=1e-8)",
    "verbose": "use progress=True, or callback=function",
    "printitn": "use progress=True, or callback=function",
    "mask": "data with gaps are tc.Masked(array, mask), True where observed; NaN as gaps: tc.Masked(array)",
    "weights": "weighted data are tc.Masked(array, weights=weights)",
    "non_negative": "use constraint=tc.NonNegative()",
    "nonnegative": "use constraint=tc.NonNegative()",
    "fixed_modes": "use init=model, fixed=(0, 2)",
    "n_components": "use rank=3",
    "ranks": "use rank=3, or (2, 3, 4)",
    "R": "use rank=3",
    "n_jobs": "use jobs=-1",
    "timeout": "use max_seconds=60",
    "method": "use model='cp', or solver='als'",
    "n_init": "use starts=10",
    "n_starts": "use starts=10",
    "tolerance": "use error=0.05 for ranks from an error, or solver=tc.ALS(tol=1e-8)",
}
"""What to write in place of a keyword."""


def helpful(advice: Mapping[str, str] = ELSEWHERE) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: keywords that a function lacks raise a TypeError that names the one to use.

    Parameters
    ----------
    advice : mapping of str to str
        What to write in place of a keyword.

    Returns
    -------
    callable

    Examples
    --------
    >>> from tensorchain.keywords import helpful
    >>> @helpful()
    ... def fit(rank, *, rng=None):
    ...     return rank
    >>> fit(3, seed=0)
    Traceback (most recent call last):
    TypeError: fit has no 'seed'; use rng=0
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        names = set(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*arguments: P.args, **keywords: P.kwargs) -> R:
            for name in keywords:
                if name not in names:
                    raise TypeError(f"{function.__name__} has no {name!r}; {_meant(name, names, advice)}")
            return function(*arguments, **keywords)

        return checked

    return decorated


def _meant(name: str, names: Set[str], advice: Mapping[str, str]) -> str:
    """What to write in place of a keyword: what is known of it, or the one that is spelt alike."""
    if name in advice:
        return advice[name]
    close = difflib.get_close_matches(name, [*names, *advice], n=1, cutoff=0.75)
    if close and close[0] in advice:
        return advice[close[0]]
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(names))}"
