"""ONNX files as people ship them: what a compression saves, and what it does to the outputs on inputs not seen.

    python -m benchmarks.networks.shipped --files a.onnx b.onnx --inputs a.npz b.npz [--shares 0.8 0.5]

Files and inputs are the caller's.  Inputs are arrays as `tensorchain compress --calibration` takes them, of the kind
that the network is for; every second run calibrates, the others measure.  Rows: the original, its int8
copy by ONNX Runtime's quantizer, and for each method and share the compressed file without and with the refit.  An
error is the largest of the relative errors of the outputs; times are medians of runs in turn, as ratios to the
original's.
A file without inputs is only counted: give `-` in their place.  A file that is refused has its reason.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import table
from tensorchain.cli.errors import CommandError
from tensorchain.cli.feeds import read_feeds
from tensorchain.compression import Trial, compress_onnx, quantize_onnx, try_models
from tensorchain.compression.onnx_calibration import checked_feeds
from tensorchain.compression.onnx_layers import layers_of
from tensorchain.compression.onnx_reading import inputs_of, load_model, stored_sizes
from tensorchain.compression.request import METHOD_NAMES

HEADER = ("file", "what", "MACs, M", "MACs", "parameters", "bytes", "time", "error", "refitted", "seconds")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.shipped", description=__doc__.split("\n")[0])
    parser.add_argument("--files", nargs="+", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--inputs", nargs="+", default=[], metavar="FILE.npz", help="one for each file, or -")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.8, 0.5], help="of the MACs (0.8 0.5)")
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=["auto"], help="default auto")
    parser.add_argument("--most-inputs", type=int, default=64, metavar="N", help="runs that are used of each file (64)")
    parser.add_argument("--stabilise", action="store_true", help="control the sensitivity; slower")
    parser.add_argument("--no-int8", action="store_true", help="leave the int8 copy out")
    options = parser.parse_args(arguments)
    if options.inputs and len(options.inputs) != len(options.files):
        parser.error(f"{len(options.inputs)} inputs for {len(options.files)} files; one for each, or -, is needed")
    rows = [HEADER]
    for file, inputs in zip(options.files, options.inputs or ["-"] * len(options.files), strict=True):
        for row in measured(file, inputs, options):
            rows.append(row)
            print(" | ".join(row), file=sys.stderr, flush=True)
    print(table(list(rows[0]), [list(row) for row in rows[1:]]))
    return 0


def measured(file: Path, inputs: str, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The rows of one file."""
    try:
        original = load_model(file)
        every = None if inputs == "-" else list(read_feeds(inputs, None, inputs_of(original)))[: options.most_inputs]
        case = Case(file.stem, original, every, options.stabilise)
        yield case.count()
    except (ValueError, CommandError) as error:
        yield (file.stem, f"refused: {error}", *[""] * (len(HEADER) - 2))
        return
    if every is None:
        return
    if not options.no_int8:
        yield case.int8()
    for share in options.shares:
        for method in options.methods:
            yield case.compressed(method, share)


@dataclass(frozen=True)
class Case:
    """A file with its inputs."""

    name: str
    original: Any
    every: list[Any] | None
    stabilise: bool

    @property
    def seen(self) -> Any:
        """Runs that calibrate."""
        return checked_feeds((self.every or [])[::2], inputs_of(self.original))

    def trial(self, model: Any) -> Trial:
        """The model beside the original on the other runs."""
        return try_models(self.original, model, (self.every or [])[1::2] or self.every, runs=15)

    def count(self) -> tuple[str, ...]:
        """What the file holds."""
        layers = layers_of(self.original, {}, self.every[0] if self.every else None)
        macs = sum(layer.site.macs for layer in layers)
        moved = sum(layer.site.macs for layer in layers if not layer.site.refusal)
        held = f"original; {len(layers)} layers, {100 * moved / max(macs, 1):.0f} % of the MACs can be replaced"
        return (self.name, held, f"{macs / 1e6:.1f}", "1", str(stored_sizes(self.original)), *["1"] * 2, *[""] * 3)

    def int8(self) -> tuple[str, ...]:
        """The original, rounded."""
        start = time.perf_counter()
        try:
            model = quantize_onnx(self.original, self.seen)
        except ValueError as error:
            return (self.name, f"int8: {error}", *[""] * (len(HEADER) - 2))
        return self.row("int8 of the original", ("", "1", "1"), self.trial(model), "", time.perf_counter() - start)

    def compressed(self, method: str, share: float) -> tuple[str, ...]:
        """One method at one share, without and with the refit."""
        start = time.perf_counter()
        options: dict[str, Any] = {"keep_macs": share, "calibration": self.seen, "stabilise": self.stabilise}
        try:
            plain, _ = compress_onnx(self.original, method, refit=False, **options)
            model, report = compress_onnx(self.original, method, **options)
        except ValueError as error:
            return (self.name, f"{method}, {share:g}: {error}", *[""] * (len(HEADER) - 2))
        shares = [f"{after / before:.2f}" for before, after in (report.macs, report.parameters)]
        counts = f"{report.macs[1] / 1e6:.1f}", *shares
        error = largest(self.trial(plain))
        return self.row(f"{method}, {share:g}", counts, self.trial(model), error, time.perf_counter() - start)

    def row(self, what: str, counts: tuple[str, ...], trial: Trial, before: str, seconds: float) -> tuple[str, ...]:
        """A row of the table; `before` is the error without the refit."""
        bytes_, times = trial.bytes[1] / trial.bytes[0], trial.seconds
        ratio = "" if times is None else f"{times[1] / times[0]:.2f}"
        errors = (before, largest(trial)) if before else (largest(trial), "")
        return (self.name, what, *counts, f"{bytes_:.2f}", ratio, *errors, f"{seconds:.0f}")


def largest(trial: Trial) -> str:
    """The largest error of an output."""
    errors = [output.error for output in trial.outputs if output.error is not None]
    return f"{max(errors):.3f}" if errors else ""


if __name__ == "__main__":
    sys.exit(main())
