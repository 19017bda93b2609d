"""Processor time and memory of `compress` for networks of full width, without a refit.

    python -m benchmarks.networks.full_width [resnet18.safetensors ...] [--methods tc cp3 auto] [--share 0.33]

Networks are those that `benchmarks.networks.known` reads; `resnet50`, the default, has random weights.  Each run has a
process of its own, so that its peak of memory is its own; seconds are processor time, of all threads and processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import table

_RUN = """
import resource, sys, time, torch
from pathlib import Path
from benchmarks.networks import known
from tensorchain.compression import compress

name, method, share, plain, jobs = sys.argv[1:]
torch.manual_seed(0)
large = name == "resnet50"
net = known.resnet50() if large else known.load(Path(name))
start, clock = time.process_time(), time.perf_counter()
side = 224 if large else 32
report = compress(
    net, torch.zeros(1, 3, side, side), method, keep_macs=float(share), stabilise=plain == "0", jobs=int(jobs)
).report
clock = time.perf_counter() - clock
if jobs != "1":
    # Of processes that have not ended the system tells no times.
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.process_time() - start + others.ru_utime + others.ru_stime
error = (sum(layer.error**2 for layer in report.layers if layer.error is not None)
         / max(sum(layer.error is not None for layer in report.layers), 1)) ** 0.5
print(f"{seconds:.0f}", f"{clock:.0f}", f"{max(own.ru_maxrss, others.ru_maxrss) / 1024:.0f}",
      f"{report.macs[1] / report.macs[0]:.3f}", f"{error:.3f}")
"""
HEADER = ["network", "method", "processor, s", "clock, s", "MB", "MACs", "error"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks.full_width", description=__doc__.split("\n")[0]
    )
    parser.add_argument("networks", nargs="*", default=["resnet50"], help=".safetensors, or resnet50")
    parser.add_argument("--methods", nargs="+", default=["tc"])
    parser.add_argument("--share", type=float, default=0.33, help="of the multiplications (0.33)")
    parser.add_argument("--plain", action="store_true", help="fits without control of the sensitivity")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = []
    for name in options.networks:
        for method in options.methods:
            given = [name, method, str(options.share), str(int(options.plain)), str(options.jobs)]
            done = subprocess.run([sys.executable, "-c", _RUN, *given], check=True, capture_output=True, text=True)
            rows.append([Path(name).stem, method, *done.stdout.split()])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
