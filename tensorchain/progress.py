"""Live progress of a fit, in terminals and notebooks: a callback of `decompose`, or its option `progress=True`.

In a terminal one line on stderr is written over and over; in a notebook one output cell is replaced, with the curves of
error and sensitivity so far; where neither is there (a log file, a pipe) nothing is shown.  An iteration may take
microseconds, so the display is renewed a few times a second at most, and at the end.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from tensorchain.models.scale import Scale

if TYPE_CHECKING:
    from tensorchain.solvers import Iterate

_POINTS = 150
"""Points of a curve; a longer history is thinned."""
_WIDTH, _HEIGHT = 260.0, 70.0
"""Pixels of the curves."""


class Progress:
    """Show error, sensitivity and time while a fit runs.

    Use it as a context, so that the last state is shown too.  Several starts run one after the other when there is a
    callback.

    Parameters
    ----------
    norm : float, optional
        ||T||, to show the sensitivity for T as given; without it that of T / ||T|| is shown.
    starts : int, default 1
        How many will be run.
    interval : float, default 0.2
        Seconds between two displays.
    stream : TextIO, optional
        Where a terminal is looked for; stderr by default.
    callback : callable, optional
        Called with each iterate too; a true return value stops the run.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=8)
    >>> with tc.Progress() as progress:
    ...     fit = tc.decompose(T, "cp", rank=3, rng=0, callback=progress)
    >>> progress.seen == fit.iterations + 1
    True
    """

    def __init__(
        self,
        *,
        norm: float | None = None,
        starts: int = 1,
        interval: float = 0.2,
        stream: TextIO | None = None,
        callback: Callable[[Iterate], object] | None = None,
    ) -> None:
        if not interval >= 0.0:
            raise ValueError(f"interval is {interval!r}; a number of seconds is needed")
        self.seen = 0
        """Iterates so far, over all starts."""
        self._norm, self._starts, self._interval, self._callback = norm, starts, interval, callback
        self._start, self._began, self._shown = 0, time.monotonic(), -math.inf
        self._last: Iterate | None = None
        self._curve: list[tuple[float, float]] = []
        self._thinning = 1
        self._display: _Notebook | _Terminal | None = None
        self._stream = stream
        self._opened = False

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None:
            self._show(self._last)
        if self._display is not None:
            self._display.close()
        self._display, self._opened, self._last = None, False, None

    def __call__(self, iterate: Iterate) -> object:
        """Take note of an iterate; what `callback` answers."""
        if iterate.iteration == 0:
            self._start, self._curve, self._thinning = self._start + 1, [], 1
        self.seen += 1
        self._last = iterate
        self._keep(iterate)
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self._show(iterate)
        return None if self._callback is None else self._callback(iterate)

    def _keep(self, iterate: Iterate) -> None:
        """A point of the curves; every second one is dropped when there are too many."""
        if iterate.iteration % self._thinning:
            return
        self._curve.append((iterate.error, iterate.sensitivity))
        if len(self._curve) > _POINTS:
            self._curve, self._thinning = self._curve[::2], 2 * self._thinning

    def _show(self, iterate: Iterate) -> None:
        if not self._opened:
            self._display, self._opened = find_display(self._stream), True
        if self._display is not None:
            self._display.show(self.report(iterate), self._curve)

    def report(self, iterate: Iterate) -> list[tuple[str, str]]:
        """(name, value) pairs: what is shown of an iterate.

        Parameters
        ----------
        iterate : Iterate
            Of a run.

        Returns
        -------
        list of tuple of (str, str)
            In the order in which they are shown.
        """
        scale = " of T / ||T||" if self._norm is None else ""
        started = [("start", f"{self._start} of {self._starts}")] if self._starts > 1 else []
        return [
            *started,
            ("iteration", str(iterate.iteration)),
            ("error", f"{iterate.error:.3e}"),
            ("sensitivity", f"{self._sensitivity(iterate):.2e}{scale}"),
            ("time", f"{self._elapsed():.1f} s"),
        ]

    def _sensitivity(self, iterate: Iterate) -> float:
        """SS of T as given: each of the K blocks is larger by ||T||^(1/K)."""
        scale = Scale(1.0 if self._norm is None else self._norm, len(iterate.model.matrices))
        return float(scale.sensitivity(iterate.sensitivity))

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


class _Terminal:
    """One line that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._width = stream, 0

    def show(self, rows: list[tuple[str, str]], curve: list[tuple[float, float]]) -> None:
        # A line that wraps could not be written over.
        line = "  ".join(f"{name} {value}" for name, value in rows)[: shutil.get_terminal_size().columns - 1]
        # The rest of a longer line is wiped.
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        self._stream.write("\n")
        self._stream.flush()


class _Notebook:
    """One output that is replaced."""

    def __init__(self, display: Any) -> None:
        self._module, self._handle = display, None

    def show(self, rows: list[tuple[str, str]], curve: list[tuple[float, float]]) -> None:
        from tensorchain.html import table

        text = "  ".join(f"{name} {value}" for name, value in rows)
        content = {"text/html": table(rows) + curves(curve), "text/plain": text}
        if self._handle is None:
            self._handle = self._module.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def close(self) -> None:
        """The output stays as it is."""


def find_display(stream: TextIO | None) -> _Notebook | _Terminal | None:
    """Where progress can be shown: an output of a notebook, a terminal, or nowhere."""
    ipython = sys.modules.get("IPython")
    if stream is None and ipython is not None:
        shell = ipython.get_ipython()
        # A shell in a terminal has no kernel.
        if getattr(shell, "kernel", None) is not None:
            from importlib import import_module

            return _Notebook(import_module("IPython.display"))
    stream = sys.stderr if stream is None else stream
    return _Terminal(stream) if stream is not None and stream.isatty() else None


def curves(points: list[tuple[float, float]]) -> str:
    """Error (solid) and sensitivity (dashed) so far, each in its own logarithmic range, as inline SVG.

    Examples
    --------
    >>> from tensorchain.progress import curves
    >>> curves([(1.0, 10.0), (0.1, 20.0)]).count("<polyline")
    2
    """
    lines = []
    for values, dashes in (([e for e, _ in points], ""), ([s for _, s in points], ' stroke-dasharray="4 3"')):
        logs = [math.log10(value) if 0.0 < value < math.inf else None for value in values]
        known = [value for value in logs if value is not None]
        if len(known) < 2:
            continue
        low, span = min(known), max(max(known) - min(known), 1e-12)
        step = (_WIDTH - 2.0) / (len(logs) - 1)
        path = " ".join(
            f"{1.0 + n * step:.1f},{_HEIGHT - 3.0 - (_HEIGHT - 6.0) * (value - low) / span:.1f}"
            for n, value in enumerate(logs)
            if value is not None
        )
        lines.append(f'<polyline points="{path}" stroke-width="1.5"{dashes}/>')
    if not lines:
        return ""
    return (
        f'<svg role="img" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" fill="none" stroke="currentColor">'
        f"<title>error (solid) and sensitivity (dashed) so far, logarithmic</title>{''.join(lines)}</svg>"
        "<div>solid: error, dashed: sensitivity; logarithmic, each in its own range</div>"
    )
