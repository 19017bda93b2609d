"""`python -m benchmarks [NAME] [options]` runs one benchmark; without a name it lists them.

Each is a module of its own, `python -m benchmarks.NAME --help` says what it measures.
"""

from __future__ import annotations

import runpy
import sys

NAMES = {
    "starts": "how often and how fast random starts succeed, beside TensorLy",
    "stability_speed": "sensitivity, gauge and expected error of a long chain",
    "sparse_cp": "a CP sweep over sparse data, beside pyttb",
    "out_of_core": "a tensor larger than the memory allowed, from disk",
    "sampled_als": "sampled sweeps beside plain ones",
    "degeneracy": "every solver and peer over the suite of degenerate tensors",
}


def main() -> int:
    """Run the benchmark that is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        for name, what in NAMES.items():
            print(f"  {name:18} {what}")
        return 0 if len(sys.argv) < 2 else 2
    name = sys.argv.pop(1)
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
