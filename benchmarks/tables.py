"""The tables of what was measured: from the JSON of the benchmarks to Markdown, and into the README.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import crossover, memory
from benchmarks.files import replace_file
from benchmarks.timing import RESULTS, table

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- table of benchmarks.tables: begin -->", "<!-- end -->"


def main() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    replace_file(RESULTS / "sweeps.md", whole(found))
    text = README.read_text()
    if BEGIN in text:
        head, rest = text.split(BEGIN, 1)
        replace_file(README, head + BEGIN + "\n" + short(found) + "\n" + rest[rest.index(END) :])
    print(RESULTS / "sweeps.md")


def whole(found: dict[str, Any]) -> str:
    """Everything, with the machine that it was measured on."""
    parts = ["Written by `python -m benchmarks.tables` from the JSON files in benchmarks/results."]
    if "sweeps" in found:
        parts += [_machine(found["sweeps"]), _EXPLAINED]
    for name in ("sweeps", "lm_steps"):
        for row in found.get(name, {}).get("rows", []):
            parts += [f"**{row['name']}**", _contest(row)]
            if "seconds for 300" in row:
                parts.append(f"300 iterations: {row['seconds for 300']:.2f} s; {row['seconds wanted']} s was wanted.")
    if "sweeps_2_threads" in found:
        parts.append("With two threads for all, time on the clock:")
        for row in found["sweeps_2_threads"]["rows"]:
            parts += [f"**{row['name']}, two threads**", _contest(row)]
    if "sparse_cp" in found:
        parts += ["**Sparse CP**", _sparse(found["sparse_cp"])]
    if "memory" in found:
        parts += ["**Memory of a fit beyond the tensor**", memory.lines(found["memory"])]
    if "out_of_core" in found:
        rows = [[name, f"{value:.3g}"] for name, value in found["out_of_core"].items() if isinstance(value, float)]
        parts += ["**A tensor larger than the memory allowed**", table(["", found["out_of_core"]["tensor"]], rows)]
    if "sampled_als" in found:
        parts += ["**Sampled sweeps**", _sampled(found["sampled_als"])]
    if "crossover" in found:
        parts += ["**Equations of Levenberg-Marquardt**", crossover.lines(found["crossover"]["rows"])]
    if "imports" in found:
        rows = [[name, f"{seconds:.2f}"] for name, seconds in found["imports"]["seconds"].items()]
        parts += ["**Import**", table(["a fresh interpreter that imports", "seconds"], rows)]
    return "\n\n".join(parts) + "\n"


def short(found: dict[str, Any]) -> str:
    """One line for each problem: our time, and those of others divided by it."""
    rows = []
    for name in ("sweeps", "lm_steps"):
        for row in found.get(name, {}).get("rows", []):
            others = [f"{peer} {ratio:{'.0f' if ratio >= 100 else '.2g'}}" for peer, ratio in _peers(row)]
            rows.append([row["name"], f"{row['timings']['tensorchain']['median']:.2g} ms", ", ".join(others)])
    if "sparse_cp" in found:
        row = found["sparse_cp"]
        name = f"sparse CP, {row['entries']:.0e} entries, rank {row['rank']}".replace("e+0", "e")
        rows.append([name, f"{row['tensorchain sweep s']:.2g} s", f"pyttb {row['ratio']:.2g}"])
    return table(["one sweep or iteration", "tensorchain", "others / ours"], rows)


_EXPLAINED = """Same tensor, same number of threads, runs in turn, medians; error is relative, after the same number of
sweeps. Ours computes error and sensitivity in every sweep; so does pyttb with its error, and TensorLy unless it says
"no errors". "two GEMMs" are the two passes over the data that a sweep needs at least, as bare matrix products.
"wanted": the ratio that was set out to be reached."""


def _contest(row: dict[str, Any]) -> str:
    lines = []
    for name, timing in row["timings"].items():
        ratio, target, error = row["ratios"].get(name), row["targets"].get(name), timing.get("error")
        lines.append(
            [
                name,
                f"{timing['median']:.3g}",
                "" if error is None else f"{error:.4f}",
                "" if ratio is None else f"{ratio:.2f}",
                "" if target is None else f"{target:.2g}",
                f"{timing['memory']:.0f}",
            ]
        )
    return table([f"package, per {row['unit']}", "ms", "error", "time / ours", "wanted", "peak MB"], lines)


def _peers(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(name, ratio) for name, ratio in row["ratios"].items() if "no errors" not in name and name != "two GEMMs"]


def _sparse(row: dict[str, Any]) -> str:
    rows = [
        [name, f"{row[name + ' sweep s']:.2f}", f"{row[name + ' error']:.6f}", f"{row[name + ' peak MB']:.0f}"]
        for name in ("tensorchain", "pyttb")
    ]
    head = f"{row['entries']} entries at random in {row['shape']}, rank {row['rank']}; ratio {row['ratio']:.1f}."
    return head + "\n\n" + table(["package", "seconds a sweep", "error", "peak MB of a product"], rows)


def _sampled(figures: dict[str, Any]) -> str:
    rows = [
        [
            row["model"],
            row["solver"],
            str(row["sweeps"]),
            f"{row['sweep ms']:.3g}",
            f"{row['seconds']:.2f}",
            f"{row['error']:.5f}",
        ]
        for row in figures["rows"]
    ]
    size = figures["size"]
    head = (
        f"A tensor of {size} x {size} x {size}; the last pass of a sampled run, for the true error, is in its seconds."
    )
    return head + "\n\n" + table(["model", "solver", "sweeps", "ms a sweep", "seconds", "error"], rows)


def _machine(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("numpy", "scipy", "tensorly", "pyttb") if name in machine
    )
    return f"{machine['processor']}, {figures['threads']} thread(s), Python {machine['python']}, {versions}."


if __name__ == "__main__":
    main()
