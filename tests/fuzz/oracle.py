"""Judgement of a random fit: a clear error, or a Fit that an independent computation in extended precision confirms."""

from __future__ import annotations

import math
import traceback
import warnings
from typing import Any

import numpy as np

import tensorchain as tc
from tests import judge
from tests.fuzz.problems import Drawn, drawn

_SMALL = 3000
"""Parameters times entries up to which the sensitivity is computed entry by entry."""
_JUDGED = 6000
"""The same up to which the conditions of optimality are."""
_LEFT = 2e-5
"""Relative decrease of the Lagrangian that blocks may leave where a run says that it converged."""


def complaints(seed: int) -> tuple[str, list[str]]:
    """How the fit of a seed ended, and what is wrong with it: nothing, one hopes."""
    problem = drawn(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            data = problem.data() if callable(problem.data) else problem.data
            fit = tc.decompose(data, **problem.arguments)
        except (ValueError, TypeError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = []
            if "tensorchain" not in where.filename:
                found.append(f"raised in {where.filename}:{where.lineno}: {error}")
            if not 20 < len(str(error)) < 600:
                found.append(f"a message of {len(str(error))} characters: {str(error)[:100]}")
            return "refused", [f"{problem.words}: {text}" for text in found]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}"
            return "crashed", [f"{problem.words}: {text}"]
    return fit.reason.name, [f"{problem.words}: {text}" for text in wrong(problem, fit)]


def wrong(problem: Drawn, fit: Any) -> list[str]:
    """What an independent computation finds wrong with a fit."""
    found = []
    model, single = fit.model, fit.model.dtype == np.float32
    if not all(np.all(np.isfinite(block)) for block in model.blocks):
        return ["the model is not finite"]
    with np.errstate(all="ignore"):
        error = _relative_error(problem, model)
        if not _near(fit.error, error, 2e-3 if single else 1e-6, 1e-5 if single else 1e-9):
            found.append(f"error {fit.error:.9g}, and it is {error:.9g}")
        if model.n_parameters * math.prod(model.shape) <= _SMALL:
            sensitivity = float(_sensitivity(model))
            # Terms that cancel leave their rounding behind.
            sizes = [float(np.sum(np.abs(block.astype(np.complex128)) ** 2)) for block in model.blocks]
            terms = sum(block.size * math.prod(sizes[:k] + sizes[k + 1 :]) for k, block in enumerate(model.blocks))
            if not _near(fit.sensitivity, sensitivity, 1e-4 if single else 1e-7, 1e-14 * terms + 1e-300):
                found.append(f"sensitivity {fit.sensitivity:.9g}, and it is {sensitivity:.9g}")
    constraint = tc.solvers.Free() if problem.arguments["constraint"] is None else problem.arguments["constraint"]
    if fit.reason.success and constraint.free and fit.error > 1.0 + 1e-6:
        found.append(f"{fit.reason.name} with error {fit.error:.6g}, worse than zero")
    below = [k for k in judge.restricted(model, constraint) if np.min(model.matrices[k]) < 0.0]
    found += [f"block {k} is negative" for k in below]
    if fit.reason is tc.StopReason.EXACT and fit.error > (1e-4 if single else 1e-7):
        found.append(f"EXACT with error {fit.error:.3g}")
    if len(fit.history) and not np.all(np.isfinite(fit.history.error)):
        found.append("the history is not finite")
    if model.n_parameters * math.prod(model.shape) <= _JUDGED:
        with np.errstate(all="ignore"):
            found += optimality(problem, fit, constraint, single)
    repr(fit)
    return found


def optimality(problem: Drawn, fit: Any, constraint: Any, single: bool) -> list[str]:
    """What is wrong with the reason: bounds that are met or not, and the conditions of Karush, Kuhn and Tucker."""
    found = []
    truth = judge.measured(fit.model, problem.values, constraint, problem.weights)
    gap, slack = truth.merit[0], 1e-4 if single else 2e-6
    if not _near(fit.gap, gap, slack, slack):
        found.append(f"gap {fit.gap:.6g}, and it is {gap:.6g}")
    if fit.reason.success and gap > slack:
        found.append(f"{fit.reason.name}, and a bound is missed by {gap:.3g}")
    if fit.reason is tc.StopReason.INFEASIBLE and gap <= 1e-9:
        found.append("INFEASIBLE, and the bounds are met")
    if fit.reason is tc.StopReason.CONVERGED and truth.error > (1e-4 if single else 1e-9):
        left = judge.block_decrease(fit.model, problem.values, constraint, problem.weights)
        if left > (1e-3 if single else max(_LEFT, 3.0 * getattr(problem.arguments["solver"], "tol", 0.0))):
            found.append(f"CONVERGED, and blocks take off {left:.3g}")
    return found


def _near(one: float, other: float, relative: float, absolute: float) -> bool:
    if not math.isfinite(other):
        return not math.isfinite(one)
    return abs(one - other) <= relative * abs(other) + absolute


def _relative_error(problem: Drawn, model: Any) -> float:
    """||T - X||_W / ||T||_W, entry by entry."""
    seen = problem.weights > 0
    weights = np.where(seen, problem.weights, 0.0).astype(np.longdouble)
    values = np.where(seen, problem.values, 0)
    top = np.max(np.abs(values))
    difference = np.where(seen, (values - whole(model)) / top, 0)
    return float(np.sqrt(np.sum(weights * np.abs(difference) ** 2) / np.sum(weights * np.abs(values / top) ** 2)))


def whole(model: Any, blocks: Any = None) -> Any:
    """The tensor of a model in extended precision, by products of its blocks one after the other."""
    blocks = model.blocks if blocks is None else blocks
    given = [np.asarray(b).astype(np.clongdouble if np.iscomplexobj(b) else np.longdouble) for b in blocks]
    if type(model) is tc.TensorChain:
        value = given[0]
        for core in given[1:]:
            value = np.sum(value[..., :, None, None] * core[(None,) * (value.ndim - 1)], axis=-3)
        return np.trace(value, axis1=0, axis2=-1)
    if type(model) is tc.CP:
        total = 0
        for r in range(given[0].shape[1]):
            term = np.ones((), dtype=given[0].dtype)
            for factor in given:
                term = np.multiply.outer(term, factor[:, r])
            total = total + term
        return total
    ranks = [model.rank] if type(model) is tc.Tucker else model.rank
    total, entry, columns = 0, 0, [0] * model.order
    core = given[0].ravel()
    for rank in ranks:
        value = core[entry : entry + math.prod(rank)].reshape(rank)
        entry += math.prod(rank)
        for n, factor in enumerate(given[1:]):
            chosen = factor[:, columns[n] : columns[n] + rank[n]]
            columns[n] += rank[n]
            moved = np.moveaxis(value, n, -1)
            value = np.moveaxis(np.sum(moved[..., None, :] * chosen, axis=-1), -1, n)
        total = total + value
    return total


def _sensitivity(model: Any) -> Any:
    """The sum of squares of all derivatives, one parameter after the other."""
    total = np.longdouble(0)
    for k, block in enumerate(model.blocks):
        for j in range(block.size):
            unit = np.zeros(block.size)
            unit[j] = 1.0
            moved = [*model.blocks[:k], unit.reshape(block.shape), *model.blocks[k + 1 :]]
            total += np.sum(np.abs(whole(model, moved)) ** 2)
    return total
