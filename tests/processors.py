"""Run the numerical tests as other processors would: `python -m tests.processors`.

BLAS and NumPy choose their kernels when they are loaded, by the processor: sums are made in another order with 128, 256
and 512 bits.  A test that holds for one of them by luck fails for the next.  Both libraries can be told to leave out
what the processor offers, so every kernel up to the machine's own can be tried on one machine:

    OPENBLAS_CORETYPE           the processor whose kernels OpenBLAS takes
    NPY_DISABLE_CPU_FEATURES    what NumPy is not to use, out of what it has found

Elsewhere than on x86 there is one kernel, and nothing to choose.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

TESTS = (
    "kernels",
    "evaluation",
    "tensors/test_contract.py",
    "tensors/test_solvers_on_sources.py",
    "tensors/test_masked.py",
    "tensors/test_listed.py",
    "tensors/test_large_cores.py",
    "test_data_classes.py",
    "test_checkpoint.py",
    "test_solvers.py",
    "test_stop_reasons.py",
    "test_gauge.py",
)
"""Where floats are compared closely; the whole suite has run on the machine's own kernels."""

WIDTHS = {"AVX2": ("Haswell", ("AVX512", "X86_V4")), "SSE": ("Nehalem", ("AVX", "FMA3", "F16C", "X86_V3", "X86_V4"))}
"""For each kind of processor the name of one for OpenBLAS, and the beginnings of what NumPy must not use."""


def found_by_numpy() -> list[str]:
    """What NumPy dispatches on, and this machine has."""
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    except ImportError:
        # NumPy 1.
        from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    return [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]


def environment(width: str) -> dict[str, str]:
    """The environment in which the kernels of that width are used."""
    core, beginnings = WIDTHS[width]
    left_out = [name for name in found_by_numpy() if name.startswith(beginnings)]
    # Of the combinations that are tried in part, another part than `make test` takes.
    part = {"TENSORCHAIN_PART": "1"}
    return {**os.environ, **part, "OPENBLAS_CORETYPE": core, "NPY_DISABLE_CPU_FEATURES": " ".join(left_out)}


def main(arguments: list[str]) -> int:
    """Run the tests with kernels of 256 bits, or with ``--every`` once for each width; the rest goes to pytest."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        sys.stdout.write(f"{platform.machine()}: BLAS and NumPy offer one kernel, and `make test` has run on it\n")
        return 0
    worst = 0
    every = "--every" in arguments
    arguments = [argument for argument in arguments if argument != "--every"]
    for width in WIDTHS if every else ("AVX2",):
        sys.stdout.write(f"kernels of {width}\n")
        sys.stdout.flush()
        chosen = [f"tests/{name}" for name in TESTS]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *chosen, *arguments], env=environment(width), check=False
        )
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
