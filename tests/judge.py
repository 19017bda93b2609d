"""What a Fit says, computed again by other means: einsum in extended precision, explicit Jacobians, differences.

Nothing here asks the package for more than the blocks of a model.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear, nnls

import tensorchain as tc
from tensorchain.fit import StopReason

LIMITS = (StopReason.ITERATION_LIMIT, StopReason.TIME_LIMIT, StopReason.CALLBACK, StopReason.INTERRUPTED)


# -- the tensor and SS of blocks, one einsum a term -----------------------------------------


def terms(model: Any) -> list[tuple[str, list[Callable[[Any], Any]]]]:
    """(subscripts, how each matrix is cut) of every term, written by hand for each model; in order of the matrices."""
    modes = string.ascii_uppercase[: model.order]
    if isinstance(model, tc.CP):
        return [(",".join(f"{m}r" for m in modes) + f"->{modes}", [lambda matrix: matrix] * model.order)]
    if isinstance(model, tc.TensorChain):
        bonds = string.ascii_lowercase[: model.order]
        letters = [f"{bonds[n]}{m}{bonds[(n + 1) % model.order]}" for n, m in enumerate(modes)]
        # Matrix form: mode first.
        inputs = [f"{text[1]}{text[0]}{text[2]}" for text in letters]
        shapes = [(model.rank[n], model.rank[(n + 1) % model.order]) for n in range(model.order)]
        return [(",".join(inputs) + f"->{modes}", [_reshaped(shape) for shape in shapes])]
    ranks = [model.rank] if isinstance(model, tc.Tucker) else list(model.rank)
    letters = string.ascii_lowercase[: model.order]
    subscripts = ",".join([letters, *(m + a for m, a in zip(modes, letters, strict=True))]) + f"->{modes}"
    found: list[tuple[str, list[Callable[[Any], Any]]]] = []
    at_core, at = 0, [0] * model.order
    for rank in ranks:
        size = int(np.prod(rank))
        cuts: list[Callable[[Any], Any]] = [_core(at_core, size, tuple(rank))]
        cuts += [_columns(a, r) for a, r in zip(at, rank, strict=True)]
        found.append((subscripts, cuts))
        at_core += size
        at = [a + r for a, r in zip(at, rank, strict=True)]
    return found


def _reshaped(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda matrix: matrix.reshape(len(matrix), *shape)


def _core(start: int, size: int, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda matrix: matrix[0, start : start + size].reshape(shape)


def _columns(start: int, count: int) -> Callable[[Any], Any]:
    return lambda matrix: matrix[:, start : start + count]


def ordered(model: Any) -> list[int]:
    """Positions of the matrices in the order that `terms` has: cores first, then modes."""
    modes = list(model.network.modes)
    cores = [k for k, mode in enumerate(modes) if mode is None]
    return cores + [modes.index(n) for n in range(model.order)]


def full(model: Any, matrices: Sequence[Any] | None = None) -> Any:
    """X."""
    matrices = model.matrices if matrices is None else matrices
    order = ordered(model)
    return sum(
        np.einsum(text, *(cut(matrices[k]) for cut, k in zip(cuts, order, strict=True))) for text, cuts in terms(model)
    )


def sensitivity(model: Any, matrices: Sequence[Any] | None = None) -> float:
    """SS = sum_k ||dX / dB_k||_F^2: what is left of the network without block k, times the rows of the block."""
    matrices = model.matrices if matrices is None else matrices
    order, total = ordered(model), 0.0
    for text, cuts in terms(model):
        inputs = text.split("->")[0].split(",")
        for leave in range(len(order)):
            left = [n for n in range(len(order)) if n != leave]
            letters = "".join(dict.fromkeys("".join(inputs[n] for n in left)))
            # Letters that the block shares with one neighbour alone stay open; a shared hyperedge stays too.
            wanted = "".join(c for c in letters if c in inputs[leave] or c in text.split("->")[1])
            part = np.einsum(
                ",".join(inputs[n] for n in left) + f"->{wanted}", *(cuts[n](matrices[order[n]]) for n in left)
            )
            # A bond of the block that no other block carries (order 1 remainders) does not occur here.
            total += len(matrices[order[leave]]) * float(np.sum(np.abs(part) ** 2))
    return float(total)


def jacobian(model: Any) -> list[Any]:
    """dX / dB_k, (entries, I_k P_k), column by column."""
    blocks = []
    for k, matrix in enumerate(model.matrices):
        columns = []
        for position in range(matrix.size):
            unit = np.zeros_like(matrix)
            unit.flat[position] = 1.0
            changed = [unit if j == k else other for j, other in enumerate(model.matrices)]
            columns.append(full(model, changed).ravel())
        blocks.append(np.stack(columns, axis=1))
    return blocks


def sensitivity_parts(model: Any, k: int) -> tuple[Any, Any]:
    """Half the gradient of SS in block k, and half its second derivative, by differences (SS is quadratic there)."""
    matrix = model.matrices[k]
    units = []
    for position in range(matrix.size):
        for one in (1.0, 1j) if matrix.dtype.kind == "c" else (1.0,):
            unit = np.zeros_like(matrix)
            unit.flat[position] = one
            units.append(unit)

    def at(change: Any) -> float:
        return sensitivity(model, [matrix + change if j == k else m for j, m in enumerate(model.matrices)])

    size = float(np.linalg.norm(matrix)) / np.sqrt(matrix.size) or 1.0
    gradient = np.array([(at(size * u) - at(-size * u)) / (4.0 * size) for u in units])
    # The second derivative does not depend on block k, and rows do not mix: from the values around zero.
    zero = at(-matrix)
    width = matrix.shape[1]
    per_row = len(units) // len(matrix)
    row = units[:per_row]
    hessian = np.empty((per_row, per_row))
    single = [at(u - matrix) - zero for u in row]
    for a in range(per_row):
        for b in range(per_row):
            hessian[a, b] = 0.5 * (at(row[a] + row[b] - matrix) - zero - single[a] - single[b])
    del width
    return gradient, np.kron(np.eye(len(matrix)), hessian)


# -- what a constraint asks for -------------------------------------------------------------


@dataclass
class Asked:
    """minimise error^2 * e + SS * s subject to bounds on error and SS, in units of T / ||T||."""

    error: float = 1.0
    sensitivity: float = 0.0
    most_error: float = np.inf
    most_sensitivity: float = np.inf

    def merit(self, error: float, ss: float) -> tuple[float, float]:
        gap = max(error / self.most_error - 1.0, ss / self.most_sensitivity - 1.0)
        # Written so that what is not a number stays one.
        return (0.0 if gap <= 1e-6 else gap), self.error * error**2 + self.sensitivity * ss


def asked(constraint: Any, norm: Any, blocks: int) -> Asked:
    """In units of T / ||T||: exponents written here once more; `norm` of any size, in extended precision."""
    found, norm = Asked(), np.longdouble(norm)

    def number(value: Any) -> float:
        # Beyond 1e150 nothing changes: the blocks are zero, or a bound is met.
        return float(np.clip(value, np.finfo(float).tiny, 1e150)) if value > 0 else float(value)

    parts = getattr(constraint, "constraints", (constraint,))
    if any(isinstance(part, tc.ErrorBound) for part in parts):
        found.error, found.sensitivity = 0.0, 1.0
    for part in parts:
        if isinstance(part, tc.Penalty) and found.error:
            found.sensitivity += number(part.weight * norm ** np.longdouble(-2.0 / blocks))
        if isinstance(part, tc.SensitivityBound):
            unit = part.limit * norm ** np.longdouble(-2.0 * (blocks - 1) / blocks)
            found.most_sensitivity = min(found.most_sensitivity, number(unit))
        if isinstance(part, tc.ErrorBound):
            found.most_error = min(found.most_error, part.limit)
    return found


@dataclass
class Truth:
    """A model measured again, in units of T / ||T||."""

    error: float
    sensitivity: float
    merit: tuple[float, float]
    model: Any = field(repr=False)


def wide(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.clongdouble if array.dtype.kind == "c" else np.longdouble)


def measured(model: Any, tensor: Any, constraint: Any, weights: Any = None) -> Truth:
    """Error and SS in extended precision; `weights` says how much each entry counts, a mask which ones do."""
    root = _root(tensor, weights)
    T = _weighted(tensor, root)
    norm = _norm(T)
    blocks = len(model.matrices)
    # Of norm one, so that nothing overflows: a block is as large as its share of X.
    share = norm ** np.longdouble(-1.0 / blocks)
    matrices = [wide(m) * share for m in model.matrices]
    error = float(_norm(T / norm - full(model, matrices) * root))
    ss = sensitivity(model, matrices)
    return Truth(error, ss, asked(constraint, norm, blocks).merit(error, ss), model)


def block_decrease(model: Any, tensor: Any, constraint: Any, weights: Any = None) -> float:
    """What the best change of each block alone takes off the Lagrangian, relative to it, at its best multipliers.

    That is the residual of the conditions of Karush, Kuhn and Tucker in units of the objective.  The multipliers are
    the non-negative numbers for which the gradients of the bounds that bind, times these, come closest to the negative
    gradient of the objective; entries of a block that may not be negative, and are zero, move one way only.
    """
    root = _root(tensor, weights)
    T = _weighted(tensor, root)
    norm = _norm(T)
    count = len(model.matrices)
    want = asked(constraint, norm, count)
    double = np.complex128 if model.dtype.kind == "c" else np.float64
    share = norm ** np.longdouble(-1.0 / count)
    model = model.astype(double).with_matrices([(wide(m) * share).astype(double) for m in model.matrices])
    held = restricted(model, constraint)
    seen = root.astype(float).ravel()
    residual = (T / norm).astype(double).ravel() - full(model).ravel() * seen
    error, ss = float(np.linalg.norm(residual)), sensitivity(model)
    gradients: list[tuple[Any, Any]] = []
    curvatures: list[tuple[Any, Any]] = []
    floors: list[Any] = []
    for k, J in enumerate(jacobian(model)):
        J = J * seen[:, None]
        if model.dtype.kind == "c":
            J = np.stack([J, 1j * J], axis=2).reshape(len(J), -1)
        J, r = np.concatenate([J.real, J.imag]), np.concatenate([residual.real, residual.imag])
        v, A = sensitivity_parts(model, k)
        gradients.append((-(J.T @ r), v))
        curvatures.append((J.T @ J, A))
        floors.append(-model.matrices[k].ravel() if k in held else np.full(len(v), -np.inf))
    multipliers = [want.error, want.sensitivity]
    active = []
    if error >= want.most_error * (1 - 1e-3):
        active.append(0)
    if ss >= want.most_sensitivity * (1 - 1e-3):
        active.append(1)
    if active:
        target = np.concatenate([multipliers[0] * g[0] + multipliers[1] * g[1] for g in gradients])
        columns = np.stack([np.concatenate([g[a] for g in gradients]) for a in active], axis=1)
        free = np.concatenate(floors) < 0.0
        sizes = np.linalg.norm(columns[free], axis=0)
        sizes[sizes == 0.0] = 1.0
        found = nnls(columns[free] / sizes, -target[free])[0] / sizes
        for a, w in zip(active, found, strict=True):
            multipliers[a] += w
    total = 0.0
    for (g0, g1), (A0, A1), floor in zip(gradients, curvatures, floors, strict=True):
        v = multipliers[0] * g0 + multipliers[1] * g1
        values, vectors = np.linalg.eigh(multipliers[0] * A0 + multipliers[1] * A1)
        alive = values > 1e-12 * max(values[-1], 0.0)
        along = (vectors.T @ v)[alive]
        if np.all(np.isinf(floor)):
            total += float(np.sum(along**2 / values[alive]))
        elif np.any(alive):
            # |D S^1/2 + S^-1/2 v|^2 over D >= -B.
            half = np.sqrt(values[alive])[:, None] * vectors.T[alive]
            change = lsq_linear(half, -along / np.sqrt(values[alive]), bounds=(np.minimum(floor, -1e-300), np.inf)).x
            total -= float(2.0 * v @ change + np.sum((half @ change) ** 2))
    size = multipliers[0] * error**2 + multipliers[1] * ss
    return max(total, 0.0) / size if size > 0 else 0.0


def restricted(model: Any, constraint: Any) -> set[int]:
    """Blocks that may not be negative."""
    found: set[int] = set()
    for part in getattr(constraint, "constraints", (constraint,)):
        if isinstance(part, tc.NonNegative):
            modes = range(model.order) if part.modes is None else part.modes
            core = part.modes is None if part.core is None else part.core
            named = {mode % model.order for mode in modes}
            found |= {k for k, mode in enumerate(model.network.modes) if (core if mode is None else mode in named)}
    return found


def _root(tensor: Any, weights: Any) -> Any:
    """Square roots of the weights, whose mean over what is seen is one."""
    weights = np.ones(tensor.shape) if weights is None else np.asarray(weights)
    seen = weights > 0
    return np.sqrt(np.where(seen, weights / np.mean(weights[seen], dtype=np.longdouble), 0), dtype=np.longdouble)


def _norm(array: Any) -> Any:
    top = np.max(np.abs(array))
    return top * np.sqrt(np.sum(np.abs(array / top) ** 2)) if top > 0 else top


def _weighted(tensor: Any, root: Any) -> Any:
    """sqrt(w) T; what is not seen may hold NaN or infinity."""
    return np.where(root > 0, wide(tensor), 0) * root


def complaints(fit: Any, tensor: Any, constraint: Any = None, start: Any = None, weights: Any = None) -> list[str]:
    """What is not true of a Fit; empty where all is."""
    found = []
    constraint = tc.solvers.Free() if constraint is None else constraint
    single = fit.model.dtype == np.float32
    truth = measured(fit.model, tensor, constraint, weights)
    norm = _norm(_weighted(tensor, _root(tensor, weights)))
    blocks = len(fit.model.matrices)
    if abs(fit.error - truth.error) > 1e-6 * truth.error + 2e-15 * max(1.0, _size(fit.model) / norm):
        found.append(f"error {fit.error:.9g}, truly {truth.error:.9g}")
    ss = float(fit.sensitivity * norm ** np.longdouble(-2.0 * (blocks - 1) / blocks))
    if abs(ss - truth.sensitivity) > 1e-6 * truth.sensitivity + 1e-120:
        found.append(f"SS {ss:.9g}, truly {truth.sensitivity:.9g}")
    gap, objective = truth.merit
    if abs(fit.gap - gap) > 2e-6 + 1e-6 * gap:
        found.append(f"gap {fit.gap:.3g}, truly {gap:.3g}")
    if abs(fit.objective - objective) > 1e-5 * objective + 1e-20:
        found.append(f"objective {fit.objective:.9g}, truly {objective:.9g}")
    reason = fit.reason
    met = gap <= 2e-6
    least = 1e-6 if single else 2e-13
    if reason is StopReason.EXACT:
        if not truth.error <= least:
            found.append(f"EXACT at error {truth.error:.3g}")
        if not met:
            found.append(f"EXACT at gap {gap:.3g}")
        want = asked(constraint, norm, blocks)
        if want.sensitivity > 0:
            found.append("EXACT where SS is to be lowered")
    if reason is StopReason.CONVERGED:
        if not met:
            found.append(f"CONVERGED at gap {gap:.3g}")
        left = block_decrease(fit.model, tensor, constraint, weights)
        if left > 2e-5 and not truth.error < 1e-9 and not (single and truth.error < 1e-4):
            found.append(f"CONVERGED, and blocks take off {left:.3g}")
    if reason is StopReason.INFEASIBLE and met:
        found.append("INFEASIBLE, and the bounds are met")
    if start is not None:
        before = measured(start, tensor, constraint, weights).merit
        slack = 3e-7 if single else 1e-12
        gap_ok = gap <= before[0] * (1 + 1e-5) + 2e-6
        error_ok = np.sqrt(objective) <= np.sqrt(before[1]) * (1 + 1e-5) + slack
        if not gap_ok or (before[0] <= 0 and not error_ok):
            found.append(f"(gap, objective) {truth.merit}, the start has {before}")
    return found


def _size(model: Any) -> Any:
    """A bound on the size of the terms that are added up in X."""
    return np.prod([_norm(wide(m)) for m in model.matrices])
