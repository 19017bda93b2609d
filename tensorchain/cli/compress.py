"""`tensorchain compress`: an ONNX file with decomposed layers."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tensorchain.cli.arguments import positive_integer, positive_number, seed, workers
from tensorchain.cli.errors import CommandError, Status
from tensorchain.cli.feeds import read_feeds
from tensorchain.cli.output import print_columns, print_json, print_report
from tensorchain.cli.reading import check_file
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.compression.onnx_budgets import compress_onnx_within
from tensorchain.compression.onnx_calibration import checked_feeds
from tensorchain.compression.onnx_graph import compress_onnx
from tensorchain.compression.onnx_int8 import in_int8_opset, quantize_onnx
from tensorchain.compression.onnx_reading import inputs_of, load_model, stored_bytes
from tensorchain.compression.onnx_restore import Restored, restore_onnx
from tensorchain.compression.onnx_trial import Trial, try_models
from tensorchain.compression.report import Report, images_in_words
from tensorchain.compression.request import ALLOCATIONS, FORMS, METHOD_NAMES

DESCRIPTION = """\
Replace the convolutions and constant matrices of an ONNX file by decomposed ones; all else stays as it is.

One of --keep-macs, --keep-params and --keep-latency says how much of the dense network to keep, or one of
--max-output-error and --min-agreement how near its outputs have to stay.  What is left alone is listed and
counted, with the reason.  With --calibration the new layers are fitted to what the original gives on these inputs, and
the error of every output is reported.  The file is opened and run before it is written.  Needs no PyTorch.
"""

EPILOG = """\
examples:
  tensorchain compress model.onnx --method cp3 --keep-macs 0.5 --calibration images.npz --out small.onnx
  tensorchain compress model.onnx --keep-macs 0.5 --input-shape images=1,3,320,320 --out small.onnx
  tensorchain compress model.onnx --keep-macs 0.5 --calibration images.npz --out small.onnx --int8
  tensorchain compress model.onnx --keep-latency 0.7 --calibration images.npz --out small.onnx
  tensorchain compress model.onnx --max-output-error 0.05 --calibration images.npz --out small.onnx
  tensorchain compress model.onnx --keep-macs 0.5 --restore images.npz --epochs 3 --out small.onnx
  tensorchain compress model.onnx --keep-macs 0.3 --form auto --checkpoint run.ckpt --out small.onnx

calibration inputs: a .npy or .npz file, the images along the first axis; for several inputs a .npz file with one array
for each, under its name

