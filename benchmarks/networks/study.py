"""What compression does to a trained network: every method, stabilised and not, restored, rounded, and in int8.

    python -m benchmarks.networks.study                    # all groups on the shipped ResNet-18
    python -m benchmarks.networks.study chains int8 --seeds 0 1 2
    python -m benchmarks.networks.study --weights my.safetensors --path folder/of/cifar10
    python -m benchmarks.networks.study --list

Rows are written to results/NETWORK.csv after each run, ranks to results/NETWORK-ranks.json; runs that are there are not
done again.  What a run does is said in :mod:`benchmarks.networks.experiment`.  `--quick` measures a few images and
`--full` restores on all training images; their rows go to files of their own.  Without the data of the shipped
networks, those of the digits are used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.networks import data, stored
from benchmarks.networks.experiment import Bench, Run, run
from benchmarks.networks.rows import RESULTS, WEIGHTS, Results, table

DEFAULT, FALLBACK = "resnet18-w16-fashion-mnist-seed0", "resnet20-w8-digits-seed0"
BITS = (8, 6, 4)
PAIRS = ((8, 8), (6, 8), (4, 8), (3, 8), (2, 8), (8, 6), (8, 4), (8, 3), (8, 2))
GROUPS = {
    "chains": "TC at 3 and 5 times fewer MACs, fitted to the layers' outputs",
    "methods": "every method at 5 times fewer MACs, stabilised and not, fitted to the kernels",
    "int8": "Tucker-2 at 3 times fewer parameters, fitted to the layers' outputs, then int8",
    "output": "fits to the layers' outputs beside fits to the kernels, without fine-tuning",
    "selection": "ways to choose the ranks of Tucker-2",
    "budgets": "TC, CPD and Tucker-2 at other budgets",
    "bits": "weights and activations of the Tucker-2 network at 2 to 8 bits",
}


def main(arguments: list[str] | None = None) -> int:
    parser = _options()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in GROUPS]
    if unknown:
        parser.error(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if options.list:
        for name, what in GROUPS.items():
            print(f"{name:12}{what}")
        return 0
    torch.set_num_threads(options.threads)
    weights, splits = network_with_data(options.weights, options.path)
    bench = Bench(weights, splits, 1000 if options.quick else None)
    size = "-quick" if options.quick else "-full" if options.full else ""
    results = Results(options.results, weights.stem + size)
    if not results.has("dense"):
        results.add(bench.dense_rows())
    images = 1280 if options.quick else len(splits.train) if options.full else options.images
    for told in runs(weights.stem, options.names or list(GROUPS), options.seeds):
        epochs = min(told.epochs, 1 if options.quick else options.epochs)
        one = replace(told, images=images, epochs=epochs, precision=options.precision)
        if results.has(one.name):
            continue
        print(one.name, flush=True)
        rows, ranks, final = run(bench, one, lambda text: print(text, flush=True))
        results.add(rows, ranks)
        stored.write(final, options.results / "work" / weights.stem / f"{one.name}.safetensors")
    print(table(results.rows))
    return 0


def runs(network: str, names: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """The runs of some groups; those of the first seed come first."""
    for seed in seeds:
        for name in names:
            for told in _group(name):
                # Seeds tell how much the headline figures scatter; elsewhere the first one has to do.
                if seed == seeds[0] or name in ("chains", "int8"):
                    yield replace(told, network=network, seed=seed)


def _group(name: str) -> list[Run]:
    if name == "chains":
        return [Run("", "tc", times=times, fit_output=True) for times in (3, 5)]
    if name == "methods":
        told = [("tucker2", True), ("tc", True), ("tc", False), ("cp3", True), ("cp3", False)]
        rounded = [Run("", method, times=5, stabilised=stable, bits=BITS) for method, stable in told]
        others = [(method, stable) for stable in (True, False) for method in ("btd", "tucker-cp", "cp4")]
        return [*rounded, *(Run("", method, times=5, stabilised=stable) for method, stable in others)]
    if name == "int8":
        return [Run("", "tucker2", budget="params", times=3, fit_output=True, int8=True)]
    if name == "output":
        # The fits to the kernels beside them are the recalibrated rows of "methods"; "chains" has those of TC.
        methods = ("tucker2", "cp3", "tucker-cp", "btd", "cp4")
        return [Run("", method, times=5, fit_output=True, epochs=0) for method in methods]
    if name == "selection":
        steps = [Run("", "tucker2", selection=how, times=times) for times in (3, 5) for how in ("global", "one-step")]
        # With the two epochs between its steps it has three epochs in all, as the others.
        several = [Run("", "tucker2", selection="multi-step", times=times, epochs=1) for times in (3, 5)]
        return [*steps, *several, Run("", "tucker2", selection="evbmf")]
    if name == "budgets":
        return [Run("", method, times=times) for times in (3, 8) for method in ("tucker2", "cp3", "tc")]
    if name == "bits":
        return [Run("", "tucker2", budget="params", times=3, fit_output=True, quantized=PAIRS)]
    raise ValueError(f"no group {name!r}")


def network_with_data(weights: Path | None, path: Path | None) -> tuple[Path, data.Splits]:
    """A weight file and its data; the digits where those of the default are not on this machine."""
    chosen = weights or WEIGHTS / f"{DEFAULT}.safetensors"
    try:
        return chosen, data.load(stored.read(chosen).recipe["data"], path)
    except FileNotFoundError as error:
        if weights is not None or path is not None:
            raise
        print(f"{error}; going on with the digits", file=sys.stderr)
        return WEIGHTS / f"{FALLBACK}.safetensors", data.load("digits")


def _options() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12}{what}" for name, what in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.study", description="Compress a trained network in every way and measure.",
        epilog=f"groups:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="GROUP", help="all by default")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few images")
    size.add_argument("--full", action="store_true", help="restore on all training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--images", type=int, default=6400, help="training images in an epoch of restoration (6400)")
    parser.add_argument("--epochs", type=int, default=3, help="most epochs of restoration (3)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the training")
    parser.add_argument("--weights", type=Path, help=f"weight file; default {DEFAULT}")
    parser.add_argument("--path", type=Path, help="folder of the data set's files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows are written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the groups and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
