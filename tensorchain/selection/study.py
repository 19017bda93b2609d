"""`RankStudy`: what a study of ranks found, as a table, in words and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from tensorchain.fit import Fit
from tensorchain.selection.fits import RankRow
from tensorchain.selection.rule import Judgement, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (
    "rank", "parameters", "error", "gain", "held-out error", "core consistency", "starts", "halves", "sensitivity",
    "stopped",
)  # fmt: skip
_RIGHT = "text-align:right;padding:1px 10px 1px 0;white-space:nowrap"


@dataclass(frozen=True, eq=False)
class RankStudy:
    """Figures of several ranks, and which one they recommend.

    Attributes
    ----------
    rows : tuple of RankRow
        One for each rank, in the order of their parameters.
    name : str
        Of the model.
    shape : tuple of int
        Of the tensor.
    starts, folds, splits : int
        Fits to all data, parts that were held out, and divisions into halves.
    split_mode : int
        The mode whose slices the halves have.
    seed : int
        Of folds, halves and fits: `cross_validate(..., folds=folds, rng=seed)` has the same folds.
    unique : bool
        Whether components are compared in the recommendation.
    complete : bool
        Whether all ranks that were asked for are there: a time limit or an interrupt ends a study early.
    seconds : float
        That it took, earlier parts of a resumed study left out.

    See Also
    --------
    tensorchain.rank_study : Makes one.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
    >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
    >>> len(study.rows)
    2
    """

    rows: tuple[RankRow, ...]
    name: str
    shape: tuple[int, ...]
    starts: int
    folds: int
    splits: int
    split_mode: int
    seed: int
    unique: bool
    complete: bool = True
    seconds: float = field(default=math.nan)

    @cached_property
    def judgement(self) -> Judgement:
        """What the figures say together."""
        return judge(self.rows, unique=self.unique)

    @property
    def recommended(self) -> Any:
        """The rank to take; `clear` says whether the figures decide, `evidence` why."""
        return self.judgement.recommended

    @property
    def clear(self) -> bool:
        """Whether the figures decide."""
        return self.judgement.clear

    @property
    def candidates(self) -> tuple[Any, ...]:
        """The ranks among which the figures do not decide; the recommended one alone where they do."""
        return self.judgement.candidates

    @property
    def evidence(self) -> tuple[str, ...]:
        """What speaks for the recommended rank and against its neighbours, in words."""
        return self.judgement.evidence

    @property
    def fit(self) -> Fit:
        """The fit of the recommended rank to all data."""
        return self[self.recommended].fit

    def __getitem__(self, rank: Any) -> RankRow:
        """The row of a rank."""
        for row in self.rows:
            if row.rank == rank:
                return row
        raise KeyError(f"rank {rank!r} is not in the study; there are {', '.join(str(row.rank) for row in self.rows)}")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RankRow]:
        return iter(self.rows)

    def conclusion(self) -> str:
        """The recommendation in one line.

        Returns
        -------
        str
            For a person.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> isinstance(study.conclusion(), str)
        True
        """
        *others, last = (str(rank) for rank in self.candidates)
        either = f"{', '.join(others)} or {last}" if others else last
        if self.judgement.open_end:
            either += " or more"
        if not self.clear and not others and not self.judgement.open_end:
            return f"not clear: {last}, with objections"
        return f"rank {last}" if self.clear else f"not clear: {either}"

    def report(self) -> list[tuple[str, str]]:
        """(name, value) pairs: what `repr` prints below the table.

        Returns
        -------
        list of tuple of (str, str)
            In the order in which `repr` prints them.
        """
        rows = [("recommended", self.conclusion()), *(("", line) for line in self.evidence)]
        if not self.complete:
            rows.append(("unfinished", "a limit or an interrupt ended the study before its last rank"))
        return rows

    def records(self) -> list[dict[str, Any]]:
        """One record of plain figures for each rank.

        Returns
        -------
        list of dict of str to object
            By name.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> len(study.records())
        2
        """
        return [
            {
                "rank": row.rank,
                "parameters": row.parameters,
                "error": row.error,
                "gain": row.gain,
                "held_out": row.held_out,
                "held_out_standard_error": row.held_out_standard_error,
                "core_consistency": row.core_consistency,
                "starts_near": row.starts_near,
                "starts_match": row.starts_match,
                "halves_match": row.halves_match,
                "sensitivity": row.sensitivity,
                "reason": row.reason,
                "seconds": row.seconds,
                "objections": list(objections),
            }
            for row, objections in zip(self.rows, self.judgement.objections, strict=True)
        ]

    def to_pandas(self) -> Any:
        """The table as a DataFrame of pandas, one row for each rank.

        Returns
        -------
        pandas.DataFrame
            One row for each rank.

        Raises
        ------
        ImportError
            Without pandas.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> len(study.to_pandas())
        2
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a table needs pandas: pip install tensorchain[tables], or take .records()") from error
        return pd.DataFrame(self.records())

    def to_dict(self) -> dict[str, Any]:
        """All of it but the fits, for programs.

        Returns
        -------
        dict of str to object
            Ready for JSON.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> "rows" in study.to_dict() or len(study.to_dict()) > 0
        True
        """
        return {
            "model": self.name,
            "shape": list(self.shape),
            "recommended": self.recommended,
            "clear": self.clear,
            "candidates": list(self.candidates),
            "conclusion": self.conclusion(),
            "evidence": list(self.evidence),
            "complete": self.complete,
            "starts": self.starts,
            "folds": self.folds,
            "splits": self.splits,
            "split_mode": self.split_mode,
            "seed": self.seed,
            "seconds": self.seconds,
            "ranks": self.records(),
        }

    def table(self) -> list[tuple[str, ...]]:
        """The cells of the table, the header first.

        Returns
        -------
        list of tuple of str
            As text.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> len(study.table())
        3
        """
        return [_COLUMNS, *(_cells(row, self.starts) for row in self.rows)]

    def __repr__(self) -> str:
        table = self.table()
        used = [k for k in range(len(_COLUMNS)) if k == 0 or any(row[k] for row in table[1:])]
        widths = [max(len(row[k]) for row in table) for k in used]
        lines = ["  ".join(row[k].rjust(width) for k, width in zip(used, widths, strict=True)) for row in table]
        return "\n".join([self.title(), *lines, *(f"{name:<12} {value}" for name, value in self.report())])

    def title(self) -> str:
        """What was fitted, in one line.

        Returns
        -------
        str
            Without the figures.

        Examples
        --------
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> "CP" in study.title() or "cp" in study.title()
        True
        """
        sizes = " x ".join(map(str, self.shape))
        halves = f", {self.splits} splits of mode {self.split_mode}" if self.splits else ""
        return f"Ranks of a {self.name}, {sizes}: {self.starts} starts, {self.folds} folds{halves}"

    def _repr_html_(self) -> str:
        """The table, the recommended rank in bold, and the evidence."""
        from tensorchain.html import table as pairs

        header, *rows = self.table()
        used = [k for k in range(len(_COLUMNS)) if k == 0 or any(row[k] for row in rows)]
        head = "".join(f'<th style="{_RIGHT}">{escape(header[k])}</th>' for k in used)
        body = []
        for cells, row in zip(rows, self.rows, strict=True):
            bold = ";font-weight:600" if row.rank == self.recommended else ""
            inside = "".join(f'<td style="{_RIGHT}{bold}">{escape(cells[k])}</td>' for k in used)
            body.append(f"<tr>{inside}</tr>")
        return f"<div>{escape(self.title())}</div><table><tr>{head}</tr>{''.join(body)}</table>{pairs(self.report())}"

    def plot(self, ax: Axes | None = None) -> Any:
        """Error, held-out error and replicability over ranks.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Those of the errors.

        Examples
        --------
        >>> from matplotlib.figure import Figure
        >>> import numpy as np, tensorchain as tc
        >>> T = tc.datasets.exact_cp((6, 5, 4), 1, np.random.default_rng(0), noise=0.1).tensor
        >>> study = tc.rank_study(T, "cp", [1, 2], starts=1, folds=2, splits=0, rng=0)
        >>> study.plot(Figure().subplots()) is not None
        True
        """
        from tensorchain.plotting import plot_ranks

        return plot_ranks(self, ax=ax)


def _cells(row: RankRow, starts: int) -> tuple[str, ...]:
    held = f"{row.held_out:.4g}" if math.isfinite(row.held_out) else ""
    if held and math.isfinite(row.held_out_standard_error):
        held += f" +- {row.held_out_standard_error:.1g}"
    near = f"{row.starts_near}/{starts}" if starts > 1 else ""
    if not math.isnan(row.starts_match):
        near += f" {row.starts_match:.2f}"
    return (
        str(row.rank),
        str(row.parameters),
        f"{row.error:.4g}",
        _number(row.gain, ".3g"),
        held,
        _number(max(row.core_consistency, -999.0), ".0f") if not math.isnan(row.core_consistency) else "",
        near,
        _number(row.halves_match, ".2f"),
        _number(row.sensitivity, ".3g"),
        row.reason,
    )


def _number(value: float, how: str) -> str:
    return "" if math.isnan(value) else format(value, how)