exit status: 0 done; 2 bad input, or a file that ONNX Runtime does not open; nothing was written
"""

_NAME = 60
_LESSONS = 4
"""Runs into which the inputs of --restore are split at least; one of four is held out."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "compress",
        help="compress the layers of an ONNX file",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument("--out", required=True, metavar="FILE.onnx", help="where to write the compressed model")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--keep-macs", type=positive_number, metavar="SHARE", help="share of the multiplications kept")
    budget.add_argument("--keep-params", type=positive_number, metavar="SHARE", help="share of the parameters kept")
    budget.add_argument(
        "--keep-latency", type=positive_number, metavar="SHARE",
        help="share of the time of a run, measured in ONNX Runtime on this machine: of the layers, and of the file",
    )  # fmt: skip
    budget.add_argument(
        "--max-output-error", type=positive_number, metavar="E",
        help="the fewest multiplications with which no output has a larger relative error on the calibration inputs",
    )  # fmt: skip
    budget.add_argument(
        "--min-agreement", type=positive_number, metavar="SHARE",
        help="the fewest with which the largest of the classes of the first output is the same for this share",
    )  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument(
        "--method", choices=METHOD_NAMES, default="auto",
        help="of convolutions (default auto); auto takes for each layer the one that serves the budget best, and with "
        "--calibration tries channels, narrower layers, too",
    )  # fmt: skip
    how.add_argument(
        "--form", choices=FORMS, default="grouped",
        help="of the layers of chains (default grouped); auto times both in ONNX Runtime and takes the faster",
    )  # fmt: skip
    how.add_argument(
        "--weight-bits", type=positive_integer, metavar="N", help="fit weights that are integers of N bits (2 to 8)"
    )
    how.add_argument("--checkpoint", metavar="FILE", help="keeps what is done; give it again to go on")
    how.add_argument("--allocation", choices=ALLOCATIONS, default="global", help="how ranks are chosen")
    how.add_argument("--plain", action="store_true", help="plain least squares, without control of the sensitivity")
    how.add_argument("--keep", action="append", default=[], metavar="NAME", help="a layer to leave alone; repeatable")
    how.add_argument(
        "--candidates", type=positive_integer, default=12, metavar="N", help="ranks measured per ladder (default 12)"
    )
    how.add_argument(
        "--jobs", type=workers, default=1, metavar="N", help="processes that fit layers side by side; -1 for all cores"
    )
    how.add_argument(
        "--threads", type=positive_integer, default=1, metavar="N", help="of ONNX Runtime where it is timed (default 1)"
    )
    how.add_argument(
        "--batch", type=positive_integer, metavar="N",
        help="images of a run where times are measured, for --keep-latency or --form auto (default 1, or as "
        "--input-shape)",
    )  # fmt: skip
    how.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the fits (default 0)")
    data = parser.add_argument_group("inputs")
    data.add_argument("--calibration", metavar="FILE", help=".npy or .npz with inputs, the images along the first axis")
    data.add_argument("--key", metavar="NAME", help="which array, where FILE holds several")
    data.add_argument(
        "--input-shape", action="append", default=[], type=_shape, metavar="NAME=1,3,320,320",
        help="sizes that the model leaves open, where there are no calibration inputs; repeatable",
    )  # fmt: skip
    data.add_argument("--no-refit", action="store_true", help="do not fit the new layers to the original's outputs")
    data.add_argument("--fit-output", action="store_true", help="choose the fits by errors of outputs, not of kernels")
    data.add_argument(
        "--restore", metavar="FILE",
        help="train the new weights to give what the original gives on these inputs, without labels; needs PyTorch. "
        "They calibrate too, unless --calibration is given",
    )  # fmt: skip
    data.add_argument(
        "--epochs",
        type=positive_integer,
        default=3,
        metavar="N",
        help="passes over the inputs of --restore (default 3)",
    )
    data.add_argument("--int8", action="store_true", help="round to int8 by ONNX Runtime's static quantizer")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(arguments: argparse.Namespace) -> Status:
    """Read, compress, try, write, report."""
    target = check_target("--out", arguments.out, (".onnx",))
    source = check_file(arguments.file)
    if target.exists() and target.samefile(source):
        raise CommandError(f"--out {target}: is the file that is read; choose another name")
    calibration = arguments.calibration or arguments.restore
    if (arguments.int8 or arguments.fit_output) and calibration is None:
        raise CommandError("--int8 and --fit-output need --calibration FILE")
    if arguments.restore is not None and arguments.weight_bits is not None:
        raise CommandError("--restore moves weights off the grid of --weight-bits; give one of them")
    if arguments.int8 and arguments.keep_latency is not None:
        raise CommandError("--keep-latency times files of the original's numbers; with --int8 give --keep-macs")
    bounded = arguments.max_output_error is not None or arguments.min_agreement is not None
    if bounded and calibration is None:
        raise CommandError("--max-output-error and --min-agreement need --calibration FILE")
    restored: Restored | None = None
    try:
        original = load_model(source)
        if arguments.int8:
            # What cannot be written is said before the work.
            in_int8_opset(original)
        feeds = None
        if calibration is not None:
            held = read_feeds(calibration, arguments.key, inputs_of(original))
            feeds = checked_feeds(held, inputs_of(original))
        lessons = feeds
        if arguments.restore is not None:
            lessons = read_feeds(arguments.restore, arguments.key, inputs_of(original), runs=_LESSONS)
        sizes = _sizes(arguments.input_shape, [one.name for one in inputs_of(original)])
        options: dict[str, Any] = {
            "refit": False if arguments.no_refit else None, "input_shapes": sizes, "stabilise": not arguments.plain,
            "fit_output": arguments.fit_output, "keep": tuple(arguments.keep), "form": arguments.form,
            "allocation": arguments.allocation, "candidates": arguments.candidates, "rng": arguments.seed,
            "jobs": arguments.jobs, "weight_bits": arguments.weight_bits, "checkpoint": arguments.checkpoint,
        }  # fmt: skip
        if bounded:
            model, report = compress_onnx_within(
                original, arguments.method, calibration=feeds or [], max_output_error=arguments.max_output_error,
                min_agreement=arguments.min_agreement, **options,
            )  # fmt: skip
        else:
            model, report = compress_onnx(
                original, arguments.method, keep_macs=arguments.keep_macs, keep_params=arguments.keep_params,
                keep_latency=arguments.keep_latency, calibration=feeds, time_int8=arguments.int8,
                batch=arguments.batch, threads=arguments.threads, **options,
            )  # fmt: skip
        if arguments.restore is not None:
            model, restored = restore_onnx(original, model, lessons or [], epochs=arguments.epochs, rng=arguments.seed)
        if arguments.int8:
            model = quantize_onnx(model, feeds or [])
        trial = try_models(original, model, feeds, sizes=sizes, threads=arguments.threads)
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(f"{arguments.file}: {error}") from error
    replace_file(target, lambda temporary: temporary.write_bytes(model.SerializeToString()))
    _show(arguments, source, target, (report, trial, restored))
    return Status.OK


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`images=1,3,320,320`, or the sizes alone for a model of one input."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(part) for part in sizes.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; NAME=1,3,320,320 is needed, all sizes at least 1")
    return name, shape


