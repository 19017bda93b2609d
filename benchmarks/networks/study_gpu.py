"""The papers' experiment on networks that people know, in ten minutes on one GPU: every method, stabilised and plain.

    python -m benchmarks.networks.study_gpu resnet56.safetensors resnet18.safetensors --path images.tar --out results

Reads weights and images as `benchmarks.networks.known` does.  A row is one network, method, fit (stabilised or plain),
number of times fewer multiplications and seed.  Its accuracies, in percent of the test images:

    compressed   the new layers in place, ranks chosen for a refit, and nothing else touched
    refitted     after `refit_network` on `--calibration` training images without labels
    restored     after `--epochs` epochs of `restore` on the training images, cropped and flipped
    bits8 ..     the restored network with weights of 8, 6 and 4 bits (one step a layer, min-max), activations of 8

Rows are done side by side, each by one process that compresses on its processor core and trains on the GPU, which
small networks leave idle most of the time.  They come in the order of their importance, and every finished stage is
written to `<out>/rows.csv` at once: when `--seconds` are over, what is there is there.  A second run goes on with the
rest.

Runs on a processor too, with `--device cpu` and small settings.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import queue
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import replace_file

METHODS = ("tc", "cp3", "btd", "tucker2", "tucker-cp", "auto")
FITS = ("stabilised", "plain")
STAGES = ("compressed", "refitted", "restored", "bits8", "bits6", "bits4")
COLUMNS = (
    "network", "method", "fit", "times", "seed", "dense", *STAGES, "macs", "parameters", "error", "sensitivity",
    "compress_s", "refit_s", "restore_s", "device",
)  # fmt: skip
_WIDE = 5_000_000
"""Parameters above which ranks are chosen by the kernels' own errors, and the refit has fewer sweeps."""


@dataclass(frozen=True)
class Task:
    """One row; `method` is "dense" for the network as it is."""

    network: str
    method: str
    fit: str
    times: float
    seed: int


