"""Rows and ranks of the study on disk, read and shown without PyTorch."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.files import replace_file

HERE = Path(__file__).parent
WEIGHTS, RESULTS = HERE / "weights", HERE / "results"
Row = dict[str, Any]


class Results:
    """The rows and ranks of a network on disk.

    Parameters
    ----------
    folder, network : rows are in `network`.csv there, ranks in `network`-ranks.json.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self.csv, self.json = folder / f"{network}.csv", folder / f"{network}-ranks.json"
        self.rows: list[Row] = []
        self.ranks: dict[str, Any] = {}
        if self.csv.exists():
            with self.csv.open(encoding="utf-8", newline="") as stream:
                self.rows = list(csv.DictReader(stream))
        if self.json.exists():
            self.ranks = json.loads(self.json.read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether a run is there."""
        return any(row["run"] == name for row in self.rows)

    def add(self, rows: list[Row], ranks: Row | None = None) -> None:
        """Append a run and save."""
        self.rows += [{name: str(value) for name, value in row.items()} for row in rows]
        if ranks is not None:
            self.ranks[rows[0]["run"]] = {"method": rows[0]["method"], "ranks": ranks}
            replace_file(
                self.json, json.dumps(self.ranks, indent=None, separators=(",", ":")).replace("},", "},\n") + "\n"
            )
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [",".join(columns), *(",".join(row.get(name, "") for name in columns) for row in self.rows)]
        replace_file(self.csv, "\n".join(lines) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Accuracies and sizes after the last stage of each run, in floating point."""
    heads = f"{'compressed':>11}{'restored':>10}{'validation':>11}{'parameters':>11}{'MACs':>10}{'bytes':>9}"
    lines = [f"{'run':<44}{heads}"]
    for name in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == name and not row.get("bits") and not row.get("weight_bits")]
        last = [row for row in mine if row["stage"] != "int8"][-1]
        first = next((row["test"] for row in mine if row["stage"] == "recalibrated"), "")
        sizes = f"{last['parameters']:>11}{int(last['macs']) / 1e6:>9.2f}M{last.get('file_bytes', ''):>9}"
        lines.append(f"{name:<44}{first:>11}{last['test']:>10}{last.get('validation', ''):>11}{sizes}")
        lines += [f"{'  int8':<44}{'':>11}{r['test']:>10}{r['validation']:>11}{'':>21}{r['file_bytes']:>9}"
                  for r in mine if r["stage"] == "int8"]  # fmt: skip
    return "\n".join(lines)
