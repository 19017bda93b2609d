"""How often a rank study recommends the planted rank of a CP, and whether it says so where it cannot tell.

    python -m benchmarks.rank_study [--quick] [--count 100] [--first 1000] [--restart]

Tensors of 12 x 11 x 10 to 20 x 15 x 12 with CP ranks 1 to 6 and noise of 1 to 20 % of the norm of the model (its
logarithm uniform); factors are Gaussian, in a seventh of the tensors their columns have one cosine between 0.3 and 0.8.
Each is studied at ranks 1 to 8 with the default settings.  Outcomes:

    right       clear, and the planted rank is recommended
    open        not clear, and the planted rank is among the candidates
    wrong       anything else

Thresholds of the rule were chosen on the seeds from 0 on (`--first 0`), and the figures that are reported come from
those from 1000 on.  Times are of the processor, on one BLAS thread.  Each tensor is saved as it is measured, and a run
goes on from what is there; `--restart` measures all again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.timing import parser, save

RANKS = range(1, 9)
_COLLINEAR = 1.0 / 7.0
_REPORTED, _QUICK = 1000, 12


@dataclass(frozen=True)
class Case:
    """One tensor and what is planted in it."""

    seed: int
    shape: tuple[int, ...]
    rank: int
    noise: float
    collinearity: float | None
    tensor: Any


def planted(seed: int) -> Case:
    """The tensor of a seed."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(rng.integers(least, most + 1)) for least, most in ((12, 20), (11, 15), (10, 12)))
    rank = int(rng.integers(1, 7))
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.2))))
    collinear = rng.random() < _COLLINEAR and rank > 1
    collinearity = float(rng.uniform(0.3, 0.8)) if collinear else None
    tensor = tc.datasets.exact_cp(shape, rank, rng, collinearity=collinearity, noise=noise).tensor
    return Case(seed, shape, rank, noise, collinearity, tensor)


def outcome(study: tc.RankStudy, rank: int) -> str:
    """Right, open or wrong."""
    if study.clear:
        return "right" if study.recommended == rank else "wrong"
    return "open" if rank in study.candidates else "wrong"


def measured(case: Case) -> dict[str, Any]:
    """Outcome and figures of one study."""
    began = time.process_time()
    study = tc.rank_study(case.tensor, "cp", RANKS, rng=case.seed)
    seconds = time.process_time() - began
    return {
        "seed": case.seed,
        "shape": case.shape,
        "rank": case.rank,
        "noise": round(case.noise, 4),
        "collinearity": None if case.collinearity is None else round(case.collinearity, 3),
        "outcome": outcome(study, case.rank),
        "recommended": study.recommended,
        "candidates": study.candidates,
        "seconds": round(seconds, 2),
        "evidence": study.evidence if outcome(study, case.rank) != "right" else (),
    }


def main() -> None:
    """Study all tensors, and print the shares."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=100, metavar="N", help="tensors (default 100)")
    options.add_argument(
        "--first", type=int, default=_REPORTED, metavar="SEED", help="seed of the first (default 1000)"
    )
    options.add_argument("--restart", action="store_true", help="measure again what is there already")
    asked = options.parse_args()
    seeds = range(asked.first, asked.first + (_QUICK if asked.quick else asked.count))
    name = "rank_study" if asked.first == _REPORTED else f"rank_study_{asked.first}"
    rows = [] if asked.restart else [row for row in saved(asked.results / f"{name}.json") if row["seed"] in seeds]
    with threadpool_limits(asked.threads):
        for seed in seeds:
            if all(row["seed"] != seed for row in rows):
                rows.append(measured(planted(seed)))
                save(asked.results, name, {"summary": summary(rows), "rows": rows}, quick=asked.quick)
    for row in rows:
        told = "" if row["outcome"] == "right" else f"  {row['candidates']}: {'; '.join(row['evidence'])}"
        print(f"{row['seed']}  rank {row['rank']}  noise {row['noise']:.3f}  {row['outcome']}{told}")
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary(rows).items()))


def saved(path: Path) -> list[dict[str, Any]]:
    """The tensors that are measured already."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many there are of each outcome, and seconds of a study."""
    seconds = np.array([row["seconds"] for row in rows])
    return {
        "tensors": len(rows),
        **{name: sum(row["outcome"] == name for row in rows) for name in ("right", "open", "wrong")},
        "median_seconds": round(float(np.median(seconds)), 2),
        "most_seconds": round(float(seconds.max()), 2),
    }


if __name__ == "__main__":
    main()
