"""How far a study is: one line in a terminal that is written over, or one output of a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TextIO

from tensorchain.fit import Fit
from tensorchain.progress import find_display

_INTERVAL = 0.2
"""Seconds between two displays."""


@dataclass(frozen=True)
class StudyStep:
    """A fit of a study that is finished.

    Attributes
    ----------
    ranks : sequence
        All ranks of the study.
    number : int
        Which of them is being fitted, from 0.
    done, of : int
        Fits of that rank that are finished, and how many there are.
    fit : Fit
        The last one.
    seconds : float
        Since the study began.
    """

    ranks: Sequence[Any]
    number: int
    done: int
    of: int
    fit: Fit = field(repr=False)
    seconds: float

    def report(self) -> list[tuple[str, str]]:
        """(name, value) pairs: what is shown."""
        return [
            ("rank", f"{self.ranks[self.number]} ({self.number + 1} of {len(self.ranks)})"),
            ("fit", f"{self.done} of {self.of}"),
            ("error", f"{self.fit.error:.3e}"),
            ("time", f"{self.seconds:.1f} s"),
        ]


class StudyProgress:
    """Show the steps of a study.

    Parameters
    ----------
    callback : callable, optional
        Called with each step too; a true return value ends the study.
    stream : text stream, optional
        Where a terminal is looked for; stderr by default.
    """

    def __init__(self, callback: Callable[[StudyStep], object] | None = None, stream: TextIO | None = None) -> None:
        self._callback, self._stream = callback, stream
        self._display: Any = None
        self._shown = -_INTERVAL
        self._last: StudyStep | None = None

    def __enter__(self) -> StudyProgress:
        self._display = find_display(self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            if self._last is not None:
                self._display.show(self._last.report(), [])
            self._display.close()
        self._display = None

    def __call__(self, step: StudyStep) -> object:
        """Take note of a step; what `callback` answers."""
        self._last, now = step, time.monotonic()
        if self._display is not None and now - self._shown >= _INTERVAL:
            self._shown = now
            self._display.show(step.report(), [])
        return None if self._callback is None else self._callback(step)
