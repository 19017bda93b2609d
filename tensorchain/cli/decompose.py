"""`tensorchain decompose`: from a file that holds a tensor to a file that holds its decomposition."""

from __future__ import annotations

import argparse
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tensorchain.api import decompose
from tensorchain.cli import show
from tensorchain.cli.arguments import (
    SOLVERS,
    constraint_of,
    missing_value,
    model_names,
    parse_blocks,
    parse_rank,
    positive_integer,
    positive_number,
    rank_of,
    seed,
    solver_of,
    workers,
)
from tensorchain.cli.errors import EXIT_STATUS, CommandError, Status
from tensorchain.cli.output import print_json, print_report
from tensorchain.cli.progress import MODES, FitProgress
from tensorchain.cli.reading import check_file, check_source, read_array
from tensorchain.cli.writing import check_target, replace_file
from tensorchain.fit import Fit, StopReason
from tensorchain.models import Model, load
from tensorchain.tensors import Dense, Masked, Tensor

DESCRIPTION = """\
Decompose the tensor in a file and save the model.

The file may be .npy, .npz, .mat, .h5, .csv or a picture; a folder of pictures, .npy files or tables is one tensor,
its first mode along the files.  On a terminal a bar shows error, sensitivity and time;
--progress log writes lines.  Ctrl-C, or SIGTERM, stops after the iteration in progress and saves the best model so far.
"""

