"""The tables of README.md, from the rows of the study.

    python -m benchmarks.networks.report

Each table stands between `<!-- table: NAME -->` and `<!-- end -->`; what stands there is replaced.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.files import replace_file
from benchmarks.networks.rows import HERE, RESULTS, Results, Row
from benchmarks.timing import table as markdown

NETWORKS = {"ResNet-18": "resnet18-w16-fashion-mnist-seed0", "ResNet-20": "resnet20-w16-fashion-mnist-seed0"}
NAMES = {"tc": "TC", "btd": "BTD", "cp3": "CPD, order 3", "cp4": "CPD, order 4", "tucker2": "Tucker-2",
         "tucker-cp": "Tucker-2 + CPD"}  # fmt: skip
KNOWN = {
    "resnet20-cifar10": "ResNet-20",
    "resnet56-cifar10": "ResNet-56",
    "resnet18-w64-cifar10-jpeg": "ResNet-18",
}
"""Networks that others trained."""


def main(readme: Path = HERE / "README.md") -> int:
    text = readme.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{readme} has no place for the table {name!r}")
        table = make()
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    replace_file(readme, text)
    return 0


def headline() -> str:
    """What has to be reached: test accuracy beside that of the dense network."""
    heads = ["network", "", "test accuracy", "to dense", "worst seed", "parameters", "MACs", "file, kB", "seeds"]
    lines = []
    for title, network in NETWORKS.items():
        rows = Results(RESULTS, network).rows
        if not rows:
            continue
        dense = next(row for row in rows if row["run"] == "dense")
        cells = [f"{float(dense['test']):.2f}", "", "", *_sizes(dense, dense), ""]
        lines.append([title, "dense", *cells])
        wanted = [
            ("TC, 3 x fewer MACs", "tc", "macs", 3.0, "last"),
            ("TC, 5 x fewer MACs", "tc", "macs", 5.0, "last"),
            ("Tucker-2, 3 x fewer parameters", "tucker2", "params", 3.0, "last"),
            ("... and int8", "tucker2", "params", 3.0, "int8"),
        ]
        # Rows restored on all training images are in a file of their own, and count first.
        full = Results(RESULTS, f"{network}-full").rows
        for what, method, budget, times, stage in wanted:
            found_in = full or rows
            mine = [
                row
                for row in (ends(found_in) if stage == "last" else [row for row in found_in if row["stage"] == "int8"])
                if row["method"] == method
                and row["budget"] == budget
                and float(row["times"]) == times
                and row["stabilised"] == "True"
                and row["fit_output"] == "True"
                and row["selection"] == "global"
                and "-bits-" not in row["run"]
            ]
            if not mine:
                continue
            found = [float(row["test"]) for row in mine]
            gain = [value - float(dense["test"]) for value in found]
            cells = [f"{statistics.mean(found):.2f}", f"{statistics.mean(gain):+.2f}", f"{min(gain):+.2f}"]
            lines.append([title, what, *cells, *_sizes(mine[0], dense), str(len(mine))])
    return markdown(heads, lines)


def methods() -> str:
    """All methods at one budget, stabilised and not."""
    network = NETWORKS["ResNet-18"]
    rows = [row for row in Results(RESULTS, network).rows if row["run"] != "dense"]
    speeds = _speeds(network)
    chosen = [
        row
        for row in ends(rows)
        if row["budget"] == "macs"
        and float(row["times"]) == 5.0
        and row["selection"] == "global"
        and row["fit_output"] == "False"
    ]
    heads = ["method", "fit", "kernel error", "SS", "compressed", "8, 6, 4 bits", "restored", "8, 6, 4 bits",
             "parameters", "MACs", "file, kB", "speed-up", "seeds"]  # fmt: skip
    lines = []
    for method in NAMES:
        for stable in ("True", "False"):
            mine = [row for row in chosen if row["method"] == method and row["stabilised"] == stable]
            if not mine:
                continue
            names = {row["run"] for row in mine}
            whole = [row for row in rows if row["run"] in names]
            before = mean_of(whole, "recalibrated")
            after = mean_of(whole, mine[0]["stage"])
            speed = speeds.get(mine[0]["run"], "") if stable == "True" else ""
            lines.append(
                [
                    NAMES[method], fit_of(method, stable), f"{float(mine[0]['mean_error']):.3f}",
                    f"{float(mine[0]['median_sensitivity']):.0f}", before[0], ", ".join(before[1:]), after[0],
                    ", ".join(after[1:]), mine[0]["parameters"], f"{int(mine[0]['macs']) / 1e6:.2f} M",
                    f"{int(mine[0]['file_bytes']) / 1e3:.0f}", speed, str(len(mine)),
                ]
            )  # fmt: skip
    return markdown(heads, lines)


def output() -> str:
    """Fits to the outputs beside fits to the kernels, without fine-tuning."""
    rows = Results(RESULTS, NETWORKS["ResNet-18"]).rows
    recalibrated = [row for row in rows if row["stage"] == "recalibrated" and not row.get("bits")]
    compressed = {row["run"]: row["test"] for row in rows if row["stage"] == "compressed"}
    heads = ["method", "MACs", "fitted to", "kernel error", "as compressed", "normalisations measured again"]
    lines = []
    for method in NAMES:
        for times in (3.0, 5.0):
            mine = {
                row["fit_output"]: row
                for row in recalibrated
                if row["method"] == method
                and row["budget"] == "macs"
                and float(row["times"]) == times
                and row["stabilised"] == "True"
                and row["seed"] == "0"
                and row["selection"] == "global"
            }
            if len(mine) < 2:
                continue
            for aware, target in (("False", "kernels"), ("True", "outputs")):
                row = mine[aware]
                accuracies = [f"{float(compressed[row['run']]):.2f}", f"{float(row['test']):.2f}"]
                lines.append(
                    [NAMES[method], f"{times:g} x fewer", target, f"{float(row['mean_error']):.3f}", *accuracies]
                )
    return markdown(heads, lines)


def selection() -> str:
    """Ways to choose the ranks of Tucker-2."""
    rows = Results(RESULTS, NETWORKS["ResNet-18"]).rows
    heads = ["ranks by", "budget", "layers replaced", "compressed", "restored", "validation", "parameters", "MACs"]
    lines = []
    for row in ends(rows):
        if row["method"] != "tucker2" or row["seed"] != "0" or row["budget"] != "macs" or row["fit_output"] == "True":
            continue
        first = next(r for r in rows if r["run"] == row["run"] and r["stage"] == "recalibrated")
        budget = "none" if row["selection"] == "evbmf" else f"{float(row['times']):g} x fewer MACs"
        accuracies = [f"{float(value):.2f}" for value in (first["test"], row["test"], row["validation"])]
        sizes = [row["parameters"], f"{int(row['macs']) / 1e6:.2f} M"]
        lines.append([row["selection"], budget, row["layers"], *accuracies, *sizes])
    return markdown(heads, sorted(lines, key=lambda line: (line[1], line[0])))


def bits() -> str:
    """Weights and activations of few bits."""
    rows = Results(RESULTS, NETWORKS["ResNet-18"]).rows
    found = {}
    for row in rows:
        if row["stage"] in ("quantized", "trained"):
            found.setdefault((row["weight_bits"], row["activation_bits"]), {})[row["stage"]] = (
                f"{float(row['test']):.2f}"
            )
    lines = [[*pair, mine.get("quantized", ""), mine.get("trained", "")] for pair, mine in found.items()]
    return markdown(["weight bits", "activation bits", "rounded", "after one more epoch"], lines)


def latency() -> str:
    """Speed-ups in ONNX Runtime."""
    blocks = []
    for title, network in NETWORKS.items():
        path = RESULTS / f"{network}-latency.csv"
        if not path.exists():
            continue
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        cases = list(dict.fromkeys((row["threads"], row["batch"]) for row in rows))
        lines = []
        for model in dict.fromkeys(row["model"] for row in rows):
            mine = {(row["threads"], row["batch"]): row for row in rows if row["model"] == model}
            ratio = float(mine[cases[0]]["mac_ratio"])
            lines.append([title, model, f"{ratio:.2f}", *(f"{float(mine[case]['speed_up']):.2f}" for case in cases)])
        heads = ["network", "model", "MAC ratio"]
        heads += [f"{t} thread{'s' if int(t) > 1 else ''}, batch {b}" for t, b in cases]
        blocks.append(markdown(heads, lines))
    return "\n\n".join(blocks)


def ends(rows: Sequence[Row]) -> list[Row]:
    """The last row in floating point of every run that was restored."""
    last: dict[str, Row] = {}
    for row in rows:
        if row["stage"].startswith("epoch") and not row.get("bits"):
            last[row["run"]] = row
    return list(last.values())


def fit_of(method: str, stable: str) -> str:
    """How a method was fitted, in words."""
    if method == "tucker2":
        return "best gauge"
    return "stabilised" if stable == "True" else "plain"


def mean_of(rows: Sequence[Row], stage: str) -> list[str]:
    """Mean test accuracies over seeds, in floating point and with 8, 6 and 4 bits."""
    found = []
    for count in ("", "8", "6", "4"):
        values = [float(row["test"]) for row in rows if row["stage"] == stage and (row.get("bits") or "") == count]
        found.append(f"{statistics.mean(values):.2f}" if values else "-")
    return found


def _sizes(row: Row, dense: Row) -> list[str]:
    size = int(row["file_bytes"]) / 1e3
    ratios = [int(dense[name]) / int(row[name]) for name in ("parameters", "macs", "file_bytes")]
    texts = [row["parameters"], f"{int(row['macs']) / 1e6:.2f} M", f"{size:.0f}"]
    if row is dense:
        return texts
    return [f"{text} ({ratio:.1f} x)" for text, ratio in zip(texts, ratios, strict=True)]


def _speeds(network: str) -> dict[str, str]:
    """Speed-up of each run, one thread, batch 1."""
    path = RESULTS / f"{network}-latency.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["threads"], row["batch"]) == ("1", "1")]
    return {row["model"]: f"{float(row['speed_up']):.2f}" for row in rows}


def known() -> str:
    """Networks that others trained, restored on a GPU, as `study_gpu` measured them."""
    with (RESULTS / "known.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    heads = ["network", "method", "fit", "fewer MACs", "compressed", "refitted", "restored", "8, 6, 4 bits", "SS"]
    lines = []
    for network, title in KNOWN.items():
        mine = [row for row in rows if row["network"] == network]
        for row in sorted(mine, key=lambda row: (float(row["times"]), *_place(row))):
            figures = [
                f"{float(row[name]):.1f}" if row[name] else "-" for name in ("compressed", "refitted", "restored")
            ]
            if row["method"] == "dense":
                figures = ["", "", f"{float(row['dense']):.1f}"]
            bits = ", ".join(f"{float(row[f'bits{n}']):.1f}" if row[f"bits{n}"] else "-" for n in (8, 6, 4))
            size = f"{float(row['sensitivity']):.0f}" if row["sensitivity"] else ""
            times = "" if row["method"] == "dense" else f"{float(row['times']):g}"
            name, fit = NAMES.get(row["method"], row["method"]), "" if row["method"] == "dense" else row["fit"]
            lines.append([title, name, fit, times, *figures, bits, size])
    return markdown(heads, lines)


def own_rate() -> str:
    """The same at the rate that `restore` finds by itself: means over seeds, and how many were finished."""
    with (RESULTS / "known-own-rate.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["restored"]]
    heads = ["network", "method", "fewer MACs", "fit", "refitted", "restored", "8, 6, 4 bits", "seeds"]
    lines = []
    for network, title in KNOWN.items():
        cases = {(row["method"], row["times"]) for row in rows if row["network"] == network}
        for method, times in sorted(cases, key=lambda case: (float(case[1]), case[0])):
            for fit in ("stabilised", "plain"):
                asked = {"network": network, "method": method, "times": times, "fit": fit}
                mine = [row for row in rows if asked.items() <= row.items()]
                if mine:
                    cells = [_mean(mine, "refitted"), _mean(mine, "restored")]
                    bits = ", ".join(_mean(mine, f"bits{n}") for n in (8, 6, 4))
                    count = f"{len(mine)}, {sum(bool(row['bits4']) for row in mine)}"
                    lines.append([title, NAMES.get(method, method), f"{float(times):g}", fit, *cells, bits, count])
    return markdown(heads, lines)


def known_files() -> str:
    """Files of these networks by every method: their size, and their speed in ONNX Runtime."""
    with (RESULTS / "known-files.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    batches, budgets = ("1", "32"), ("3", "5")
    heads = ["network", "method", "file, kB", *(f"speed-up, batch of {batch}" for batch in batches)]
    lines = []
    for network, title in KNOWN.items():
        mine = {(row["model"], row["batch"]): row for row in rows if row["network"] == network}
        if not mine:
            continue
        lines.append([title, "dense", f"{int(mine['dense', '1']['file_bytes']) / 1e3:.0f}", *["1.00"] * len(batches)])
        for method in [*NAMES, "auto"]:
            for form, named in (("", ""), (" fold", ", folded")):
                found = [[mine.get((f"{method}-{times}x{form}", batch)) for times in budgets] for batch in batches]
                if not any(found[0]):
                    continue
                sizes = [
                    f"{int(row['file_bytes']) / 1e3:.0f} ({_smaller(row):.1f} x)" if row else "-" for row in found[0]
                ]
                speeds = [[f"{float(row['speed_up']):.2f}" if row else "-" for row in line] for line in found]
                name = NAMES.get(method, method) + named
                lines.append([title, name, ", ".join(sizes), *(", ".join(line) for line in speeds)])
    return markdown(heads, lines)


def _smaller(row: Row) -> float:
    return int(row["dense_bytes"]) / int(row["file_bytes"])


def _mean(rows: list[dict[str, str]], name: str) -> str:
    """Over the rows that have it."""
    values = [float(row[name]) for row in rows if row[name]]
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _place(row: dict[str, str]) -> tuple[int, str]:
    """Methods in one order, stabilised before plain."""
    order = ["dense", *NAMES, "auto"]
    return order.index(row["method"]), "" if row["fit"] == "stabilised" else row["fit"]


TABLES: dict[str, Callable[[], str]] = {
    "known": known,
    "own-rate": own_rate,
    "known-files": known_files,
    "headline": headline,
    "methods": methods,
    "output": output,
    "selection": selection,
    "bits": bits,
    "latency": latency,
}

if __name__ == "__main__":
    sys.exit(main())
