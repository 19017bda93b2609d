"""Command-line text to values, and a parser that complains in one line.

A rank is written as on paper: `5`, `3,3,3`, and for block terms one list a term, `2,2,2;3,3,3`.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import operator
from typing import Any, NoReturn

from tensorchain.cli.errors import Status, one_line
from tensorchain.models import Model
from tensorchain.models.names import ALIASES
from tensorchain.solvers import (
    ALS,
    LM,
    Auto,
    Constraint,
    ErrorBound,
    NonNegative,
    Path,
    Penalty,
    SensitivityBound,
    Solver,
)
from tensorchain.solvers.automatic_rank import AUTOMATIC

_MOST_RANKS = 1000
SOLVERS: dict[str, Any] = {"auto": Auto, "path": Path, "als": ALS, "lm": LM}


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors take one line, and guess what was meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if action.choices is not None and value not in action.choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"no such choice: {value!r}{hint}")

    def error(self, message: str) -> NoReturn:
        extra = message.removeprefix("unrecognized arguments: ").split()
        named = next((word for word in extra if word in model_names()), None) if message.startswith("unrec") else None
        if named is not None:
            message += f"; a kind of model is given as --model {named}"
        self.exit(int(Status.BAD_INPUT), f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def parse_rank(text: str) -> str | int | tuple[int, ...] | list[tuple[int, ...]]:
    """`5`, `3,3,3`, or `2,2,2;3,3,3`; `evbmf` for those of a Tucker model from the data.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is none of these, or a rank is below 1.

    Examples
    --------
    >>> from tensorchain.cli.arguments import parse_rank
    >>> parse_rank("5"), parse_rank("2, 3, 4"), parse_rank("2,2,2;3,3,3")
    (5, (2, 3, 4), [(2, 2, 2), (3, 3, 3)])
    """
    if text.strip().lower() == AUTOMATIC:
        return AUTOMATIC
    try:
        if ";" in text:
            return [_integers(term) for term in text.rstrip("; ").split(";")]
        ranks = _integers(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no rank; write 5, or 3,3,3, or '2,2,2;3,3,3'") from None
    return ranks if "," in text else ranks[0]


def parse_ranks(text: str) -> list[Any]:
    """Several ranks: `1-8`, `1,2,4`, or ranks of several numbers with blanks between them, `2,2,2 3,3,3`.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is none of these, or a rank is below 1.

    Examples
    --------
    >>> from tensorchain.cli.arguments import parse_ranks
    >>> parse_ranks("1-3"), parse_ranks("1,2,6"), parse_ranks("2,2,2 3,2,2")
    ([1, 2, 3], [1, 2, 6], [(2, 2, 2), (3, 2, 2)])
    """
    parts = text.split()
    first, dash, last = text.partition("-")
    if dash and len(parts) == 1:
        least, most = positive_integer(first.strip()), positive_integer(last.strip())
        if most < least or most - least > _MOST_RANKS:
            raise argparse.ArgumentTypeError(f"{text!r} is no range of ranks; write the smaller one first, as 1-8")
        return list(range(least, most + 1))
    if len(parts) > 1:
        return [parse_rank(part) for part in parts]
    ranks = parse_rank(text)
    return list(ranks) if isinstance(ranks, tuple) else [ranks]


def _integers(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise ValueError
    return values


def positive_integer(text: str) -> int:
    """An integer of at least 1."""
    value = seed(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; an integer of at least 1 is needed")
    return value


def workers(text: str) -> int:
    """A number of processes: an integer of at least 1, or -1 for all cores."""
    if text == "-1":
        return -1
    try:
        return positive_integer(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} was given; a number of processes, or -1 for all, is needed"
        ) from None


def seed(text: str) -> int:
    """An integer of at least 0."""
    if not (text.isascii() and text.isdigit()) or len(text) > 30:
        raise argparse.ArgumentTypeError(f"{text!r} was given; an integer of at least 0 is needed")
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} was given; a finite number above 0 is needed")
    return value


def missing_value(text: str) -> float:
    """What stands for a missing entry: nan, or a number.

    Examples
    --------
    >>> from tensorchain.cli.arguments import missing_value
    >>> missing_value("nan"), missing_value("-9999")
    (nan, -9999.0)
    """
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r} was given; nan, or a number that stands for a missing entry")
    return value


def parse_index(text: str) -> tuple[int | slice, ...]:
    """Positions and slices as in `model[...]`: `0:3,:,5`.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is no such index.

    Examples
    --------
    >>> from tensorchain.cli.arguments import parse_index
    >>> parse_index("0:3,:,-1")
    (slice(0, 3, None), slice(None, None, None), -1)
    """
    parts: list[int | slice] = []
    try:
        for part in text.split(","):
            sides = [int(side) if side.strip() else None for side in part.split(":")]
            if len(sides) > 3 or (len(sides) == 1 and sides[0] is None):
                raise ValueError
            parts.append(slice(*sides) if len(sides) > 1 else operator.index(sides[0] or 0))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no index; write positions and slices, as 0:3,:,5") from None
    return tuple(parts)


def parse_blocks(text: str) -> tuple[int | str, ...]:
    """Modes from 0, and names of blocks: `0,2` or `core,1`.

    Examples
    --------
    >>> from tensorchain.cli.arguments import parse_blocks
    >>> parse_blocks("0,2"), parse_blocks("core, 1")
    ((0, 2), ('core', 1))
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} names no modes; write 0,2 or core,1")
    return tuple(int(part) if part.lstrip("-").isdigit() else part for part in parts)


def rank_of(model: str | None, rank: Any) -> Any:
    """`rank` in the form that `decompose` takes: a single block term is a list of one."""
    terms = model is not None and ALIASES.get(model, model) == "btd"
    return [rank] if terms and isinstance(rank, tuple) else rank


def solver_of(name: str, max_iter: int | None) -> Solver:
    """The solver of that name."""
    if max_iter is not None and name == "auto":
        raise ValueError("--max-iter is for --solver path, als and lm; auto, the default, ends by itself")
    solver: Solver = SOLVERS[name]() if max_iter is None else SOLVERS[name](max_iter=max_iter)
    return solver


def constraint_of(arguments: argparse.Namespace) -> Constraint | None:
    """The constraint that the options ask for."""
    asked: list[Constraint] = [NonNegative()] if arguments.non_negative else []
    relative: bool = arguments.relative
    if arguments.max_sensitivity is not None:
        asked.append(SensitivityBound(arguments.max_sensitivity, relative=relative))
    if arguments.max_error is not None:
        asked.append(ErrorBound(arguments.max_error))
    if arguments.penalty is not None:
        asked.append(Penalty(arguments.penalty, relative=relative))
    return functools.reduce(operator.and_, asked) if asked else None


def model_names() -> list[str]:
    """Names of all models: the short ones, then others in use."""
    return [*sorted(Model.registry), *ALIASES]
