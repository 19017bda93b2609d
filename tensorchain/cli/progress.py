"""What is seen while a fit runs: a bar on stderr, and Ctrl-C that saves.

`FitProgress` is the callback of `decompose`.  It shows error, sensitivity and time, only on a terminal; and it turns
the first Ctrl-C into a request to stop after the iteration in progress, so that an interrupt never falls between two
starts, where the best of them would be lost.  A second Ctrl-C interrupts at once.  Iterates of other processes are
not seen: then only the time is shown, and the first Ctrl-C interrupts, upon which `decompose` returns the best of the
starts that are finished.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tensorchain.solvers import Iterate

_REFRESH = 0.1
"""Seconds between two updates; an iteration may take far less."""


class FitProgress:
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
    interrupted : whether Ctrl-C was pressed.
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
        console = Console(stderr=True) if console is None else console
        self.interrupted = False
        self._follows = follows
        self._norm, self._starts, self._max_seconds = norm, starts, max_seconds
        self._start, self._began, self._shown = 0, time.monotonic(), 0.0
        self._handler: Any = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        # A length is known for several starts, or under a time limit; else the bar only pulses.
        total = starts if starts > 1 and follows else max_seconds
        text = "fitting" if follows else f"fitting, {starts} starts in parallel"
        self._task = self._bar.add_task(text, total=total, figures="")

    def __enter__(self) -> FitProgress:
        # Handlers can only be set in the main thread.
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def __call__(self, iterate: Iterate) -> bool:
        """Show `iterate`; whether to stop."""
        if iterate.iteration == 0:
            self._start += 1
        now = time.monotonic()
        if now - self._shown >= _REFRESH:
            self._shown = now
            self._show(iterate, now - self._began)
        return self.interrupted

    def _show(self, iterate: Iterate, elapsed: float) -> None:
        # SS of T as given: blocks K times, each of them larger by ||T||^(1/K).
        blocks = len(iterate.model.matrices)
        sensitivity = iterate.sensitivity * self._norm ** (2.0 * (blocks - 1) / blocks)
        description = f"start {self._start}/{self._starts}" if self._starts > 1 else "fitting"
        self._bar.update(
            self._task,
            description=description,
            completed=self._start - 1 if self._starts > 1 else min(elapsed, self._max_seconds or elapsed),
            figures=f"it. {iterate.iteration}  error {iterate.error:.2e}  sensitivity {sensitivity:.1e}",
        )

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if again or not self._follows:
            raise KeyboardInterrupt
        self._bar.update(self._task, figures="stopping after this step (Ctrl-C again: at once)")