def _sizes(given: list[tuple[str, tuple[int, ...]]], names: list[str]) -> dict[str, tuple[int, ...]]:
    sizes = {}
    for name, shape in given:
        if not name and len(names) != 1:
            raise CommandError(f"--input-shape: the model has {len(names)} inputs, {', '.join(names)}; say of which")
        sizes[name or names[0]] = shape
    return sizes


def _short(name: str) -> str:
    """A name that fits a table; converters write names of many hundred characters.  JSON has them whole."""
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}...{name[-_NAME // 2 :]}"


def _show(
    arguments: argparse.Namespace, source: Path, target: Path, results: tuple[Report, Trial, Restored | None]
) -> None:
    report, trial, restored = results
    sizes = stored_bytes(source), target.stat().st_size
    if arguments.json:
        layers = [dataclasses.asdict(layer) for layer in report.layers]
        totals = {"parameters": report.parameters, "macs": report.macs, "bytes": sizes, "gap": report.allocation.gap}
        outputs = [dataclasses.asdict(output) for output in trial.outputs]
        measured: dict[str, Any] = {"outputs": outputs, "run_seconds": trial.seconds, "calibrated": trial.calibrated}
        measured["run_images"] = trial.images
        measured["budget_seconds"], measured["budget_images"] = report.run_seconds, report.run_images
        ends: dict[str, Any] = {
            "seconds": report.seconds,
            "unused": report.unused,
            "file": str(source),
            "out": str(target),
        }
        ends["trials"] = [{"share": s.share, "score": s.score, "holds": s.accepted} for s in report.steps]
        ends["restored"] = None if restored is None else dataclasses.asdict(restored)
        print_json({"layers": layers, **totals, **measured, **ends})
        return
    rows = []
    for layer in report.layers:
        figures = [
            f"{value:.3g}" if value is not None else ""
            for value in (layer.error, layer.output_error, layer.sensitivity)
        ]
        kept = f"{layer.macs[1] / layer.macs[0]:.3f}" if layer.macs[0] else ""
        bits = ",".join(map(str, layer.bits or ()))
        rows.append((_short(layer.name), layer.method, str(layer.rank), *figures, kept, layer.form or "", bits))
    header = (
        "layer",
        "method",
        "rank, or why it stays",
        "error",
        "of output",
        "sensitivity",
        "MACs kept",
        "form",
        "bits",
    )
    print_columns(header, rows)
    pairs = (("parameters", report.parameters), ("MACs", report.macs), ("bytes", sizes))
    lines = [(name, f"{a} -> {b}, {a / max(b, 1):.2f} x fewer") for name, (a, b) in pairs]
    if report.run_seconds is not None:
        first, last = report.run_seconds
        what = f"time of {images_in_words(report.run_images)}"
        lines.append((what, f"{1e3 * first:.2f} -> {1e3 * last:.2f} ms, {last / first:.3f} of it"))
    if trial.seconds is not None and (report.run_seconds is None or report.run_images != trial.images):
        before, after = trial.seconds
        what = f"time of {images_in_words(trial.images)}"
        lines.append((what, f"{1e3 * before:.2f} -> {1e3 * after:.2f} ms, {before / after:.2f} x as fast"))
    for output in trial.outputs:
        told = output.note if output.error is None else f"relative error {output.error:.3g} {output.note}".rstrip()
        lines.append((f"output {output.name}", told))
    if restored is not None:
        first, last = restored.errors[0], restored.errors[restored.best]
        lines.append(("restored", f"error on inputs held out {first:.3g} -> {last:.3g}, epoch {restored.best}"))
        lines.extend(("not compared", one) for one in restored.missing)
    for step in report.steps:
        told = f"share {step.share:.3f}: {abs(step.score or 0.0):.3g}, {'holds' if step.accepted else 'does not hold'}"
        lines.append(("tried", told))
    if report.unused and not report.steps:
        lines.append(("budget", report.unused))
    print_report([*lines, ("saved", str(target))], title=str(source))
