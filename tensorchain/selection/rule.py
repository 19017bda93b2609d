r"""Which rank, and whether that is clear.

A rank is objected to where

- its **held-out error** is above the least one by more than a standard error: of the mean over folds of the differences
  between the two, fold by fold, since folds of unequal difficulty are hard for both; or is half as large again;
- its **gain** is that of a part that fits noise, 2 to 3;
- a **component** of it is another one in the other half of the data, or from another start of the same error, for
  models with unique components;
- its **core consistency** is below 50 %, or its fit **diverges**.
  A rank to which nothing is objected is a candidate:

| candidates | recommended | clear |
|---|---|---|
| one | it | yes |
| several | the one of fewest parameters | no: any of them |
| none | the largest whose components replicate, up to the smallest that predicts well | no: either of these two |

The largest rank of a study is never clear where it explains more than noise: the next one might as well.  Thresholds
were chosen on planted data (`python -m benchmarks.rank_study`), and judged on others.

References: Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning" (2009), section 7.10, for the rule of
one standard error; Bro and Kiers, "A new efficient method for determining the number of components in PARAFAC models"
(2003); Harshman, "How can I know if it's real?" (1984), for split halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.selection.fits import EXACT, RankRow

NOISE_GAIN = 3.2
"""F up to which a part fits noise."""
MATCH = 0.8
"""Factor match from which two components are the same."""
CONSISTENT = 50.0
"""Core consistency, in percent, from which components do not share their variation."""


_FAR = 1.5
"""Held-out error over the least from which it is far above, whatever the standard error: one fold may be all of it."""


@dataclass(frozen=True)
class Judgement:
    """What the figures of all ranks say together.

    Attributes
    ----------
    recommended : int, tuple or list
        The rank to take.
    candidates : tuple
        The ranks among which the figures do not decide; the recommended one alone where they do.
    clear : bool
        Whether they decide.
    open_end : bool
        Whether a rank beyond the largest of the study may be better.
    objections : tuple of tuple of str
        For each rank, in words, what speaks against it.
    evidence : tuple of str
        For the recommended rank and its neighbours, in words, what speaks for and against.
    """

    recommended: Any
    candidates: tuple[Any, ...]
    clear: bool
    open_end: bool
    objections: tuple[tuple[str, ...], ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class _Against:
    """What speaks against one rank: it misses or follows too much; its components are not those of the data; else."""

    predicts: tuple[str, ...]
    replicates: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.predicts + self.replicates + self.others


def judge(rows: Sequence[RankRow], *, unique: bool) -> Judgement:
    """The recommendation.

    Parameters
    ----------
    rows : sequence of RankRow
        In the order of their parameters, at least one.
    unique : bool
        Whether the components of the model are unique, so that they can be compared.
    """
    held = [row.held_out if math.isfinite(row.held_out) else math.inf for row in rows]
    best = int(np.argmin(held))
    exact = next((k for k, row in enumerate(rows) if row.error <= EXACT), len(rows))
    against = [_against(row, rows[best], unique, spare=k > exact) for k, row in enumerate(rows)]
    fine = [k for k, found in enumerate(against) if not found.all]
    if not fine:
        predicting = next((k for k, found in enumerate(against) if not found.predicts), best)
        sound = [k for k, found in enumerate(against) if not found.replicates and k <= predicting]
        fine = sorted({max(sound, default=predicting), predicting})
    chosen = fine[0]
    last = len(rows) - 1
    open_end = last in fine and not rows[last].gain <= NOISE_GAIN and rows[last].error > EXACT
    clear = len(fine) == 1 and not against[chosen].all and not open_end
    around = [k for k in (chosen, *(k for k in fine if k != chosen), chosen - 1, chosen + 1) if 0 <= k <= last]
    evidence = [_told(rows, k, best, against[k].all) for k in dict.fromkeys(around)]
    if open_end:
        evidence.append(f"{rows[last].rank} is the largest rank of the study: study larger ones")
    return Judgement(
        recommended=rows[chosen].rank,
        candidates=tuple(rows[k].rank for k in fine),
        clear=clear,
        open_end=open_end,
        objections=tuple(found.all for found in against),
        evidence=tuple(evidence),
    )


def excess(row: RankRow, best: RankRow) -> tuple[float, float]:
    """How far the held-out error is above the least, and the standard error of that difference."""
    differences = np.array(row.held_out_errors) - np.array(best.held_out_errors)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return (math.inf if len(differences) == 0 else float(differences[0])), 0.0
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _against(row: RankRow, best: RankRow, unique: bool, spare: bool) -> _Against:
    predicts: list[str] = []
    replicates: list[str] = []
    others: list[str] = []
    above, deviation = excess(row, best)
    far = row.held_out > _FAR * best.held_out and above > EXACT
    if row is not best and (far or above > max(deviation, EXACT)):
        if far:
            predicts.append(f"held-out error {row.held_out:.3g}, the least is {best.held_out:.3g}")
        else:
            times = f"{above / deviation:.1f} standard errors" if deviation > 0.0 else f"{above:.2g}"
            predicts.append(f"held-out error {times} above the least")
    if row.held_out >= 1.0:
        predicts.append(
            f"predicts entries that it has not seen no better than zeros do (held-out error {row.held_out:.3g})"
        )
    if spare:
        predicts.append("a smaller rank leaves nothing to explain")
    elif row.gain <= NOISE_GAIN:
        predicts.append(f"explains no more beyond smaller ranks than a fit of noise would (gain {row.gain:.1f})")
    if unique and row.halves_match < MATCH:
        replicates.append(f"a component is another one in the other half of the data (match {row.halves_match:.2f})")
    if unique and row.starts_match < MATCH:
        replicates.append(f"starts of one error differ in a component (match {row.starts_match:.2f})")
    if row.core_consistency < CONSISTENT:
        # Where halves were compared they tell what it stands for.
        said = replicates if math.isnan(row.halves_match) else others
        said.append(f"core consistency {max(row.core_consistency, -999.0):.0f}")
    if row.reason == "DIVERGING":
        replicates.append("the fit diverges")
    return _Against(tuple(predicts), tuple(replicates), tuple(others))


def _told(rows: Sequence[RankRow], k: int, best: int, objections: Sequence[str]) -> str:
    """One line on a rank: what speaks against it, or else what speaks for it."""
    row = rows[k]
    if objections:
        return f"{row.rank}: {', '.join(objections)}"
    first = "least held-out error" if k == best else "held-out error within one standard error of the least"
    told = [first]
    if row.halves_match >= MATCH:
        told.append(f"halves of the data agree ({row.halves_match:.2f})")
    if not math.isnan(row.core_consistency):
        told.append(f"core consistency {row.core_consistency:.0f}")
    if math.isfinite(row.gain):
        told.append(f"gain {row.gain:.3g}")
    return f"{row.rank}: {', '.join(told)}"
