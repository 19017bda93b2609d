"""`python -m paper_figures [NAME ...] [--quick | --full] [--seed N] [--out DIR]`; `tensorchain figures` calls it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from paper_figures.catalogue import FIGURES, summary
from paper_figures.results import Settings
from paper_figures.run import NothingToDrawError, draw_figures

HERE = Path(__file__).parent


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Measure and draw the figures: PDF and PNG, with the numbers as CSV beside them.",
        epilog=f"figures:\n{listed()}\n\nexamples:\n  python -m paper_figures\n"
        "  python -m paper_figures instability trade_off --full --seed 3 --out figures\n\n"
        "exit status: 0 done; 2 bad input, or nothing to draw; 130 stopped by Ctrl-C: the same command goes on\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which figures; all by default")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes and few seeds: minutes in all (default)")
    size.add_argument("--full", action="store_true", help="the sizes of a publication: hours")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of data and starts (default 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: paper_figures/out, and a folder in it for --full or a seed"
    )
    parser.add_argument("--list", action="store_true", help="list the figures and stop")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--redraw", action="store_true", help="measure nothing, draw the numbers that are there")
    again.add_argument("--restart", action="store_true", help="measure again what is there already")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="copy PNG, caption and numbers there, such as docs/images"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that measure")
    parser.add_argument("--json", action="store_true", help="print JSON: the files that were written, or the list")
    return parser


def listed() -> str:
    """Names and first lines."""
    width = max(map(len, FIGURES)) + 2
    return "\n".join(f"  {name:<{width}}{summary(module)}" for name, module in FIGURES.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; the exit status."""
    arguments = make_parser().parse_args(argv)
    unknown = [name for name in arguments.names if name not in FIGURES]
    if unknown:
        return refused(f"no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    if arguments.list:
        chosen = [{"name": name, "summary": summary(module)} for name, module in FIGURES.items()]
        print(json.dumps({"figures": chosen}, indent=2) if arguments.json else listed())
        return 0
    if arguments.seed < 0:
        return refused(f"--seed is {arguments.seed}; an integer of at least 0 is needed")
    if arguments.jobs < 1:
        return refused(f"--jobs is {arguments.jobs}; an integer of at least 1 is needed")
    names, settings = arguments.names or list(FIGURES), Settings(full=arguments.full, seed=arguments.seed)
    folder = folder_of(settings) if arguments.out is None else arguments.out
    try:
        draw_figures(
            names,
            settings,
            folder,
            redraw=arguments.redraw,
            restart=arguments.restart,
            images=arguments.images,
            workers=arguments.jobs,
            console=Console(stderr=True),
        )
    except NothingToDrawError as error:
        return refused(str(error))
    except ImportError as error:
        return refused(f'{error}; install what the figures need: pip install ".[figures,peers,onnx]"')
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(record_of(names, settings, folder), indent=2))
    return 0


def refused(message: str) -> int:
    """One line on stderr, and the exit status of bad input."""
    print(f"paper_figures: error: {message}", file=sys.stderr)
    return 2


def folder_of(settings: Settings) -> Path:
    """Where a figure goes by default.  Each setting has its own place: --quick never overwrites hours of --full."""
    parts = [*(["full"] if settings.full else []), *([f"seed{settings.seed}"] if settings.seed else [])]
    return HERE / "out" / "-".join(parts) if parts else HERE / "out"


def record_of(names: Sequence[str], settings: Settings, folder: Path) -> dict[str, Any]:
    """What was written, for programs."""
    files = {"pdf": "pdf", "png": "png", "numbers": "csv", "settings": "json"}
    figures = [
        {"name": name, **{word: str(folder / f"{name}.{ending}") for word, ending in files.items()}} for name in names
    ]
    return {"full": settings.full, "seed": settings.seed, "figures": figures}


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python must not find out again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
