"""Ranks chosen in several steps, and ranks chosen by the accuracy of the network.

**Several steps.**  Large errors are poor guides: the curve of a layer says how far its kernel is moved, not what
training makes of it.  So compress a little, restore, and choose again.  A layer that was decomposed enters the next
step with the kernel that its small convolutions compose now: at its present ranks its error is zero, and lower ones
are measured from there.  With n steps to a share s of the cost, step t goes to s^(t/n).

**By accuracy.**  `evaluate(net)` gives a score, higher is better.  In `compress_in_steps` a step whose restored network
falls below the score of the dense one by more than `max_drop` is undone, and the run ends.  `compress_to_score` is the
greedy one-step choice: all ranks from the uncompressed network, with the smallest budget, found by bisection, at which
the score holds.

Every decision and its evidence stand in `report.steps`.  With `checkpoint` all of it is kept in one file, and an
interrupted run goes on to the same result.

Reference: Kozyrskiy, Phan, "CNN acceleration by low-rank approximation with quantized factors" (2020), sections on rank
selection in one and in several steps; Gusak et al., "Automated multi-stage compression of neural networks" (2019).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tensorchain.compression.latency import Times
from tensorchain.compression.network import untouched
from tensorchain.compression.progress import Progress, digest
from tensorchain.compression.report import StepReport
from tensorchain.compression.request import Request
from tensorchain.compression.torch_clock import TorchClock
from tensorchain.compression.torch_files import of_record, record_of
from tensorchain.compression.torch_inputs import batches_of
from tensorchain.compression.torch_layers import copied, with_plans
from tensorchain.compression.torch_network import measured_of
from tensorchain.compression.torch_sites import sites_of
from tensorchain.kernels import Array

Evaluate = Callable[[Any], float]

_SHRINK = 0.7
"""Share of the present cost that a step keeps when only the accuracy limits it."""


class NoBudgetError(ValueError):
    """No budget that was tried holds the score; `steps` are those that were."""

    def __init__(self, told: str, steps: list[StepReport]) -> None:
        super().__init__(told)
        self.steps = steps


def compress_in_steps(
    net: Any,
    example: Any,
    method: str = "auto",
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    steps: int = 3,
    restoring: Callable[[Any], object] | None = None,
    evaluate: Evaluate | None = None,
    max_drop: float | None = None,
    calibration: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    rng: int = 0,
    **options: Any,
) -> Any:
    """Compress a little, restore, choose again.

    Parameters
    ----------
    net, example, method, calibration, options : object
        As in `compress`.
    keep_macs, keep_params : float, optional
        The final share of the dense network's cost.  With `max_drop` both may be left out: then each step keeps 0.7 of
        the multiplications of the one before, until the score falls too low.
    steps : int, default 3
        Most steps.
    restoring : callable, optional
        Called with the network after each step, to train it in place: `lambda net: restore(net, loader, 1)`.
    evaluate : Evaluate, optional
        Function from a network to its score, higher is better; called once a step, and on `net`.
    max_drop : float, optional
        Largest loss of score; a step that loses more is undone and ends the run.
    checkpoint : str or os.PathLike[str], optional
        File that keeps every curve, fit and step; an interrupted run that is given it again goes on.
    rng : int, default 0
        Seed of fits and, through PyTorch's global generator, of `restoring`.

    Returns
    -------
    torch.nn.Module
        A new module in evaluation mode; `.report.steps` holds what was asked, reached and decided in each step.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        When an option is of another kind.
    ValueError
        When an option is out of range, a budget cannot be met, or the checkpoint belongs to another run.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> small = compress_in_steps(net, torch.randn(1, 8, 9, 9), "tucker2", keep_macs=0.25, steps=2, candidates=3)
    >>> [(round(step.share, 2), step.accepted) for step in small.report.steps]
    [(0.5, True), (0.25, True)]
    >>> small.report.macs[1] <= 0.25 * small.report.macs[0]
    True

    With data: `restoring=lambda net: restore(net, loader, epochs=1)`, `evaluate=accuracy`, `max_drop=0.01`.
    """
    _check(steps, evaluate, max_drop, rng, options)
    if keep_macs is None and keep_params is None and max_drop is not None:
        first = Request(method, _SHRINK, **options)
        shares = [_SHRINK**t for t in range(1, steps + 1)]
    else:
        first = Request(method, keep_macs, keep_params, **options)
        shares = [first.share ** (t / steps) for t in range(1, steps + 1)]
    batches = None if calibration is None else batches_of(calibration, net=net)
    progress = Progress(checkpoint, digest([*_weights(net), first, shares, max_drop, rng]))
    needed = None if max_drop is None or evaluate is None else _dense_score(net, evaluate, progress) - max_drop
    best, done = copied(net).eval(), list[StepReport]()
    for t, share in enumerate(shares):
        own = progress.within(f"step{t}")
        request = first.at(share)
        trial = _restored_step(best, example, request, batches, rng + t, restoring, own)
        score = None if evaluate is None else _score(trial, evaluate, own)
        accepted = needed is None or (score is not None and score >= needed)
        done.append(StepReport(share, score, accepted, trial.report))
        if not accepted:
            break
        best = trial
    if not done[0].accepted:
        sites = sites_of(best, example)
        best.report = untouched(sites, sum(p.numel() for p in net.parameters()), "no step held the score")
    best.report = replace(best.report, steps=tuple(done))
    return best


def compress_to_score(
    net: Any,
    example: Any,
    method: str = "auto",
    *,
    evaluate: Evaluate,
    max_drop: float,
    by: str = "macs",
    trials: int = 6,
    restoring: Callable[[Any], object] | None = None,
    calibration: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    rng: int = 0,
    **options: Any,
) -> Any:
    """The smallest budget, with all ranks chosen from the uncompressed network, at which the score holds.

    Parameters
    ----------
    net, example, method, calibration, checkpoint, rng, options : object
        As in `compress_in_steps`.
    evaluate, max_drop : Evaluate or float
        Function from a network to its score, higher is better, and the largest loss of score.
    by : str, default "macs"
        "macs" or "params", what the budget counts.
    trials : int, default 6
        Budgets that are tried; each halves the range of log shares that is left.
    restoring : callable, optional
        Called with the network of each trial before its score is taken, such as a recalibration; the result of this is
        returned.

    Returns
    -------
    torch.nn.Module
        A new module; `.report.steps` holds every trial.

    Raises
    ------
    ImportError
        Without PyTorch.
    ValueError
        When no trial holds the score, or as `compress_in_steps`.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    >>> images = torch.randn(4, 8, 9, 9)
    >>> score = lambda small: -(small(images) - net(images)).norm() / net(images).norm()
    >>> small = compress_to_score(net, images, "tucker2", evaluate=score, max_drop=0.9, trials=4, candidates=5)
    >>> float(score(small).detach()) >= -0.9, len(small.report.steps)
    (True, 4)
    """
    _check(trials, evaluate, max_drop, rng, options)
    if by not in ("macs", "params"):
        raise ValueError(f"by is {by!r}; 'macs' or 'params' is needed")
    request = Request(method, *((1.0, None) if by == "macs" else (None, 1.0)), **options)
    measured = measured_of(net, example, request, None if calibration is None else batches_of(calibration, net=net))
    progress = Progress(checkpoint, digest([*_weights(net), measured.problem(request, rng), max_drop, by]))
    needed = _dense_score(net, evaluate, progress) - max_drop
    low, high = measured.least_share(request, rng, progress), 1.0
    best, done = None, list[StepReport]()
    for n in range(trials):
        share = math.sqrt(low * high)
        asked, own = request.at(share), progress.within(f"trial{n}")

        def planned(asked: Request = asked) -> Any:
            return with_plans(net, *measured.planned(asked, rng, progress, Times(TorchClock(net, example), net)))

        trial = _restored(net, planned, rng, restoring, own)
        score = _score(trial, evaluate, own)
        done.append(StepReport(share, score, score >= needed, trial.report))
        if done[-1].accepted:
            best, high = trial, share
        else:
            low = share
    if best is None:
        tried = ", ".join(f"{step.share:.3f}: {step.score:.4f}" for step in done)
        told = f"no budget held the score {needed:.4f} (share: score: {tried}); allow a larger max_drop"
        raise NoBudgetError(told, done)
    best.report = replace(best.report, steps=tuple(done))
    return best


def _weights(net: Any) -> list[Any]:
    """The arrays of a network, by which a checkpoint knows it."""
    return [_array(value) for value in net.state_dict().values()]


def _array(value: Any) -> Array:
    """A tensor as an array; of a type that NumPy lacks in single precision, which holds it exactly."""
    import torch

    value = value.detach().cpu()
    return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def _restored_step(
    net: Any, example: Any, request: Request, batches: Any, seed: int, restoring: Any, progress: Progress
) -> Any:
    """A network one step further, restored."""

    def planned() -> Any:
        plans, report = measured_of(net, example, request, batches).planned(
            request, seed, progress, Times(TorchClock(net, example), net)
        )
        before = {layer.name: layer for layer in getattr(net, "report", report).layers}
        # A layer that stays as an earlier step left it keeps what that step reported.
        layers = tuple(layer if layer.name in plans else before[layer.name] for layer in report.layers)
        return with_plans(net, plans, replace(report, layers=layers))

    return _restored(net, planned, seed, restoring, progress)


def _restored(before: Any, planned: Callable[[], Any], seed: int, restoring: Any, progress: Progress) -> Any:
    """The network that `planned` makes of the one before, after `restoring`; from the checkpoint if it is there."""
    import torch

    found = progress.get("restored")
    if found is not None:
        record, arrays = found
        return of_record(before, record, {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
    small = planned()
    if restoring is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            restoring(small)
        small.eval()
    progress.put("restored", record_of(small), {name: _array(value) for name, value in small.state_dict().items()})
    return small


def _dense_score(net: Any, evaluate: Evaluate, progress: Progress) -> float:
    return _score(copied(net).eval(), evaluate, progress.within("dense"))


def _score(net: Any, evaluate: Evaluate, progress: Progress) -> float:
    """The score of a network; from the checkpoint if it is there."""
    found = progress.get("score")
    if found is not None:
        return float(found[0])
    import torch

    with torch.no_grad():
        score = float(evaluate(net))
    if not math.isfinite(score):
        raise ValueError(f"evaluate returned {score!r}; a finite number, higher is better, is needed")
    progress.put("score", score)
    return score


def _check(count: int, evaluate: Any, max_drop: float | None, rng: Any, options: Mapping[str, Any]) -> None:
    if "keep_latency" in options:
        raise ValueError("keep_latency is a budget of `compress` alone; give keep_macs or keep_params here")
    if count < 1:
        raise ValueError(f"{count!r} steps were asked for; 1 or more are needed")
    if max_drop is not None and (evaluate is None or not max_drop >= 0.0):
        raise ValueError(f"max_drop is {max_drop!r}; it needs a number >= 0, and evaluate=, a function of the network")
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng is {rng!r}; an integer is needed here, so that a run can be continued")
