"""`tensorchain compress`: an ONNX file with decomposed convolutions."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.cli.arguments import positive_integer, positive_number, seed
from tensorchain.cli.errors import CommandError, Status
from tensorchain.cli.output import print_columns, print_json, print_report
from tensorchain.cli.reading import check_file, read_array
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.compression.fitting import METHODS
from tensorchain.compression.onnx_graph import compress_onnx
from tensorchain.compression.onnx_int8 import quantize_onnx
from tensorchain.compression.report import Report
from tensorchain.compression.request import ALLOCATIONS, FORMS

DESCRIPTION = """\
Replace the convolutions of an ONNX file by decomposed ones; all else stays as it is.

One of --keep-macs and --keep-params says how much of the dense network to keep.  What is left alone is named with the
reason.  Needs no PyTorch.
"""

EPILOG = """\
examples:
  tensorchain compress model.onnx --method tc --keep-macs 0.3 --out small.onnx
  tensorchain compress model.onnx --method tc --keep-macs 0.3 --calibration images.npz --out small.onnx --int8
  tensorchain compress model.onnx --method tc --keep-macs 0.3 --form auto --checkpoint run.ckpt --out small.onnx

exit status: 0 done; 2 bad input
"""

_BATCH = 32


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "compress",
        help="compress the convolutions of an ONNX file",
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
    how = parser.add_argument_group("how")
    how.add_argument("--method", choices=[m for m in METHODS if m != "svd"], default="tc", help="default tc")
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
    how.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="a Conv node to leave alone; repeatable"
    )
    how.add_argument(
        "--rungs", type=positive_integer, default=6, metavar="N", help="ranks measured per ladder (default 6)"
    )
    how.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the fits (default 0)")
    data = parser.add_argument_group("calibration")
    data.add_argument(
        "--calibration", metavar="IMAGES", help=".npy or .npz with inputs, the images along the first axis"
    )
    data.add_argument("--key", metavar="NAME", help="which array, where IMAGES holds several")
    data.add_argument("--fit-output", action="store_true", help="minimise the errors of outputs, not of kernels")
    data.add_argument("--int8", action="store_true", help="round to int8 by ONNX Runtime's static quantizer")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def run(arguments: argparse.Namespace) -> Status:
    """Read, compress, write, report."""
    target = check_target("--out", arguments.out, (".onnx",))
    source = check_file(arguments.file)
    if target.exists() and target.samefile(source):
        raise CommandError(f"--out {target}: is the file that is read; choose another name")
    if (arguments.int8 or arguments.fit_output) and arguments.calibration is None:
        raise CommandError("--int8 and --fit-output need --calibration IMAGES")
    try:
        feeds = None if arguments.calibration is None else _feeds(source, arguments)
        model, report = compress_onnx(
            source, arguments.method, keep_macs=arguments.keep_macs, keep_params=arguments.keep_params, calibrate=feeds,
            stabilise=not arguments.plain, fit_output=arguments.fit_output, keep=tuple(arguments.keep),
            form=arguments.form, allocation=arguments.allocation, rungs=arguments.rungs, rng=arguments.seed,
            weight_bits=arguments.weight_bits, checkpoint=arguments.checkpoint, time_int8=arguments.int8,
        )  # fmt: skip
        if arguments.int8:
            model = quantize_onnx(model, feeds or [])
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(f"{arguments.file}: {error}") from error
    replace_file(target, lambda temporary: temporary.write_bytes(model.SerializeToString()))
    _show(arguments, source, target, report)
    return Status.OK


def _feeds(source: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Batches of the calibration images, under the name of the model's only input."""
    import onnx

    try:
        graph = onnx.load(source, load_external_data=False).graph
    except Exception as error:
        raise CommandError(f"{source}: is no ONNX model: {error}") from error
    weights = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    if len(names) != 1:
        raise CommandError(f"{source}: has {len(names)} inputs; calibration from the command line needs one")
    images = np.asarray(read_array(arguments.calibration, arguments.key), dtype=np.float32)
    fixed = next(value for value in graph.input if value.name == names[0]).type.tensor_type.shape.dim[0].dim_value
    size = fixed or _BATCH
    # A model of fixed batch takes whole batches only.
    ends = range(size, len(images) + 1, size) if fixed else range(size, len(images) + size, size)
    feeds = [{names[0]: images[end - size : end]} for end in ends]
    if not feeds:
        raise CommandError(f"--calibration {arguments.calibration}: holds {len(images)} images; {size} are needed")
    return feeds


def _show(arguments: argparse.Namespace, source: Path, target: Path, report: Report) -> None:
    sizes = source.stat().st_size, target.stat().st_size
    if arguments.json:
        layers = [dataclasses.asdict(layer) for layer in report.layers]
        totals = {"parameters": report.parameters, "macs": report.macs, "bytes": sizes, "gap": report.allocation.gap}
        print_json({"layers": layers, **totals, "seconds": report.seconds, "file": str(source), "out": str(target)})
        return
    rows = []
    for layer in report.layers:
        figures = [f"{value:.3g}" if value is not None else "" for value in (layer.error, layer.sensitivity)]
        kept, bits = f"{layer.macs[1] / layer.macs[0]:.3f}", ",".join(map(str, layer.bits or ()))
        rows.append((layer.name, layer.method, str(layer.rank), *figures, kept, layer.form or "", bits))
    print_columns(("layer", "method", "rank", "error", "sensitivity", "MACs kept", "form", "bits"), rows)
    pairs = (("parameters", report.parameters), ("MACs", report.macs), ("bytes", sizes))
    lines = [(name, f"{a} -> {b}, {a / b:.2f} x fewer") for name, (a, b) in pairs]
    print_report([*lines, ("saved", str(target))], title=str(source))
