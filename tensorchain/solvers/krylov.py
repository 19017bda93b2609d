"""Conjugate gradients for the Levenberg-Marquardt step when J^H J is too large to factorise.

The matrix J^H J + nu Q + mu I is applied block-wise from Grams; the preconditioner is its block diagonal
I (x) (M_k + nu Q_k + mu I), whose factors are P_k x P_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorchain.kernels import Array, cholesky, cholesky_solve
from tensorchain.models import Model
from tensorchain.tensors import Tensor


def conjugate_gradients(
    tensor: Tensor,
    model: Model,
    rhs: Sequence[Array],
    penalty: float,
    damping: float,
    *,
    tol: float = 1e-2,
    max_iter: int = 60,
) -> list[Array] | None:
    """Approximate solution of (J^H J + nu Q + mu I) d = rhs; None when the preconditioner breaks down.

    The relative tolerance is loose on purpose: an inexact step costs little and steers around swamps.
    """
    factors = []
    for k in range(len(rhs)):
        block = model.gram(k) + damping * np.eye(model.network.widths[k])
        if penalty:
            block = block + penalty * model.sensitivity_metric(k)
        factor = cholesky(block)
        if factor is None:
            return None
        factors.append(factor)

    def apply(blocks: Sequence[Array]) -> list[Array]:
        result = tensor.gauss_newton_matvec(model, blocks)
        for k, block in enumerate(blocks):
            result[k] = result[k] + damping * block
            if penalty:
                result[k] = result[k] + penalty * (block @ model.sensitivity_metric(k).T)
        return result

    def precondition(blocks: Sequence[Array]) -> list[Array]:
        return [cholesky_solve(f, np.ascontiguousarray(b.T)).T for f, b in zip(factors, blocks, strict=True)]

    delta = [np.zeros_like(block) for block in rhs]
    residual = list(rhs)
    conditioned = precondition(residual)
    direction = conditioned
    energy = _dot(residual, conditioned)
    target = tol**2 * energy
    for _ in range(max_iter):
        if energy <= target:
            break
        image = apply(direction)
        curvature = _dot(direction, image)
        if not curvature > 0.0:
            break
        step = energy / curvature
        delta = [d + step * p for d, p in zip(delta, direction, strict=True)]
        residual = [r - step * a for r, a in zip(residual, image, strict=True)]
        conditioned = precondition(residual)
        energy, previous = _dot(residual, conditioned), energy
        direction = [z + (energy / previous) * p for z, p in zip(conditioned, direction, strict=True)]
    return delta


def _dot(left: Sequence[Array], right: Sequence[Array]) -> float:
    return float(sum(np.vdot(a, b).real for a, b in zip(left, right, strict=True)))