def tasks(networks: Sequence[str], methods: Sequence[str], times: Sequence[float], seeds: int) -> list[Task]:
    """All rows, the most important first: the first two methods in both fits, other methods, budgets, then seeds."""
    found = [Task(network, "dense", "dense", 1.0, 0) for network in networks]
    head = list(methods[:2])
    for seed, count in itertools.product(range(seeds), times):
        found += [Task(n, m, fit, count, seed) for m in head for fit in FITS for n in networks]
        if seed == 0:
            found += [Task(n, m, "stabilised", count, seed) for m in methods[2:] for n in networks]
    found += [Task(n, m, "plain", count, 0) for count in times for m in methods[2:] for n in networks]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.study_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path, nargs="+", help=".safetensors, the largest network first")
    parser.add_argument("--path", type=Path, required=True, help="folder or tar of train/<class>/*, test/<class>/*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all (540)")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="rows side by side")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--times", type=float, nargs="+", default=[3.0, 5.0], help="fewer multiplications (3 5)")
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS), help="of these (both)")
    parser.add_argument("--seeds", type=int, default=3, help="of the first two methods (3)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.02, help="of `restore`; 0 for its own (0.02)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--images", type=int, default=0, help="training images, 0 for all")
    parser.add_argument("--test", type=int, default=0, help="test images, 0 for all")
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--rows", type=int, default=0, help="most rows, 0 for all")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    # A process has one core: with more threads each they would stand in each other's way.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory() as folder:
        _decode(options, Path(folder))
        print(f"images after {time.monotonic() - begin:.0f} s", flush=True)
        return _run(options, Path(folder), begin + options.seconds)


def _run(options: argparse.Namespace, folder: Path, end: float) -> int:
    import torch.multiprocessing as processes

    wanted = tasks([str(path) for path in options.weights], options.methods, options.times, options.seeds)
    rows = _rows(options.out / "rows.csv")
    wanted = [task for task in wanted if task.fit in ("dense", *options.fits)]
    wanted = [task for task in wanted if not _done(rows.get(_key(asdict(task)), {}))][: options.rows or None]
    context = processes.get_context("spawn")
    waiting, results = context.Queue(), context.Queue()
    for task in wanted:
        waiting.put(task)
    workers = [
        context.Process(target=_work, args=(waiting, results, options, folder), daemon=True)
        for _ in range(min(options.jobs, len(wanted)))
    ]
    for worker in workers:
        waiting.put(None)
        worker.start()
    running = len(workers)
    while running and time.monotonic() < end:
        try:
            found = results.get(timeout=min(max(end - time.monotonic(), 0.01), 1.0))
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                break
            continue
        if found is None:
            running -= 1
            continue
        if "failed" in found:
            print(found["failed"], file=sys.stderr, flush=True)
            continue
        rows[_key(found)] = {**rows.get(_key(found), {}), **{name: str(value) for name, value in found.items()}}
        _write(options.out / "rows.csv", rows)
        print(" ".join(f"{name}={value}" for name, value in found.items()), flush=True)
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    return 0


def _key(row: Any) -> tuple[str, ...]:
    network = Path(str(row["network"])).stem
    return network, *(str(row[name]) for name in ("method", "fit", "times", "seed"))


def _done(row: dict[str, str]) -> bool:
    return bool(row.get("bits4"))


def _rows(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {_key(row): row for row in csv.DictReader(stream)}


def _write(path: Path, rows: dict[tuple[str, ...], dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    replace_file(path, text.getvalue())


def _decode(options: argparse.Namespace, folder: Path) -> None:
    """The images as arrays of bytes in files that every process reads."""
    from benchmarks.networks.known import decoded

    for part, count in (("train", options.images), ("test", options.test)):
        pixels, labels = decoded(options.path, part, count, np.random.default_rng(0), jobs=options.jobs)
        np.save(folder / f"{part}.npy", pixels)
        np.save(folder / f"{part}-labels.npy", labels)


def _work(waiting: Any, results: Any, options: argparse.Namespace, folder: Path) -> None:
    """Rows, one after the other, until none is left."""
    import torch

    torch.set_num_threads(1)
    bench = Bench(options, folder)
    while (task := waiting.get()) is not None:
        try:
            for found in bench.stages(task):
                row = {**asdict(task), "network": Path(task.network).stem, "device": bench.name, **found}
                results.put({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                            | {"times": task.times})  # fmt: skip
        except Exception:  # noqa: PERF203, one row must not end the others
            results.put({"failed": f"{task}\n{traceback.format_exc()}"})
    results.put(None)


class Bench:
    """Images on the device, and what is done with a network there."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        import torch

        self.options, self.device = options, torch.device(options.device)
        self.fast = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device).replace(",", " ") if self.fast else "processor"
        self.parts = {
            part: tuple(
                torch.from_numpy(np.load(folder / f"{part}{end}.npy")).to(self.device) for end in ("", "-labels")
            )
            for part in ("train", "test")
        }

    def stages(self, task: Task) -> Iterator[dict[str, Any]]:
        """What is found, stage by stage."""
        from benchmarks.networks.known import load

        net = load(Path(task.network))
        if task.method == "dense":
            net = net.to(self.device)
            dense = self.accuracy(net)
            yield {"dense": dense}
            yield {"dense": dense, **self.rounded(net)}
            return
        start = time.monotonic()
        small = self.compressed(net, task)
        yield {**self.figures(small), "compressed": self.accuracy(small), "compress_s": time.monotonic() - start}
        start = time.monotonic()
        self.refit(small, net.to(self.device))
        yield {"refitted": self.accuracy(small), "refit_s": time.monotonic() - start}
        start = time.monotonic()
        self.restore(small, task.seed)
        yield {"restored": self.accuracy(small), "restore_s": time.monotonic() - start}
        yield self.rounded(small)

    def compressed(self, net: Any, task: Task) -> Any:
        """The network with new layers, not yet refitted, on the device."""
        from tensorchain.compression.network import Measured
        from tensorchain.compression.progress import Progress
        from tensorchain.compression.request import Request
        from tensorchain.compression.torch_layers import with_plans
        from tensorchain.compression.torch_patches import patch_covariances
        from tensorchain.compression.torch_sites import sites_of

        request = Request(
            task.method, keep_macs=1.0 / task.times, stabilise=task.fit == "stabilised", refit=True,
            candidates=self.options.candidates,
        )  # fmt: skip
        images = self.calibration()
        parameters = sum(parameter.numel() for parameter in net.parameters())
        sites = sites_of(net, images[:1].cpu())
        covariances = None
        if parameters < _WIDE:
            wanted = [site for site in sites if not request.refusal(site)]
            covariances = patch_covariances(net.to(self.device), wanted, lambda: iter(images.split(128)))
        measured = Measured(sites, parameters, covariances)
        plans, report = measured.planned(request, task.seed, Progress(None, ""), None)
        return with_plans(net, plans, report).to(self.device)

    def figures(self, small: Any) -> dict[str, Any]:
        """Sizes, and what the fits have reached."""
        layers = [layer for layer in small.report.layers if layer.error is not None]
        return {
            "macs": small.report.macs[1] / small.report.macs[0],
            "parameters": small.report.parameters[1] / small.report.parameters[0],
            "error": float(np.mean([layer.error for layer in layers])),
            "sensitivity": float(np.median([layer.sensitivity for layer in layers])),
        }

    def refit(self, small: Any, net: Any) -> None:
        """In place."""
        from tensorchain.compression import refit_network

        wide = sum(parameter.numel() for parameter in net.parameters()) >= _WIDE
        images = self.calibration()
        refit_network(small, net, lambda: ((batch, None) for batch in images.split(128)), sweeps=3 if wide else 8)

    def restore(self, small: Any, seed: int) -> None:
        """In place."""
        import torch

        from tensorchain.compression import restore

        if self.fast:
            small.to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(seed)
        restore(
            small, lambda: self.batches(generator), self.options.epochs, rate=self.options.rate or None,
            autocast=torch.bfloat16 if self.fast else None,
        )  # fmt: skip

    def rounded(self, net: Any) -> dict[str, float]:
        """With weights of 8, 6 and 4 bits, one step a layer, and activations of 8."""
        from tensorchain.compression import quantize

        images = self.calibration()[:256]
        options = {"activation_bits": 8, "per_channel": False, "weight_range": "minmax"}
        return {
            f"bits{bits}": self.accuracy(quantize(net, list(images.split(64)), weight_bits=bits, **options))
            for bits in (8, 6, 4)
        }

    def calibration(self) -> Any:
        """Training images, normalised."""
        return self.normalised(self.parts["train"][0][: self.options.calibration])

    def normalised(self, pixels: Any) -> Any:
        """(n, 3, h, w) of bytes (n, h, w, 3)."""
        import torch

        from benchmarks.networks.known import DEVIATION, MEAN

        mean, deviation = (torch.tensor(n, device=self.device).view(1, 3, 1, 1) for n in (MEAN, DEVIATION))
        return (pixels.permute(0, 3, 1, 2).float() / 255.0 - mean) / deviation

    def accuracy(self, net: Any) -> float:
        """Percent of the test images."""
        import torch

        pixels, labels = self.parts["test"]
        net.eval()
        with torch.inference_mode():
            pairs = zip(pixels.split(1000), labels.split(1000), strict=True)
            right = sum((net(self.normalised(batch)).argmax(1) == goal).sum() for batch, goal in pairs)
        return 100.0 * float(right) / len(labels)

    def batches(self, generator: Any) -> Iterator[tuple[Any, Any]]:
        """Training images in random order, moved by up to four pixels and flipped, in groups of 32."""
        import torch

        pixels, labels = self.parts["train"]
        order = torch.randperm(len(pixels), generator=generator).to(self.device)
        for chosen in order.split(self.options.batch):
            images = torch.nn.functional.pad(self.normalised(pixels[chosen]), (4, 4, 4, 4))
            parts = []
            for part in images.split(32):
                down, right, flip = (int(torch.randint(n, (), generator=generator)) for n in (9, 9, 2))
                part = part[:, :, down : down + images.shape[2] - 8, right : right + images.shape[3] - 8]
                parts.append(part.flip(3) if flip else part)
            yield torch.cat(parts), labels[chosen]


if __name__ == "__main__":
    sys.exit(main())
