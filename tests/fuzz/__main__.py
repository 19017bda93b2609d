"""Thousands of random problems: `python -m tests.fuzz fits 10000 --first 0`; also models, checkpoints, kills, all.

Prints what is wrong, one line each, and ends with status 1 if anything is.  A line names the seed, and
`python -m tests.fuzz fits 1 --first SEED` runs that one again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import tensorchain as tc
from tensorchain.solvers import checkpoint as module
from tests.fuzz.damage import MARK, mutant, outcome, tensor_mutant
from tests.fuzz.oracle import complaints

DATA = np.random.default_rng(0).standard_normal((4, 5, 3))
RUNS: list[tuple[str, Any, Any, int]] = [
    ("cp", 3, tc.LM(max_iter=30, tol=1e-15), 1),
    ("tucker", (2, 2, 2), tc.ALS(max_iter=20, tol=1e-16), 2),
    ("tc", 2, tc.Path(max_iter=15, stage_iter=8), 2),
]


def fits(seeds: Iterable[int], *, show: bool = False) -> tuple[Counter[str], list[str]]:
    """How the fits of some seeds ended, and what is wrong with them."""
    counts: Counter[str] = Counter()
    found: list[str] = []
    for seed in seeds:
        reason, wrong = complaints(seed)
        counts[reason] += 1
        found += wrong
        for line in wrong if show else ():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return counts, found


def models(seeds: Iterable[int], folder: Path) -> list[str]:
    """What is wrong with how damaged model files are read."""
    files = []
    for model, rank, dtype in (("cp", 2, float), ("tucker", (2, 1, 2), complex), ("tc", 2, np.float32)):
        fit = tc.decompose(DATA.astype(dtype), model, rank, solver=tc.ALS(max_iter=3), rng=0, starts=2, jobs=1)
        for ending in (".npz", ".safetensors"):
            fit.save(folder / f"{model}{ending}")
            files.append(folder / f"{model}{ending}")
    return _damaged(seeds, files, tc.load)


def checkpoints(seeds: Iterable[int], folder: Path) -> list[str]:
    """What is wrong with how runs go on from damaged checkpoints."""
    found = []
    old, module._INTERVAL = module._INTERVAL, 0.0
    try:
        for position, (model, rank, solver, starts) in enumerate(RUNS):
            path = folder / f"{model}.ckpt"
            arguments = {"model": model, "rank": rank, "solver": solver, "starts": starts, "rng": 0}

            def stop(iterate: Any, path: Path = path) -> bool:
                return path.exists() and iterate.iteration > 2

            tc.decompose(DATA, **arguments, checkpoint=path, callback=stop)

            def resume(path: Path, arguments: dict[str, Any] = arguments) -> Any:
                with warnings.catch_warnings():
                    # One that is damaged beyond reading, and written anew, is no news here.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    return tc.decompose(DATA, **arguments, checkpoint=path)

            found += _damaged([seed for seed in seeds if seed % len(RUNS) == position], [path], resume)
    finally:
        module._INTERVAL = old
    return found


def _damaged(seeds: Iterable[int], files: list[Path], read: Any) -> list[str]:
    found = []
    for seed in seeds:
        rng = np.random.default_rng([43, seed])
        source = files[seed % len(files)]
        change = tensor_mutant if source.suffix == ".safetensors" else mutant
        path = source.with_name(f"damaged{source.suffix}")
        path.write_bytes(change(source.read_bytes(), rng))
        began = time.monotonic()
        wrong = outcome(read, path)
        if time.monotonic() - began > 20.0:
            wrong = wrong or "it took long"
        if Path(MARK).exists():
            wrong = "a pickle ran"
        if wrong:
            found.append(f"seed {seed}, {source.name}: {wrong}")
    return found


RUN = """
import sys, numpy as np, tensorchain as tc
from tensorchain.solvers import checkpoint
from tests.fuzz.__main__ import DATA, RUNS
checkpoint._INTERVAL = 0.0
model, rank, solver, starts = RUNS[int(sys.argv[1])]
fit = tc.decompose(DATA, model, rank, solver=solver, starts=starts, rng=1, checkpoint=sys.argv[2])
fit.save(sys.argv[3])
"""


def kills(seeds: Iterable[int], folder: Path, times: int = 2) -> list[str]:
    """What is wrong with runs that are killed and go on: the result has to be that of one that was not."""
    found = []
    for seed in seeds:
        chosen = random.Random(seed)
        number = seed % len(RUNS)
        model, rank, solver, starts = RUNS[number]
        whole = tc.decompose(DATA, model, rank, solver=solver, starts=starts, rng=1, jobs=1)
        state, out = folder / f"{seed}.ckpt", folder / f"{seed}.npz"
        command = [sys.executable, "-c", RUN, str(number), str(state), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        for _ in range(times):
            process = subprocess.Popen(command, env=environment)
            until = time.monotonic() + 60.0
            while process.poll() is None and not state.exists() and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(chosen.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            found.append(f"seed {seed}: {done.stderr[-300:]}")
            continue
        fit = tc.load(out)
        if fit.error != whole.error or not np.array_equal(fit.history.error, whole.history.error):
            found.append(f"seed {seed}: {model} ends with error {fit.error!r}, and without a kill with {whole.error!r}")
        left = [path.name for path in folder.iterdir() if path.name.startswith(".tensorchain")]
        if left:
            found.append(f"seed {seed}: left behind {left}")
    return found


def main() -> int:
    """Run one kind, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["fits", "models", "checkpoints", "kills", "all"])
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder, seeds = Path(name), range(options.first, options.first + options.count)
        if options.kind in ("fits", "all"):
            counts, wrong = fits(seeds, show=True)
            sys.stdout.write(", ".join(f"{reason} {count}" for reason, count in counts.most_common()) + "\n")
            found += wrong
        if options.kind in ("models", "all"):
            found += models(seeds[: max(1, len(seeds) // (5 if options.kind == "all" else 1))], folder)
        if options.kind in ("checkpoints", "all"):
            found += checkpoints(seeds[: max(1, len(seeds) // (10 if options.kind == "all" else 1))], folder)
        if options.kind in ("kills", "all"):
            found += kills(seeds[: max(1, len(seeds) // (50 if options.kind == "all" else 1))], folder)
    sys.stdout.write("".join(line + "\n" for line in found) + f"{len(found)} things are wrong\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
