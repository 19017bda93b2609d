"""`python -m benchmarks [NAME] [options]` runs one benchmark; without a name it lists them.

Each is a module of its own, `python -m benchmarks.NAME --help` says what it measures.
"""

from __future__ import annotations

import runpy
import subprocess
import sys

ALL = (
    "imports", "sweeps", "sweeps --threads 2", "lm_steps", "memory", "sparse_cp", "sampled_als", "out_of_core",
    "crossover", "growth", "default",
)  # fmt: skip
"""What `all` runs, one process each, before the tables are written."""

NAMES = {
    "all": f"{', '.join(ALL)}, then the tables",
    "sweeps": "sweeps over dense tensors beside TensorLy, pyttb and bare matrix products",
    "lm_steps": "Levenberg-Marquardt iterations on chains beside SciPy",
    "memory": "memory of a fit beyond the tensor",
    "crossover": "where conjugate gradients overtake a Cholesky factor in Levenberg-Marquardt",
    "grid": "factors fitted on the quantization grid beside rounded ones",
    "growth": "how cost grows with size, a figure",
    "imports": "time of the import",
    "tables": "tables from the results of all of these",
    "starts": "how often and how fast random starts succeed, beside TensorLy",
    "stability_speed": "sensitivity, gauge and expected error of a long chain; cycles of the gauge of fitted chains",
    "sparse_cp": "a CP sweep over sparse data, beside pyttb",
    "out_of_core": "a tensor larger than the memory allowed, from disk",
    "sampled_als": "sampled sweeps beside plain ones",
    "networks.study": "every method of compression on a trained network",
    "networks.latency": "speed of compressed networks in ONNX Runtime",
    "default": "expected time to the best error: the default solver beside sweeps, TensorLy and pyttb",
    "gaps": "data with gaps: time and error on entries held out",
    "sizes": "parameters that models need for an error, beside TT-SVD, HOSVD and TensorLy",
    "nonnegative": "non-negative CP beside TensorLy and pyttb",
    "rank_study": "how often a rank study recommends the planted rank",
    "device": "sweeps and the default on one GPU beside TensorLy's CUDA backend, a table with the card's name",
    "degeneracy": "every solver and peer over the suite of degenerate tensors",
}


def main() -> int:
    """Run the benchmark that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        for name, what in NAMES.items():
            print(f"  {name:18} {what}")
        return 0 if len(sys.argv) < 2 else 2
    name = sys.argv.pop(1)
    if name == "all":
        return run_all(sys.argv[1:])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    return 0


def run_all(arguments: list[str]) -> int:
    """Each in a process of its own, so that none inherits another's memory or threads."""
    for name in ALL:
        module, *options = name.split()
        print(f"\n== {name}: {NAMES[module]}\n", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *options, *arguments], check=False)
        if done.returncode:
            return done.returncode
    return 0 if "--quick" in arguments else subprocess.run([sys.executable, "-m", "benchmarks.tables"]).returncode


if __name__ == "__main__":
    sys.exit(main())
