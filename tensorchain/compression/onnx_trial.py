"""An original ONNX model and its compressed copy side by side in ONNX Runtime: the change of the outputs, and the time.

For each output y of the original and z of the copy, over all calibration inputs,

    error = sqrt(sum |z - y|^2 / sum |y|^2),

and for outputs that are integers, texts or truth values the share of entries that differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorchain.compression.onnx_calibration import Feeds, checked_feeds
from tensorchain.compression.onnx_clock import images_of
from tensorchain.compression.onnx_nodes import time_sessions
from tensorchain.compression.onnx_reading import inputs_of
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.kernels import Array

_RUNS = 9
_SECONDS = 3.0
"""About so long the original runs for the time."""
_MOST_ENTRIES = 1 << 26
_LEAST_SPREAD = 1e-12
"""Of a channel, relative to that of the channel that varies most: below it, its errors are those of rounding."""


@dataclass(frozen=True)
class OutputError:
    """What became of one output.

    Attributes
    ----------
    name : str
        Of the output.
    error : float or None
        Relative to the original's output, or the share of entries that differ where they are no numbers; None where it
        was not measured.
    note : str
        What was not measured, and why; empty otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.OutputError("scores", 0.01).error
    0.01
    """

    name: str
    error: float | None
    note: str = ""


@dataclass(frozen=True)
class Trial:
    """Two models side by side.

    Attributes
    ----------
    outputs : tuple of OutputError
        One entry for each output.
    seconds : tuple of (float, float) or None
        Median times of a run of the original and of the copy, or None where no input could be made.
    bytes : tuple of (int, int)
        Sizes of both.
    calibrated : bool
        Whether the errors are those on calibration inputs.
    images : int or None
        Of the run that was timed.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain import compression
    >>> compression.Trial((compression.OutputError("scores", 0.01),), (1.0, 0.5), (200, 100), True).bytes
    (200, 100)
    """

    outputs: tuple[OutputError, ...]
    seconds: tuple[float, float] | None
    bytes: tuple[int, int]
    calibrated: bool
    images: int | None = None


def try_models(
    original: Any,
    small: Any,
    feeds: Feeds | None = None,
    *,
    sizes: Mapping[str, Sequence[int]] | None = None,
    runs: int = _RUNS,
    threads: int = 0,
) -> Trial:
    """Open both models, run them, and compare.

    Parameters
    ----------
    original, small : onnx.ModelProto
        `onnx.ModelProto` with the same inputs and outputs.
    feeds : Feeds, optional
        Calibration inputs.  Without them the models run once on random inputs, where the sizes are given, and no error
        is reported.
    sizes : mapping of str to sequence of int, optional
        Shapes of inputs that the file leaves open, by name.
    runs : int, optional
        Of each model, for the time; fewer where they are long.
    threads : int, default 0
        Of ONNX Runtime within one operator; 0 leaves it to the runtime.

    Returns
    -------
    Trial

    Raises
    ------
    ImportError
        Without ONNX Runtime.
    ValueError
        Where a model does not open or run, or the copy gives no numbers where the original does.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, LayerPlan
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> first = np.ones((2, 3, 1, 1), np.float32)
    >>> models = [layer_model(LayerPlan("dense", None, (Convolution(w),)), (4, 4)) for w in (first, 1.5 * first)]
    >>> trial = try_models(*models, [{"x": np.ones((2, 3, 4, 4), np.float32)}], runs=2)
    >>> trial.outputs[0].name, trial.outputs[0].error
    ('y', 0.5)
    """
    contents = original.SerializeToString(), small.SerializeToString()
    sessions = [OnnxSession(model, threads=threads) for model in (original, small)]
    sizes_of_files = len(contents[0]), len(contents[1])
    names = [value.name for value in original.graph.output]
    calibrated = feeds is not None
    if feeds is not None:
        feeds = checked_feeds(feeds, inputs_of(original))
    else:
        made = random_feed(original, sizes or {})
        feeds = [] if made is None else [made]
    first = next(iter(feeds), None)
    if first is None:
        nothing = tuple(OutputError(name, None, "the sizes of the inputs are not known") for name in names)
        return Trial(nothing, None, sizes_of_files, False)
    errors = output_errors(sessions[0], sessions[1], feeds)
    start = time.perf_counter()
    sessions[0].run(first)
    most = max(1, int(_SECONDS / (time.perf_counter() - start)))
    before_seconds, after_seconds = time_sessions(sessions, first, runs=min(runs, most), warm=min(2, most))
    if not calibrated:
        errors = [OutputError(name, None, "no calibration inputs") for name in names]
    images = images_of(first, inputs_of(original))
    return Trial(tuple(errors), (before_seconds, after_seconds), sizes_of_files, calibrated, images)


def output_errors(original: OnnxSession, small: OnnxSession, feeds: Feeds) -> list[OutputError]:
    """The error of every output over all feeds; ValueError where the copy gives no numbers."""
    sums = {name: _Sum() for name in original.outputs}
    for feed in feeds:
        before, after = original.run(feed), small.run(feed)
        for name, own in sums.items():
            own.add(before[name], after[name])
    broken = [name for name, own in sums.items() if own.broken]
    if broken:
        raise ValueError(f"output {broken[0]!r} of the compressed model is not finite where that of the original is")
    return [own.result(name) for name, own in sums.items()]


def error_of_outputs(wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """Root of the mean over the channels of all outputs of their squared errors, relative to their deviations.

    Channels lie along the second axis of an output.  A detector has coordinates in pixels in some and scores from 0 to
    1 in others, and each is measured by what it varies itself.  Each output counts alike, however many channels it has.
    """
    parts = []
    for name, first in wanted[0].items():
        if not isinstance(first, np.ndarray) or first.dtype.kind != "f":
            continue
        pairs = [(y[name].astype(np.float64), z[name].astype(np.float64)) for y, z in zip(wanted, found, strict=True)]
        # Each entry of an output may have a mean of its own, where all runs have one shape.
        same = len({y.shape[1:] for y, _ in pairs}) == 1 and first.ndim > 1
        mean = np.concatenate([y for y, _ in pairs]).mean(0) if same else 0.0
        spread = np.sum([_by_channel((y - mean) ** 2, same) for y, _ in pairs], axis=0)
        gap = np.sum([_by_channel((z - y) ** 2, same) for y, z in pairs], axis=0)
        varies = spread > _LEAST_SPREAD * spread.max(initial=0.0)
        if varies.any() and np.isfinite(gap).all():
            parts.append(float(np.mean(gap[varies] / spread[varies])))
    return math.sqrt(sum(parts) / len(parts)) if parts else 0.0


def _by_channel(squares: Array, same: bool) -> Array:
    """Sums over all axes but the second, or over all."""
    if not same:
        return np.atleast_1d(squares.sum())
    return np.asarray(squares.sum(axis=(0, *range(2, squares.ndim))))


class _Sum:
    """The error of one output, summed over feeds."""

    def __init__(self) -> None:
        self.change = self.whole = 0.0
        self.note = ""
        self.broken = False

    def add(self, before: Any, after: Any) -> None:
        """Take in the outputs of one feed."""
        if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
            self.note = "no array"
        elif before.shape != after.shape:
            self.note = f"shape {before.shape} became {after.shape}"
        elif before.dtype.kind == "f":
            y, z = before.astype(np.float64), after.astype(np.float64)
            right = np.isfinite(y)
            self.broken = self.broken or bool((right & ~np.isfinite(z)).any())
            self.change += float(np.sum((z[right] - y[right]) ** 2))
            self.whole += float(np.sum(y[right] ** 2))
        else:
            self.change += float(np.sum(before != after))
            self.whole += before.size
            self.note = "share of entries that differ"

    def result(self, name: str) -> OutputError:
        """Error over all feeds."""
        if self.note and not self.note.startswith("share"):
            return OutputError(name, None, self.note)
        ratio = self.change / self.whole if self.whole > 0.0 else (0.0 if self.change == 0.0 else math.inf)
        return OutputError(name, ratio if self.note else math.sqrt(ratio), self.note)


def random_feed(proto: Any, sizes: Mapping[str, Sequence[int]]) -> dict[str, Array] | None:
    """Standard normal numbers for all inputs, zeros for integers; None where a size is open."""
    rng, feed = np.random.default_rng(0), {}
    for one in inputs_of(proto):
        shape = sizes.get(one.name, one.shape)
        if shape is None or one.dtype is None or one.dtype.kind not in "fiub":
            return None
        # Only the batch may be open: it is 1 then.
        shape = tuple(n or (1 if axis == 0 else 0) for axis, n in enumerate(shape))
        if min(shape, default=1) < 1 or math.prod(shape) > _MOST_ENTRIES:
            return None
        values = rng.standard_normal(shape) if one.dtype.kind == "f" else np.zeros(shape)
        feed[one.name] = np.asarray(values, one.dtype)
    return feed
