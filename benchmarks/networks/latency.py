"""Latency of compressed networks in ONNX Runtime beside that of the dense one, as ratios taken in one run.

    python -m benchmarks.networks.latency [RUN ...] [--network NAME]

The ranks are those that the study chose (results/NETWORK-ranks.json); the weights are random, since time does not
depend on them.  All models of a case run in turn, round after round; the speed-up of a model is the median over rounds
of the dense network's time over its own, so that what else the machine does hits all alike.  With one thread it is
processor time.  Less than a minute; PyTorch is not needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import replace_file
from benchmarks.networks import graph, layouts, stored
from benchmarks.networks.rows import RESULTS, WEIGHTS, Results
from tensorchain.compression.candidates import blank_plan
from tensorchain.compression.conv import Convolution, LayerPlan
from tensorchain.compression.onnx_int8 import quantize_onnx
from tensorchain.compression.progress import rank_of_record
from tensorchain.compression.projections import PROJECTIONS, blank_projection

NETWORK = "resnet18-w16-fashion-mnist-seed0"
RUNS = (
    *(f"{method}-global-macs-5x-seed0" for method in ("tc", "cp3", "cp4", "tucker2", "tucker-cp", "btd")),
    "tc-global-macs-3x-output-seed0",
    "tucker2-global-params-3x-output-seed0",
)
CASES = ((1, 1), (1, 32), (2, 1), (2, 32))
"""(threads, batch)."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.latency", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"names of runs; default {' '.join(RUNS)}, as far as they were done"
    )
    parser.add_argument("--network", default=NETWORK, help=f"default {NETWORK}")
    parser.add_argument("--side", type=int, default=28, help="height of an image (28)")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each of the four cases (8)")
    parser.add_argument("--out", type=Path, help="default: results/NETWORK-latency.csv")
    options = parser.parse_args(arguments)
    there = Results(RESULTS, options.network).ranks
    models = onnx_models(options.network, options.runs or [run for run in RUNS if run in there], options.side)
    rows = [row for case in CASES for row in measure(models, *case, side=options.side, seconds=options.seconds)]
    out = options.out or RESULTS / f"{options.network}-latency.csv"
    columns = list(rows[0])
    text = "\n".join([",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]) + "\n"
    replace_file(out, text)
    print(table(rows))
    return 0


def onnx_models(
    network: str, runs: Sequence[str], side: int, *, int8: bool = True, results: Path | None = None
) -> dict[str, tuple[Any, int]]:
    """ONNX models by name, with their multiplications: the dense network, that of each run, and int8 files of some.

    Chains come in both forms.
    """
    logging.getLogger().setLevel(logging.ERROR)
    dense = randomised(_network(network))
    chosen = json.loads(((results or RESULTS) / f"{network}-ranks.json").read_text(encoding="utf-8"))
    unknown = [name for name in runs if name not in chosen]
    if unknown:
        raise ValueError(f"no run {unknown[0]!r} in the results of {network}; there are {', '.join(chosen)}")
    networks = {"dense": dense}
    for name in runs:
        plans = random_plans(dense, chosen[name])
        networks[name] = dense.with_plans({key: plan.grouped() for key, plan in plans.items()})
        if chosen[name]["method"] == "tc":
            networks[f"{name} fold"] = dense.with_plans(plans)
    models = {name: (graph.onnx_model(one, side), one.macs(side)) for name, one in networks.items()}
    if not int8:
        return models
    shape = (8, int(dense.recipe["channels"]), side, side)
    feeds = [{graph.INPUT: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}]
    for name in [name for name in models if name == "dense" or name.startswith("tucker2-") or name.endswith("fold")]:
        model, macs = models[name]
        models[f"{name} int8"] = (quantize_onnx(model, feeds, per_channel=False), macs)
    return models


def measure(
    models: Mapping[str, tuple[Any, int]], threads: int, batch: int, *, side: int, seconds: float
) -> list[dict[str, Any]]:
    """Times of one case: of the processor with one thread, which other processes do not lengthen, else of the clock."""
    import onnxruntime

    fine = time.get_clock_info("process_time").resolution < 1e-6
    clock = time.process_time if threads == 1 and fine else time.perf_counter
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        name: onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, (model, _) in models.items()
    }
    channels = next(iter(sessions.values())).get_inputs()[0].shape[1]
    images = np.random.default_rng(0).standard_normal((batch, channels, side, side)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, {graph.INPUT: images})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["dense"]) < 5:
        for name, session in sessions.items():
            started = clock()
            session.run(None, {graph.INPUT: images})
            times[name].append(clock() - started)
    dense_macs = models["dense"][1]
    return [
        {
            "model": name,
            "threads": threads,
            "batch": batch,
            "rounds": len(taken),
            "milliseconds": round(1e3 * statistics.median(taken), 4),
            "speed_up": round(statistics.median(d / t for d, t in zip(times["dense"], taken, strict=True)), 3),
            "mac_ratio": round(dense_macs / models[name][1], 3),
        }
        for name, taken in times.items()
    ]


