"""Time of `import tensorchain` in a fresh process, beside NumPy and SciPy, which it needs, and TensorLy and pyttb.

python -m benchmarks.imports
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.timing import parser, save

STATEMENTS = {
    "(nothing)": "pass",
    "NumPy": "import numpy",
    "NumPy and scipy.linalg": "import numpy, scipy.linalg",
    "tensorchain": "import tensorchain",
    "TensorLy": "import tensorly",
    "pyttb": "import pyttb",
}


def seconds(statement: str) -> float:
    """Time of a fresh interpreter that runs one statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for turn in range(3 if given.quick else 8):
        for name, statement in STATEMENTS.items():
            spent = seconds(statement)
            # The first turn reads the files from disk.
            if turn:
                times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:24} {value:.3f} s")
    save(given.results, "imports", {"seconds": medians}, quick=given.quick)


if __name__ == "__main__":
    main()
