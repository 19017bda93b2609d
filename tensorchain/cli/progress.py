"""What is seen while a fit runs: a bar or lines on stderr, and Ctrl-C (or SIGTERM) that saves.

`FitProgress` is the callback of `decompose`: the `Progress` of the library, shown as a bar on a terminal, or as lines
every few seconds for logs.  How long all of it will take is known from the starts that are finished, or from the time
limit.

It turns the first Ctrl-C, or the SIGTERM of a batch system, into a request to stop after the iteration in progress, so
that an interrupt never falls between two starts, where the best of them would be lost.  A second one interrupts at
once.  Iterates of other processes are not seen: then only the time is shown, and the first Ctrl-C interrupts, upon
which `decompose` returns the best of the starts that are finished.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from rich import progress as bar
from rich.console import Console
from rich.text import Text

from tensorchain.progress import Progress
from tensorchain.solvers import Iterate

MODES = ("auto", "bar", "log", "none")
"""How progress is shown."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REFRESH, _LINES = 0.1, 5.0
"""Seconds between two updates of a bar, and between two lines; an iteration may take far less."""


class FitProgress(Progress):
    """Context of one `decompose`; call it with each iterate.

    Parameters
    ----------
    norm : float
        ||T||, to show the sensitivity for T as given.
    starts : int, default 1
        How many are run.
    max_seconds : float, optional
        The time limit, for the length of the bar.
    mode : str, default "auto"
        "bar", "log" for lines, "none", or "auto": a bar on a terminal, nothing elsewhere.
    follows : bool, default True
        Whether it is called with the iterates.
    console : Console, optional
        Where to show it; stderr by default.

    Attributes
    ----------
    interrupted : object
        Whether Ctrl-C was pressed, or the process was asked to end.
    """

    def __init__(
        self,
        norm: float,
        *,
        starts: int = 1,
        max_seconds: float | None = None,
        mode: str = "auto",
        follows: bool = True,
        console: Console | None = None,
    ) -> None:
        super().__init__(norm=norm, starts=starts, interval=_LINES if mode == "log" else _REFRESH)
        console = Console(stderr=True) if console is None else console
        self.interrupted = False
        self._console, self._lines, self._finished = console, mode == "log", 0.0
        self._follows, self._max_seconds = follows, max_seconds
        self._handlers: dict[int, Any] = {}
        self._bar = bar.Progress(
            bar.SpinnerColumn(),
            bar.TextColumn("{task.description}"),
            bar.BarColumn(bar_width=10),
            bar.TextColumn("{task.fields[figures]}"),
            _Clock(self),
            console=console,
            transient=True,
            disable=mode in ("log", "none") or not (console.is_terminal or mode == "bar"),
        )
        # A length is known for several starts, or under a time limit; else the bar only pulses.
        total = starts if starts > 1 and follows else max_seconds
        text = "fitting" if follows else f"fitting, {starts} starts in parallel"
        self._task = self._bar.add_task(text, total=total, figures="")

    def __enter__(self) -> FitProgress:
        super().__enter__()
        # Handlers can only be set in the main thread.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._interrupt) for number in _SIGNALS}
        self._bar.start()
        if self._lines and not self._follows:
            self._write(f"fitting, {self._starts} starts in parallel")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._bar.stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __call__(self, iterate: Iterate) -> bool:
        """Show `iterate`; whether to stop."""
        if iterate.iteration == 0:
            # The start before this one ended here.
            self._finished = self._elapsed() if self.seen else 0.0
        super().__call__(iterate)
        return self.interrupted

    def total(self) -> float | None:
        """Seconds that all of it will take: by the starts that are finished, at most the limit; None before one is."""
        done = self._start - 1
        known = self._finished / done * self._starts if self._follows and self._starts > 1 and done > 0 else None
        limits = [seconds for seconds in (known, self._max_seconds) if seconds is not None]
        return min(limits, default=None)

    def _show(self, iterate: Iterate) -> None:
        if self._lines:
            total = self.total()
            rows = [f"{name} {value}" for name, value in self.report(iterate)]
            left = "" if total is None else f" of about {max(total, self._elapsed()):.1f} s"
            self._write("  ".join(rows) + left)
        description, completed = "fitting", self._elapsed()
        if self._starts > 1:
            description, completed = f"start {self._start}/{self._starts}", self._start - 1
        elif self._max_seconds is not None:
            completed = min(completed, self._max_seconds)
        # Shorter than in `report`: beside the bar, all of it fits into 80 columns.
        figures = f"it. {iterate.iteration}  error {iterate.error:.2e}  sensitivity {self._sensitivity(iterate):.1e}"
        self._bar.update(self._task, description=description, completed=completed, figures=figures)

    def _write(self, line: str) -> None:
        """A line of the log, whole at once."""
        self._console.file.write(line + "\n")
        self._console.file.flush()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if again or not self._follows:
            raise KeyboardInterrupt
        self._bar.update(self._task, figures="stopping after this step (Ctrl-C again: at once)")


class _Clock(bar.ProgressColumn):
    """Seconds since the start, and about how many there will be where that is known: 0:12/1:40."""

    max_refresh = _REFRESH

    def __init__(self, progress: FitProgress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: bar.Task) -> Text:
        """The text of the column."""
        elapsed, total = task.elapsed or 0.0, self._progress.total()
        left = "" if total is None else f"/{_clock(max(total, elapsed))}"
        return Text(_clock(elapsed) + left, style="progress.elapsed")


def _clock(seconds: float) -> str:
    """`1:40`, or `2:01:40`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
