"""The smallest ONNX model whose outputs stay near those of the original, without labels.

`compress_onnx_within` bisects the share of the multiplications, or of the parameters, that is kept, on a logarithmic
scale.  Layers are found and measured once; each trial is planned from the curves, fitted, refitted and run.  What is
asked for is the largest relative error of an output (:mod:`tensorchain.compression.onnx_trial`), or the share of places
at which the largest entry of the first output is the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.accounts import unheld_bound
from tensorchain.compression.onnx_calibration import Feeds, checked_feeds
from tensorchain.compression.onnx_prepared import Prepared
from tensorchain.compression.onnx_reading import inputs_of
from tensorchain.compression.onnx_session import OnnxSession
from tensorchain.compression.onnx_trial import output_errors
from tensorchain.compression.report import Report, StepReport
from tensorchain.compression.request import Request


def compress_onnx_within(
    model: str | os.PathLike[str] | Any,
    method: str = "auto",
    *,
    calibration: Feeds,
    max_output_error: float | None = None,
    min_agreement: float | None = None,
    measured_on: Feeds | None = None,
    by: str = "macs",
    trials: int = 6,
    checkpoint: str | os.PathLike[str] | None = None,
    rng: int | np.random.Generator | None = 0,
    **options: Any,
) -> tuple[Any, Report]:
    """The smallest model whose outputs differ from the original's by no more than is allowed.

    Parameters
    ----------
    model, method, checkpoint, rng, options : object
        As in `compress_onnx`.
    calibration : Feeds
        Feeds from which layers are refitted.
    max_output_error : float, optional
        Largest relative error of any output; give this or `min_agreement`.
    min_agreement : float, optional
        Least share of the places of the first output, (B, classes, ...), at which the largest of the classes is the
        same.
    measured_on : Feeds, optional
        Feeds on which the bound has to hold; those of `calibration` by default, which flatters a little.
    by : str, default "macs"
        "macs" or "params": what becomes small.
    trials : int, default 6
        Models that are tried; each halves the range of shares that is left.

    Returns
    -------
    tuple of (onnx.ModelProto, Report)
        `report.steps` holds every trial, with minus the error, or the agreement, as its score.

    Raises
    ------
    ValueError
        When not exactly one bound is given, it is out of range, or no trial holds it; besides as `compress_onnx`.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.compression import Convolution, LayerPlan
    >>> from tensorchain.compression.onnx_nodes import layer_model
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((16, 8, 3, 3)).astype("float32")
    >>> model = layer_model(LayerPlan("dense", None, (Convolution(weight),)), (12, 12))
    >>> feeds = [{"x": rng.standard_normal((16, 8, 12, 12)).astype("float32").cumsum(3)}]
    >>> small, report = compress_onnx_within(model, "svd", calibration=feeds, max_output_error=0.3, trials=4)
    >>> -report.steps[-1].score <= 0.3 or not report.steps[-1].accepted, report.macs[1] < report.macs[0]
    (True, True)
    """
    if (max_output_error is None) == (min_agreement is None):
        raise ValueError("give one of max_output_error and min_agreement")
    name, value = ("max_output_error", max_output_error) if min_agreement is None else ("min_agreement", min_agreement)
    # That all inputs agree may be asked for, an error of nothing may not.
    if value is None or not 0.0 < value <= 1.0 or value == max_output_error == 1.0:
        raise ValueError(f"{name} is {value!r}; a number between 0 and 1 is needed")
    if by not in ("macs", "params"):
        raise ValueError(f"by is {by!r}; 'macs' or 'params' is needed")
    if trials < 1:
        raise ValueError(f"trials is {trials}; at least 1 is needed")
    options["refit"] = options.get("refit") is not False and options.get("weight_bits") is None
    shapes: Mapping[str, Sequence[int]] = options.pop("input_shapes", None) or {}
    shares = (1.0, None) if by == "macs" else (None, 1.0)
    request = Request(method, *shares, **options)
    prepared = Prepared.of(model, request, calibration, shapes, checkpoint=checkpoint, rng=rng)
    feeds = prepared.feeds if measured_on is None else checked_feeds(measured_on, inputs_of(prepared.original))
    low, high = prepared.least_share(request), 1.0
    best: tuple[Any, Report] | None = None
    steps: list[StepReport] = []
    for _ in range(trials):
        # The least share itself is tried when all above it hold.
        middle = math.sqrt(low * high) if best is None or high / low > 1.02 else low
        small, report = prepared.compressed(request.at(middle))
        score = _score(prepared.original, small, feeds or [], min_agreement is not None)
        held = score >= value if min_agreement is not None else -score <= value
        steps.append(StepReport(middle, score, held, report))
        low, high = (low, middle) if held else (middle, high)
        if held:
            best = small, report
        if high / low < 1.01:
            break
    if best is None:
        raise ValueError(unheld_bound(steps, max_output_error, min_agreement))
    return best[0], replace(best[1], steps=tuple(steps))


def _score(original: Any, small: Any, feeds: Feeds, agreement: bool) -> float:
    """The agreement, or minus the largest error of an output."""
    sessions = OnnxSession(original), OnnxSession(small)
    if not agreement:
        errors = [one.error for one in output_errors(*sessions, feeds) if one.error is not None]
        return -max(errors, default=0.0)
    same = count = 0
    for feed in feeds:
        wanted, found = (next(iter(session.run(feed).values())) for session in sessions)
        if wanted.ndim < 2:
            raise ValueError(f"the first output has shape {wanted.shape}; an agreement needs (B, classes, ...)")
        equal = wanted.argmax(1) == found.argmax(1)
        same, count = same + int(equal.sum()), count + equal.size
    return same / max(count, 1)
