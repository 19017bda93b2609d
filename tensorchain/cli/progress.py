"""What is seen while a fit runs: a bar on stderr, and Ctrl-C (or SIGTERM) that saves.

`FitProgress` is the callback of `decompose`: the `Progress` of the library, shown as a bar, and only on a terminal.  It
turns the first Ctrl-C, or the SIGTERM of a batch system, into a request to stop after the iteration in progress, so
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

from tensorchain.progress import Progress
from tensorchain.solvers import Iterate

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REFRESH = 0.1
"""Seconds between two updates; an iteration may take far less."""


class FitProgress(Progress):
    """Context of one `decompose`; call it with each iterate.

    Parameters
    ----------
    norm : ||T||, to show the sensitivity for T as given.
    starts : how many are run.
    max_seconds : the time limit, for the length of the bar.
    quiet : whether to show nothing on a terminal either.
    follows : whether it is called with the iterates.
    console : where to show it; stderr by default.

    Attributes
    ----------
    interrupted : whether Ctrl-C was pressed, or the process was asked to end.
    """

    def __init__(
        self,
        norm: float,
        *,
        starts: int = 1,
        max_seconds: float | None = None,
        quiet: bool = False,
        follows: bool = True,
        console: Console | None = None,
    ) -> None:
        super().__init__(norm=norm, starts=starts, interval=_REFRESH)
        console = Console(stderr=True) if console is None else console
        self.interrupted = False
        self._follows, self._max_seconds = follows, max_seconds
        self._handlers: dict[int, Any] = {}
        self._bar = bar.Progress(
            bar.SpinnerColumn(),
            bar.TextColumn("{task.description}"),
            bar.BarColumn(bar_width=10),
            bar.TextColumn("{task.fields[figures]}"),
            bar.TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
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
        super().__call__(iterate)
        return self.interrupted

    def _show(self, iterate: Iterate) -> None:
        description, completed = "fitting", self._elapsed()
        if self._starts > 1:
            description, completed = f"start {self._start}/{self._starts}", self._start - 1
        elif self._max_seconds is not None:
            completed = min(completed, self._max_seconds)
        # Shorter than in `report`: beside the bar, all of it fits into 80 columns.
        figures = f"it. {iterate.iteration}  error {iterate.error:.2e}  sensitivity {self._sensitivity(iterate):.1e}"
        self._bar.update(self._task, description=description, completed=completed, figures=figures)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if again or not self._follows:
            raise KeyboardInterrupt
        self._bar.update(self._task, figures="stopping after this step (Ctrl-C again: at once)")