def random_plans(dense: stored.Stored, chosen: Mapping[str, Any]) -> dict[str, LayerPlan]:
    """Plans with random weights: a method for all layers, or `methods` by name, and the ranks of each."""
    places = {name: (stride, padding) for name, stride, padding in dense.convolutions()}
    rng, plans = np.random.default_rng(0), {}
    for name, rank in chosen["ranks"].items():
        [layer] = dense.layer(name, *places.get(name, (1, 0)))
        assert isinstance(layer, Convolution)
        kind = chosen.get("methods", {}).get(name) or ("svd" if layer.window == (1, 1) else chosen["method"])
        plans[name] = random_plan(kind, rank, layer, rng)
    return plans


def random_plan(method: str, rank: Any, layer: Convolution, rng: np.random.Generator) -> LayerPlan:
    """A plan of a method and rank, as JSON has it, in place of a layer."""
    rank, shape = rank_of_record(rank), layer.weight.shape
    if method in PROJECTIONS:
        plan = blank_projection(shape, method, layer.geometry, rank)
    else:
        # The study writes Tucker-2 as one block term.
        one = rank[0] if method == "tucker2" and isinstance(rank, list) else rank
        plan = blank_plan(method, one, shape, layer.geometry)
    steps = [replace(s, weight=_scaled(s.weight, rng)) if isinstance(s, Convolution) else s for s in plan.steps]
    *before, last = steps
    return LayerPlan(method, rank, (*before, replace(last, bias=layer.bias)))


def _network(name: str) -> stored.Stored:
    """A network by name: the file of one that was trained here, or the shapes of one that others trained."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists() and name in layouts.LAYOUTS:
        return layouts.blank(layouts.LAYOUTS[name])
    return stored.read(path)


def randomised(network: stored.Stored) -> stored.Stored:
    """The same with random weights: numbers of common size throughout, so that no time is lost on tiny ones."""
    rng = np.random.default_rng(0)
    state = {}
    for name, array in network.state.items():
        if array.ndim > 1:
            state[name] = _scaled(array, rng)
        else:
            state[name] = np.full_like(array, 1 if name.endswith(("running_var", ".weight")) else 0)
    return replace(network, state=state)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Speed-ups of each model, one column for each case."""
    cases = list(dict.fromkeys((row["threads"], row["batch"]) for row in rows))
    lines = [f"{'model':<42}{'MACs':>7}" + "".join(f"{f'{t} thr, batch {b}':>17}" for t, b in cases)]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = list(_of(rows, name))
        cells = "".join(f"{row['speed_up']:>17.2f}" for row in mine)
        lines.append(f"{name:<42}{mine[0]['mac_ratio']:>7.2f}{cells}")
    return "\n".join(lines)


def _of(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["model"] == name)


def _scaled(array: Any, rng: np.random.Generator) -> Any:
    """Random weights that keep the size of what they are applied to."""
    values = rng.standard_normal(array.shape) * np.sqrt(2.0 / np.prod(array.shape[1:]))
    return values.astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
