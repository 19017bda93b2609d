"""Conjugate gradients for the Levenberg-Marquardt step when its matrix is too large to factorise.

The matrix of :mod:`tensorchain.solvers.lm` is applied block-wise from Grams.  The preconditioner is its block diagonal,
I (x) (M_k + nu Q_k + mu I), whose factors are P_k x P_k (one for each row where rows see different entries), or the
inverse of the whole matrix where the structure of the model gives it (`Model.damped_inverse`): then one or two steps
end it, and what they are for is the rounding of that inverse.

Cost of a step: that of `gauss_newton_matvec`, (sum over k of I_k P_k^2) for a model without cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.kernels import Array
from tensorchain.kernels.interruption import check_time
from tensorchain.tensors.curvature import unformed

Operator = Callable[[Sequence[Array]], list[Array]]


def conjugate_gradients(
    operator: Operator, precondition: Operator, rhs: Sequence[Array], *, tol: float = 1e-2, max_iter: int = 60
) -> list[Array]:
    """Approximate solution d of operator(d) = rhs.

    The relative tolerance is loose on purpose: an inexact step costs little and steers around swamps.
    """
    sizes = [block.shape for block in rhs]
    residual, direction, image = (
        np.empty(sum(block.size for block in rhs), dtype=np.result_type(*rhs)) for _ in range(3)
    )
    residuals, directions, images = (split(vector, sizes) for vector in (residual, direction, image))
    delta = np.zeros_like(residual)

    def fill(vectors: list[Array], blocks: Sequence[Array]) -> None:
        for vector, block in zip(vectors, blocks, strict=True):
            vector[...] = block

    fill(residuals, rhs)
    fill(directions, precondition(residuals))
    energy = np.vdot(residual, direction).real
    target = tol**2 * energy
    for _ in range(max_iter):
        check_time()
        fill(images, operator(directions))
        curvature = np.vdot(direction, image).real
        if not curvature > 0.0:
            break
        step = energy / curvature
        delta += step * direction
        residual -= step * image
        fill(images, precondition(residuals))
        energy, previous = np.vdot(residual, image).real, energy
        if not energy > target:
            break
        direction *= energy / previous
        direction += image
    return split(delta, sizes)


def split(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Views of a flat vector as blocks of these shapes."""
    blocks, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        blocks.append(vector[start:stop].reshape(shape))
        start = stop
    return blocks


def preconditioner(at: Evaluator, penalty: float, damping: float) -> Operator | None:
    """The best inverse of J^H J + penalty Q + damping that is cheap; None where it is not positive definite."""
    model = at.model
    if at.complete and model.has_damped_inverse:
        return model.damped_inverse(penalty, damping)
    solvers = [_block_solver(at, k, penalty, damping) for k in range(len(model.matrices))]
    if any(solver is None for solver in solvers):
        return None
    return lambda blocks: [solver(b) for solver, b in zip(solvers, blocks, strict=True) if solver is not None]


def _block_solver(at: Evaluator, k: int, penalty: float, damping: float) -> Callable[[Array], Array] | None:
    """Inverse of one block of the diagonal."""
    model = at.model
    if at.complete:
        return model.damped_solver(k, penalty, damping)
    if unformed(model, k):
        share = at.tensor.mean_weight
        near = model.damped_solver(k, penalty / share, damping / share)
        return None if near is None else lambda block: near(block / share)
    system = at.gram(k) + damping * np.eye(model.network.widths[k])
    if penalty:
        system = system + penalty * at.metric(k)
    try:
        # Only to see whether it is positive definite: rows are solved by the inverses, all at once.
        np.linalg.cholesky(system)
        inverse = np.linalg.inv(system)
    except np.linalg.LinAlgError:
        return None
    return lambda block: np.asarray((inverse @ block[..., None])[..., 0])
