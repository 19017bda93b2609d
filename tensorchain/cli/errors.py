"""How a command ends: its exit status, and the one line that says why."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """Exit status of `tensorchain`."""

    OK = 0
    FAILED = 1
    """The input was good and the work did not succeed, as when a bound cannot be met."""
    BAD_INPUT = 2
    """A file, an option or their combination cannot be used; nothing was written."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM; the best model so far was saved if there was one."""


EXIT_STATUS = """\
exit status:
  0    done
  1    the input was good and the work did not succeed, as when a bound cannot be met (the nearest model is saved)
  2    a file, an option or their combination cannot be used; nothing was written
  130  stopped by Ctrl-C or SIGTERM (the best model so far is saved)
"""
"""For the end of every help."""


class CommandError(Exception):
    """Ends the command with one line on stderr.

    Parameters
    ----------
    message : str
        What was given, what is needed, how to fix it.
    status : Status, default Status.BAD_INPUT
        The exit status.
    """

    def __init__(self, message: str, status: Status = Status.BAD_INPUT) -> None:
        super().__init__(message)
        self.status = status


def one_line(text: object) -> str:
    r"""`text` on one line, without characters that move a terminal's cursor or colour its output.

    Names of files, of arrays in them and of modes are written by others.

    Examples
    --------
    >>> from tensorchain.cli.errors import one_line
    >>> one_line("two\nlines")
    'two lines'
    >>> one_line("a" + chr(27) + "[2Jb")
    'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