EPILOG = f"""\
examples:
  tensorchain decompose data.npy --model tc --rank 3,3,3 --out fit.npz --plot fit.png
  tensorchain decompose data.mat --key X --model cp --rank 5 --starts 10 --max-seconds 60 --out fit.npz
  tensorchain decompose photo.jpg --model btd --rank "20,20,3;9,9,2" --max-sensitivity 200 --relative --out fit.npz
  tensorchain decompose data.npy --init fit.npz --max-error 0.05 --out milder.npz --json
  tensorchain decompose data.npy --model tt --error 0.05 --out fit.npz
  tensorchain decompose new.npy --init fit.npz --fixed 1,2 --non-negative --out samples.npz
  tensorchain decompose frames/ --model tucker --rank 10,30,30 --progress log --out fit.npz
  tensorchain decompose table.csv --missing nan --model cp --rank 2 --out fit.npz
  tensorchain decompose data.npy --model tc --rank 4 --starts 20 --jobs -1 --out fit.npz
  tensorchain decompose data.npy --model tc --rank 4 --starts 20 --checkpoint run.ckpt --out fit.npz

{EXIT_STATUS}"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "decompose",
        help="decompose the tensor in a file",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_data(parser, "file", "FILE")
    model = parser.add_argument_group("what is fitted")
    model.add_argument(
        "--model", choices=model_names(), type=str.lower, metavar="MODEL",
        help="cp, tucker, btd (block terms), tc (tensor chain) or tt (train); other names in use are understood",
    )  # fmt: skip
    ranks = model.add_mutually_exclusive_group()
    ranks.add_argument(
        "--error", type=positive_number, metavar="E", help="in place of --rank: the fewest parameters with error <= E"
    )
    ranks.add_argument(
        "--rank",
        type=parse_rank,
        metavar="R",
        help="5, or one number a mode 3,3,3, or one list a term '2,2,2;3,3,3'; evbmf: ranks of tucker from the data",
    )
    model.add_argument("--init", default="random", metavar="HOW", help="random (default), svd, or a file to start from")
    bound = model.add_mutually_exclusive_group()
    bound.add_argument(
        "--max-sensitivity", type=positive_number, metavar="S", help="least error with sensitivity at most S"
    )
    bound.add_argument(
        "--max-error", type=positive_number, metavar="E", help="least sensitivity with relative error at most E"
    )
    bound.add_argument("--penalty", type=positive_number, metavar="NU", help="minimise ||T - X||^2 + NU * sensitivity")
    model.add_argument(
        "--relative", action="store_true",
        help="S and NU are for data of norm 1: S as reports say it, NU a share of the squared norm",
    )  # fmt: skip
    model.add_argument(
        "--fixed", type=parse_blocks, metavar="MODES",
        help="modes of --init FILE, from 0, whose blocks stay as they are: 0,2; also core",
    )  # fmt: skip
    model.add_argument("--non-negative", action="store_true", help="blocks whose entries are all >= 0")
    search = parser.add_argument_group("how")
    search.add_argument(
        "--solver",
        choices=SOLVERS,
        default="auto",
        help="what suits the model and the data (default), the sensitivity path, or plain als or lm",
    )
    search.add_argument("--max-iter", type=positive_integer, metavar="N", help="most iterations of the solver")
    search.add_argument(
        "--starts", type=positive_integer, default=1, metavar="N", help="try N starts and keep the best"
    )
    search.add_argument(
        "--jobs", type=workers, default=1, metavar="N", help="processes that share the starts; -1 for all cores"
    )
    search.add_argument(
        "--checkpoint", metavar="FILE", help="save the run there as it goes; where FILE exists, the run goes on from it"
    )
    search.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the starts (default 0)")
    search.add_argument("--max-seconds", type=positive_number, metavar="S", help="stop after S seconds over all starts")
    result = parser.add_argument_group("what is written")
    result.add_argument(
        "--out", required=True, metavar="FIT.npz", help="where to save the model and the report: .npz or .safetensors"
    )
    result.add_argument("--plot", metavar="FILE", help="draw error and sensitivity over iterations: .png, .pdf or .svg")
    result.add_argument("--json", action="store_true", help="print JSON, not a table")
    result.add_argument(
        "--progress", choices=MODES, default="auto",
        help="a bar, lines in a log, or none; auto (default) shows a bar on terminals",
    )  # fmt: skip
    result.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> Status:
    """Read, fit, save, report."""
    target = check_target("--out", arguments.out, (".npz", ".safetensors"))
    if target.suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
        raise CommandError(
            f"--out {target}: needs the package safetensors: pip install tensorchain[interop]; or use .npz"
        )
    picture = None if arguments.plot is None else check_target("--plot", arguments.plot, (".png", ".pdf", ".svg"))
    checkpoint = None if arguments.checkpoint is None else check_target("--checkpoint", arguments.checkpoint)
    if checkpoint is not None and arguments.jobs != 1:
        raise CommandError(
            f"--checkpoint and --jobs {arguments.jobs} were given; a run with a checkpoint keeps its starts in one "
            "process: drop one of them"
        )
    if arguments.relative and arguments.max_sensitivity is None and arguments.penalty is None:
        raise CommandError("--relative is about --max-sensitivity and --penalty, and neither was given")
    if arguments.fixed is not None and arguments.init in ("random", "svd"):
        raise CommandError("--fixed names modes of a model, and none was given: add --init FILE")
    init = _start(arguments)
    source = check_source(arguments.file)
    if checkpoint is not None and checkpoint.resolve() in (source.resolve(), target.resolve()):
        raise CommandError(f"--checkpoint {checkpoint}: is FILE or --out as well; choose another name")
    if target.exists() and target.samefile(source):
        raise CommandError(f"--out {target}: is the file that is read; choose another name")
    array = read_array(source, arguments.key)
    fit = _fit(arguments, array, init)
    # Fit.save writes a temporary file and renames it, too.
    fit.save(target)
    if picture is not None:
        draw(fit, picture)
    if arguments.json:
        print_json({**record_of(fit), "file": str(source), "out": str(target)})
    else:
        print_report([*fit.report(), ("saved", str(target))], title=str(source))
    return status_of(fit)


def _fit(arguments: argparse.Namespace, array: Any, init: str | Model) -> Fit:
    """The decomposition; what is wrong with the tensor or the options becomes bad input."""
    # Iterates of other processes are not seen here.
    follows = arguments.jobs == 1
    progress = None
    default = arguments.solver == "auto" and arguments.max_iter is None
    try:
        tensor = data_of(array, arguments.missing)
        progress = FitProgress(
            tensor.norm(),
            starts=arguments.starts,
            max_seconds=arguments.max_seconds,
            mode="none" if arguments.quiet else arguments.progress,
            follows=follows,
        )
        with progress:
            fit = decompose(
                tensor,
                arguments.model,
                rank_of(arguments.model, arguments.rank),
                error=arguments.error,
                solver=None if default else solver_of(arguments.solver, arguments.max_iter),
                constraint=constraint_of(arguments),
                init=init,
                fixed=arguments.fixed,
                starts=arguments.starts,
                rng=arguments.seed,
                callback=progress if follows else None,
                max_seconds=arguments.max_seconds,
                jobs=arguments.jobs,
                checkpoint=arguments.checkpoint,
            )
    except Exception as error:
        # Workers that are stopped before the first result may fail in ways of their own.
        if progress is not None and progress.interrupted:
            raise KeyboardInterrupt from error
        if isinstance(error, (ValueError, TypeError, ImportError)):
            raise CommandError(f"{arguments.file}: {error}") from error
        raise
    return replace(fit, reason=StopReason.INTERRUPTED) if progress.interrupted else fit


def add_data(parser: argparse.ArgumentParser, name: str, metavar: str, nargs: str | None = None) -> None:
    """The options that name a tensor."""
    parser.add_argument(
        name, metavar=metavar, nargs=nargs,
        help=".npy, .npz, .mat, .h5, .csv or a picture, or a folder of pictures, .npy files or tables",
    )  # fmt: skip
    parser.add_argument("--key", metavar="NAME", help=f"which array, where {metavar} (.npz, .mat, .h5) holds several")
    parser.add_argument(
        "--missing", type=missing_value, metavar="VALUE", help="what stands for a missing entry: nan, or a number"
    )


def data_of(array: Any, missing: float | None) -> Tensor:
    """The tensor in an array, without the entries that are missing."""
    if missing is None:
        if array.dtype.kind in "fc" and np.isnan(array).any():
            raise ValueError("some entries are NaN or empty; --missing nan leaves them out")
        return Dense(array)
    absent = np.isnan(array) if math.isnan(missing) else np.asarray(array == missing)
    return Masked(np.asarray(array), ~absent) if absent.any() else Dense(array)


def _start(arguments: argparse.Namespace) -> str | Model:
    """What `decompose` takes as init."""
    init: str = arguments.init
    if init in ("random", "svd"):
        if arguments.model is None or (arguments.rank is None and arguments.error is None):
            raise CommandError("--model and --rank (or --error) are needed, unless --init names a file to start from")
        return init
    try:
        return load(check_file(init))
    except ValueError as error:
        raise CommandError(f"--init {error}") from error


def draw(fit: Fit, path: Path) -> None:
    """The plot of a fit, without a window system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    fit.plot(ax=figure.subplots())
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=150))


def record_of(fit: Fit) -> dict[str, Any]:
    """The figures of a fit, for programs."""
    return {
        **show.record_of(fit.model),
        "error": fit.error,
        "note": fit.note,
        "sensitivity": fit.sensitivity,
        "converged": fit.converged,
        "reason": fit.reason.name,
        "message": fit.reason.value,
        "iterations": fit.iterations,
        "seconds": fit.seconds,
        "solver": fit.solver,
        "starts": [
            {"error": s.error, "sensitivity": s.sensitivity, "reason": s.reason.name, "seconds": s.seconds}
            for s in fit.starts
        ],
    }


def status_of(fit: Fit) -> Status:
    """A limit that was reached is no failure; a bound that was missed, or an overflow, is one."""
    if fit.reason is StopReason.INTERRUPTED:
        return Status.INTERRUPTED
    return Status.FAILED if fit.reason in (StopReason.INFEASIBLE, StopReason.NON_FINITE) else Status.OK
