r"""Four networks that people ship, judged by their tasks: what is found again after a compression without labels.

    python -m benchmarks.networks.tasks --boxes 320n.onnx --mask PP-OCRv4_det.onnx --text PP-OCRv4_rec.onnx \
        --notes nmp.onnx [--shares 0.8 0.5] [--only svd tucker2 auto int8] [--method channels] [--epochs 10]

The files are the caller's: a YOLOv8 detector (package nudenet), a detector and a reader of text (rapidocr), a network
that transcribes notes (basic-pitch).  The inputs are made here (:mod:`benchmarks.networks.task_inputs`); one half of
them calibrates, the figures are those of the other half.  All compare with the outputs of the original:

- boxes: share of the original's boxes (score 0.25, after non-maximum suppression) that are found again in the same
  class with an intersection over union of 0.5, and how many boxes are new, for each hundred;
- mask: intersection over union of the pixels above 0.3;
- text: share of the lines that are read alike;
- notes: F1 of the frames above 0.3.

Rows: ONNX Runtime's int8 of the original; SVD and Tucker-2 by hand (:mod:`benchmarks.networks.by_hand`); ours without
and with the refit.  Times are medians of runs in turn, as ratios to the original's; "seconds" is what the compression
took.  "restored": trained by `restore_onnx` on the calibrating half, without labels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import task_inputs
from benchmarks.networks.by_hand import by_hand
from benchmarks.timing import table
from tensorchain.compression import compress_onnx, quantize_onnx, restore_onnx, try_models
from tensorchain.compression.onnx_reading import inputs_of, load_model
from tensorchain.compression.onnx_session import OnnxSession

Array = NDArray[Any]
Outputs = list[list[Array]]
Maker = Callable[[], tuple[Any, tuple[int, int]]]
HEADER = ("task", "what", "MACs", "found again", "error", "bytes", "time", "seconds")
ROWS = ("int8", "svd", "tucker2", "plain", "auto", "restored")
_SCORE, _OVERLAP, _SUPPRESSED = 0.25, 0.5, 0.45
_LIT = 0.3


@dataclass(frozen=True)
class Task:
    """A network with its inputs, and how its outputs are judged.

    Attributes
    ----------
    name : str
        Of the task.
    original : onnx.ModelProto
        The network.
    seen, fresh : list of dict
        Feeds that calibrate, and those that measure.
    judge : function
        From the outputs of the original and of another network to a figure in words.
    """

    name: str
    original: Any
    seen: list[dict[str, Array]]
    fresh: list[dict[str, Array]]
    judge: Callable[[Outputs, Outputs], str]

    def outputs(self, model: Any) -> Outputs:
        """Of the inputs that measure."""
        session = OnnxSession(model)
        return [list(session.run(feed).values()) for feed in self.fresh]


def boxes_found(wanted: Outputs, found: Outputs) -> str:
    """Share of boxes found again, and new ones for each hundred."""
    again = new = whole = 0
    for first, second in zip(wanted, found, strict=True):
        for y, z in zip(first[0], second[0], strict=True):
            goals, boxes = boxes_of(y), boxes_of(z)
            hits = goals[:, None, 5] == boxes[None, :, 5]
            hits &= overlaps(goals, boxes) >= _OVERLAP
            whole, again = whole + len(goals), again + int(hits.any(1).sum())
            new += int((~hits.any(0)).sum())
    return f"{again}/{whole} ({100 * again / max(whole, 1):.0f} %), {100 * new / max(whole, 1):.0f} new"


def boxes_of(output: Array) -> Array:
    """Boxes (n, 6) of left, top, right, bottom, score, class, from (4 + classes, places) of centres and sizes."""
    scores, classes = output[4:].max(0), output[4:].argmax(0)
    order = [k for k in np.argsort(-scores) if scores[k] >= _SCORE]
    x, y, w, h = output[:4, order]
    rows = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, scores[order], classes[order]], 1)
    left: list[int] = []
    for k in range(len(rows)):
        same = [j for j in left if rows[j, 5] == rows[k, 5]]
        if not same or overlaps(rows[k : k + 1], rows[same]).max() < _SUPPRESSED:
            left.append(k)
    return np.asarray(rows[left])


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of all pairs of boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    common = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9))


def mask_overlap(wanted: Outputs, found: Outputs) -> str:
    """Intersection over union of the lit pixels."""
    both = union = 0
    for first, second in zip(wanted, found, strict=True):
        y, z = first[0] > _LIT, second[0] > _LIT
        both, union = both + int((y & z).sum()), union + int((y | z).sum())
    return f"{both / max(union, 1):.3f}"


def text_alike(wanted: Outputs, found: Outputs) -> str:
    """Share of lines read alike."""
    pairs = [
        (read(y), read(z))
        for first, second in zip(wanted, found, strict=True)
        for y, z in zip(first[0], second[0], strict=True)
    ]
    return f"{100 * sum(y == z for y, z in pairs) / len(pairs):.0f} %"


def read(output: Array) -> list[int]:
    """Letters of (steps, letters): repetitions and blanks left out."""
    best = output.argmax(1)
    return [int(k) for n, k in enumerate(best) if k and (n == 0 or k != best[n - 1])]


def frames_f1(wanted: Outputs, found: Outputs) -> str:
    """F1 of the lit frames of the output of notes: of those for 88 keys the one that is lit longest."""
    keys = [n for n, y in enumerate(wanted[0]) if y.shape[-1] == 88]
    lit = {n: sum(float((first[n] > _LIT).sum()) for first in wanted) for n in keys}
    n = max(lit, key=lambda k: lit[k])
    both = sum(float(((y[n] > _LIT) & (z[n] > _LIT)).sum()) for y, z in zip(wanted, found, strict=True))
    every = lit[n] + sum(float((z[n] > _LIT).sum()) for z in found)
    return f"{2 * both / max(every, 1.0):.3f}"


def made(name: str, file: Path, count: int, *, words: bool = True) -> Task:
    """The task of a file, `count` inputs for each half; lines of words, or of random letters."""
    rng = np.random.default_rng(0)
    model = load_model(file)
    inputs: Callable[[], Array] = {
        "boxes": lambda: task_inputs.photographs(2 * count, rng),
        "mask": lambda: task_inputs.pages(count, rng),
        "text": lambda: task_inputs.lines(4 * count, rng, words=words)[0],
        "notes": lambda: task_inputs.notes(2 * count, rng),
    }[name]
    judge = {"boxes": boxes_found, "mask": mask_overlap, "text": text_alike, "notes": frames_f1}[name]
    values, key = inputs(), inputs_of(model)[0].name
    feeds = [{key: values[n : n + 8]} for n in range(0, len(values), 8)]
    return Task(name, model, feeds[::2], feeds[1::2], judge)


def rows_of(
    task: Task, shares: list[float], only: tuple[str, ...], options: dict[str, Any]
) -> Iterator[tuple[str, ...]]:
    """The rows of one task."""
    wanted = task.outputs(task.original)
    yield (task.name, "original", "1", task.judge(wanted, wanted), "0", "1", "1", "")
    makers: list[tuple[str, Maker]] = []
    if "int8" in only:
        makers.append(
            ("int8 of the original", lambda: (quantize_onnx(task.original, task.seen, inner_scales=False), (1, 1)))
        )
    for share in shares:
        makers += [
            (f"{method} by hand, {share:g}", partial(by_hand, task.original, method, share, task.seen[0]))
            for method in ("svd", "tucker2")
            if method in only
        ]
        for row in [row for row in ("plain", "auto", "restored") if row in only]:
            told = {"plain": "not refitted", "auto": "refitted"}.get(row, f"restored, {options['epochs']} epochs")
            makers.append((f"{options['method']}, {share:g}, {told}", partial(ours, task, share, row, options)))
    for told, make in makers:
        start = time.perf_counter()
        try:
            model, macs = make()
        except ValueError as error:
            yield (task.name, f"{told}: {error}", *[""] * (len(HEADER) - 2))
            continue
        seconds = time.perf_counter() - start
        trial = try_models(task.original, model, task.fresh, runs=9)
        errors = [output.error for output in trial.outputs if output.error is not None]
        times = "" if trial.seconds is None else f"{trial.seconds[1] / trial.seconds[0]:.2f}"
        figures = (f"{macs[1] / macs[0]:.2f}", task.judge(wanted, task.outputs(model)), f"{max(errors):.3f}")
        yield (task.name, told, *figures, f"{trial.bytes[1] / trial.bytes[0]:.2f}", times, f"{seconds:.0f}")


def ours(task: Task, share: float, row: str, options: dict[str, Any]) -> tuple[Any, tuple[int, int]]:
    """Our copy, and the multiplications before and after."""
    given = {key: options[key] for key in ("candidates", "stabilise")}
    model, report = compress_onnx(
        task.original, options["method"], keep_macs=share, calibration=task.seen, refit=row != "plain", **given
    )
    if row == "restored":
        model, _ = restore_onnx(task.original, model, task.seen, epochs=options["epochs"])
    return model, report.macs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.tasks", description=__doc__.split("\n")[0])
    for name in ("boxes", "mask", "text", "notes"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE.onnx")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.8, 0.5], help="of the MACs (0.8 0.5)")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows (all)")
    parser.add_argument("--method", default="auto", help="of ours (auto)")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="images of each half; of text twice as many")
    parser.add_argument("--letters", action="store_true", help="lines of random letters in place of words")
    parser.add_argument("--candidates", type=int, default=12, metavar="N", help="ranks on each ladder (12)")
    parser.add_argument(
        "--epochs", type=int, default=10, metavar="N", help="of the row restored, which needs PyTorch (10)"
    )
    parser.add_argument("--stabilise", action="store_true", help="control the sensitivity; slower")
    options = parser.parse_args(arguments)
    given = {
        "epochs": options.epochs,
        "method": options.method,
        "candidates": options.candidates,
        "stabilise": options.stabilise,
    }
    rows: list[tuple[str, ...]] = [HEADER]
    for name in ("boxes", "mask", "text", "notes"):
        file = getattr(options, name)
        if file is None:
            continue
        for row in rows_of(
            made(name, file, options.count, words=not options.letters), options.shares, tuple(options.only), given
        ):
            rows.append(row)
            print(" | ".join(row), file=sys.stderr, flush=True)
    print(table(list(rows[0]), [list(row) for row in rows[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
