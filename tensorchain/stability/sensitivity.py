"""Sensitivity: SS(theta) = ||J||_F^2 = sum_k ||dX/dblock_k||_F^2 = sum_k I_k tr M_k.

It is the expected squared change of X for unit noise on the blocks, to first order; a decomposition
that diverges has SS -> infinity while its error creeps down.

SS is quadratic in each block, SS = <B_k, B_k Q_k^T> + I_k tr M_k, so its gradient is 2 B_k Q_k^T with
Q_k the derivative of the Gram M_k along the moments of unit noise; all K of them cost one pass of
`gram_derivatives`.

Reference: Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition", IEEE SPL (2019).
"""

from __future__ import annotations

from tensorchain.kernels import Array
from tensorchain.models import Model
from tensorchain.stability.scales import common_scale, double_precision, ldexp, takes_fits


@takes_fits
def sensitivity(model: Model, *, relative: bool = False, per_block: bool = False) -> float | Array:
    """Sensitivity of a model.

    Parameters
    ----------
    model : Model
        Any model.
    relative : bool, default False
        SS / ||X||^(2(K-1)/K) with K blocks, the figure that does not change with the scale of X.
    per_block : bool, default False
        The share of each block, ||dX/dblock_k||_F^2 (K,), instead of their sum.

    Returns
    -------
    float or ndarray
        SS, or the parts (K,) of the blocks.

    See Also
    --------
    sensitivity_gradient : Its derivative in each block.
    optimal_gauge : The least that the same tensor can have.

    Notes
    -----
    SS = ||J||_F^2 = sum_k I_k tr M_k, with I_k rows in block k and its Gram M_k.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])
    >>> tc.sensitivity(model), tc.sensitivity(model, per_block=True)
    (12.0, array([6., 6.]))
    """
    total = model.sensitivity(relative=relative)
    if not per_block:
        return total
    shares = model._unit_scale()[0].block_sensitivities()
    sum_of_shares = float(shares.sum())
    return shares * (total / sum_of_shares) if sum_of_shares > 0 else shares


@takes_fits
def sensitivity_gradient(model: Model) -> list[Array]:
    """Gradient of SS, 2 B_k Q_k^T for each block.

    Convention, real and complex: SS(theta + t delta) = SS(theta) + t sum_k Re <G_k, delta_k> + O(t^2) with
    <a, b> = sum conj(a) b, so that -G is the direction of steepest descent.  For complex blocks this is
    dSS/dRe(B) + i dSS/dIm(B), twice the Wirtinger derivative to conj(B).

    Parameters
    ----------
    model : Model
        Any model.

    Returns
    -------
    list of ndarray
        Arrays in the natural shapes of the blocks, in double precision.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When it holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.stability import sensitivity_gradient
    >>> model = tc.CP([np.ones((2, 1)), np.ones((3, 1))])  # SS = 3 |a|^2 + 2 |b|^2
    >>> sensitivity_gradient(model)[0]
    array([[6.],
           [6.]])
    """
    unit, exponent = common_scale(double_precision(model))
    # SS has degree 2 (K - 1) in the scale of the blocks, its gradient one less.
    shift = (2 * len(unit.matrices) - 3) * exponent
    gradient = [2.0 * unit.apply_metric(k, matrix) for k, matrix in enumerate(unit.matrices)]
    return [ldexp(unit._to_block(k, block), shift) for k, block in enumerate(gradient)]
