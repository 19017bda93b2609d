"""Files of networks that others trained, compressed by every method: their size, and their time in ONNX Runtime.

    python -m benchmarks.networks.known_files resnet20-cifar10.safetensors ... --path images.tar
    python -m benchmarks.networks.known_files          # sizes and times again, with the ranks that are there

With weights, which `benchmarks.networks.known` reads, the ranks for 3 and 5 times fewer multiplications are chosen as
in `benchmarks.networks.study_gpu`, without a fit, and written to results/NETWORK-ranks.json: minutes, and PyTorch.
Sizes and times do not depend on the values of weights, so they are those of files with random ones: the normalisations
are multiplied into the weights, numbers are in single precision.  All networks of a case run in turn with one thread,
and `speed_up` is the median over rounds of the dense network's processor time over their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import replace_file
from benchmarks.networks import latency, layouts
from benchmarks.networks.rows import RESULTS, Row
from benchmarks.timing import machine, table

METHODS = ("tc", "btd", "cp3", "tucker2", "tucker-cp", "auto")
TIMES = (3, 5)
BATCHES = (1, 32)
COLUMNS = (
    "network", "model", "method", "times", "macs", "file_bytes", "dense_bytes", "batch", "rounds", "milliseconds",
    "speed_up", "processor",
)  # fmt: skip
_WIDE = 5_000_000
"""Parameters above which ranks are chosen by the kernels' own errors, as in the study."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.known_files", description=__doc__.split("\n")[0]
    )
    parser.add_argument("weights", nargs="*", type=Path, help=".safetensors, to choose ranks for; none for times alone")
    parser.add_argument("--path", type=Path, help="folder or tar of train/<class>/*, for ranks")
    parser.add_argument("--calibration", type=int, default=512, help="training images that are looked at (512)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--candidates", type=int, default=12, help="ranks on each ladder of a method (12)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each network and batch (60)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the ranks and rows")
    options = parser.parse_args(arguments)
    if options.weights and options.path is None:
        parser.error("ranks are chosen by images that the network sees; give --path")
    for path in options.weights:
        choose(path, options)
    rows = [row for network in layouts.LAYOUTS for row in measured(network, options.results, options.seconds)]
    if not rows:
        parser.error(f"no ranks in {options.results}; give weights and --path")
    lines = [",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in rows)]
    replace_file(options.results / "known-files.csv", "\n".join(lines) + "\n")
    heads = ["network", "model", "MACs", "kB", "batch", "speed-up"]
    print(table(heads, [_short(row) for row in rows]))
    return 0


def choose(path: Path, options: argparse.Namespace) -> None:
    """Ranks of a network, written after each method."""
    from benchmarks.networks.known import images, load

    if path.stem not in layouts.LAYOUTS:
        raise ValueError(f"{path.name} is no network of {', '.join(layouts.LAYOUTS)}; name the file so")
    file = ranks_file(options.results, path.stem)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    pixels, _ = images(options.path, "train", options.calibration, np.random.default_rng(0))
    net = load(path)
    for method in options.methods:
        for times, ranks in chosen(net, pixels, method, options.candidates):
            found[f"{method}-{times}x"] = ranks
            print(path.stem, method, times, f"{ranks['macs']:.6f}", flush=True)
        order = [f"{method}-{times}x" for times in TIMES for method in METHODS]
        found = {name: found[name] for name in order if name in found}
        text = json.dumps(found, separators=(",", ":")).replace("},", "},\n") + "\n"
        replace_file(file, text)


def chosen(net: Any, pixels: Any, method: str, candidates: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Methods and ranks of the layers that are replaced, for each budget."""
    from tensorchain.compression.network import Measured
    from tensorchain.compression.progress import Progress
    from tensorchain.compression.request import Request
    from tensorchain.compression.torch_patches import patch_covariances
    from tensorchain.compression.torch_sites import sites_of

    request = Request(method, keep_macs=1.0, refit=True, candidates=candidates)
    sites = sites_of(net, pixels[:1])
    parameters = sum(parameter.numel() for parameter in net.parameters())
    covariances = None
    if parameters < _WIDE:
        wanted = [site for site in sites if not request.refusal(site)]
        covariances = patch_covariances(net, wanted, lambda: iter(pixels.split(128)))
    # The curves of all layers are measured once and serve every budget.
    plan, curves = Measured(sites, parameters, covariances), Progress(None, "")
    for times in TIMES:
        _, report = plan.planned(request.at(1.0 / times), 0, curves, blank=True)
        # The names of torchvision, as in the layouts.
        changed = {layer.name.replace("linear", "fc"): layer for layer in report.layers if layer.error is not None}
        found: dict[str, Any] = {"method": method, "times": times, "macs": report.macs[1] / report.macs[0]}
        found["ranks"] = {name: layer.rank for name, layer in changed.items()}
        if method == "auto":
            found["methods"] = {name: layer.method for name, layer in changed.items()}
        yield times, found


def measured(network: str, folder: Path, seconds: float, batches: Sequence[int] = BATCHES) -> Iterator[Row]:
    """Size and times of the dense network and of each compressed one, in both forms of a chain."""
    file = ranks_file(folder, network)
    if not file.exists():
        return
    runs = json.loads(file.read_text(encoding="utf-8"))
    models = latency.onnx_models(network, list(runs), layouts.SIDE, int8=False, results=folder)
    sizes = {name: len(model.SerializeToString()) for name, (model, _) in models.items()}
    for batch in batches:
        for row in latency.measure(models, 1, batch, side=layouts.SIDE, seconds=seconds):
            name = row["model"]
            run = runs.get(name.removesuffix(" fold"), {"method": "dense", "times": 1})
            yield {
                **row, "network": network, "method": run["method"], "times": run["times"],
                "macs": round(1.0 / row["mac_ratio"], 4), "file_bytes": sizes[name], "dense_bytes": sizes["dense"],
                "processor": machine()["processor"].replace(",", " "),
            }  # fmt: skip


def ranks_file(folder: Path, network: str) -> Path:
    """Where the ranks of a network are."""
    return folder / f"{network}-ranks.json"


def _short(row: Row) -> list[str]:
    numbers = f"{row['macs']:.3f}", f"{row['file_bytes'] / 1e3:.0f}", str(row["batch"]), f"{row['speed_up']:.2f}"
    return [row["network"], row["model"], *numbers]


if __name__ == "__main__":
    sys.exit(main())
