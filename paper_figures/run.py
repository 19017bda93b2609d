"""From names to pictures: measure what is missing, draw, say where it is."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paper_figures.catalogue import FIGURES, summary
from paper_figures.results import Job, Results, Row, Settings, provenance, replace_text
from paper_figures.style import save, style


class NothingToDrawError(Exception):
    """`--redraw` was asked for and there are no numbers."""


def draw_figures(
    names: Sequence[str],
    settings: Settings,
    folder: Path,
    *,
    redraw: bool = False,
    restart: bool = False,
    images: Path | None = None,
    workers: int = 1,
    console: Console,
) -> list[Path]:
    """Draw figures by name.

    Parameters
    ----------
    names : keys of the catalogue.
    folder : where pictures and numbers go; made if needed.
    redraw : measure nothing, draw the numbers that are there.
    restart : measure everything again.
    images : a folder to copy pictures (PNG), captions (TXT) and numbers (CSV, JSON) to.
    workers : processes that measure; figures that show times use one.
    console : where progress is shown.

    Returns
    -------
    list of Path
        The pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for name in names:
        module = FIGURES[name]
        console.print(f"[bold]{name}[/bold]: {summary(module)}", highlight=False)
        if redraw:
            results = Results(folder, name, None)
            if not results.rows:
                raise NothingToDrawError(f"{results.csv}: no numbers to draw; run without --redraw first")
        else:
            results = measure(name, module, settings, folder, restart, workers, console)
        with style():
            saved = save(module.draw(results.rows), folder, name)
        pictures += saved
        # The caption is text beside the picture, which pages and papers set in their own type.
        replace_text(folder / f"{name}.txt", module.describe(results.rows) + "\n")
        console.print("  " + "  ".join(map(str, [*saved, results.csv])), highlight=False, soft_wrap=True, markup=False)
        if images is not None:
            images.mkdir(parents=True, exist_ok=True)
            for ending in ("png", "txt", "csv", "json"):
                shutil.copyfile(folder / f"{name}.{ending}", images / f"{name}.{ending}")
    return pictures


def measure(
    name: str, module: ModuleType, settings: Settings, folder: Path, restart: bool, workers: int, console: Console
) -> Results:
    """Run the jobs of one figure that have no rows yet."""
    described = {"figure": name, "full": settings.full, "seed": settings.seed, **provenance()}
    results = Results(folder, name, {**described, "parameters": module.parameters(settings)})
    if restart:
        results.rows = []
    jobs = list(module.jobs(settings))
    missing = results.missing(jobs)
    bar = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=len(jobs), completed=len(jobs) - len(missing))
        for job, rows in outcomes(missing, 1 if getattr(module, "TIMED", False) else workers):
            results.add(job, rows)
            bar.update(task, advance=1, description=" ".join(map(str, job.key.values())))
    others = ", the others were there" if len(missing) < len(jobs) else ""
    console.print(f"  measured {len(missing)} of {len(jobs)}{others}", highlight=False)
    return results


def outcomes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, list[Row]]]:
    """Jobs with their rows, as they are done."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, job.run()
        return
    # Workers leave Ctrl-C to this process.  They are spawned, for a fork would copy the threads of the bar.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        waiting = {pool.submit(job.run): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
