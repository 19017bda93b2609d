"""`python -m paper_figures [NAME ...] [--quick | --full] [--seed N] [--out DIR]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from paper_figures.catalogue import FIGURES, summary
from paper_figures.results import Settings
from paper_figures.run import NothingToDrawError, draw_figures

HERE = Path(__file__).parent


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    listed = "\n".join(f"  {name:<12}{summary(module)}" for name, module in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Measure and draw the figures: PDF and PNG, with the numbers as CSV beside them.",
        epilog=f"figures:\n{listed}\n\nexample:\n  python -m paper_figures border --full --out figures\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which figures; all by default")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes and few seeds: minutes in all (default)")
    size.add_argument("--full", action="store_true", help="the sizes of a publication: hours")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of data and starts (default 0)")
    parser.add_argument("--out", type=Path, default=HERE / "out", metavar="DIR", help="default: paper_figures/out")
    parser.add_argument("--list", action="store_true", help="list the figures and stop")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--redraw", action="store_true", help="measure nothing, draw the numbers that are there")
    again.add_argument("--restart", action="store_true", help="measure again what is there already")
    parser.add_argument("--images", type=Path, metavar="DIR", help="copy the PNG files there, such as docs/images")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that measure")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        for name, module in FIGURES.items():
            print(f"{name:<12}{summary(module)}")
        return 0
    unknown = [name for name in arguments.names if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    if arguments.seed < 0:
        parser.error(f"--seed is {arguments.seed}; an integer of at least 0 is needed")
    try:
        draw_figures(
            arguments.names or list(FIGURES),
            Settings(full=arguments.full, seed=arguments.seed),
            arguments.out,
            redraw=arguments.redraw,
            restart=arguments.restart,
            images=arguments.images,
            workers=arguments.jobs,
            console=Console(stderr=True),
        )
    except NothingToDrawError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
