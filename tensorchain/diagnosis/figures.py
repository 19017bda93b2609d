"""What can be measured of a model alone, without the tensor that it was fitted to.

Every figure but the sensitivities themselves is free of scale, and all but the gauge excess are taken in the
gauge of least sensitivity, so they belong to the tensor X and the wiring.

**Gauge excess**: SS over the least SS that any gauge gives; what `optimal_gauge` would win.

**Cancellation.**  Let noise fall on each block, of a deviation s_k in proportion to the root mean square entry
of the block, s_k = s ||B_k|| / sqrt(I_k P_k).  To first order X moves by

    E ||dX||^2 = sum_k s_k^2 I_k tr M_k = s^2 sum_k ||B_k||^2 tr M_k / P_k .

Were the bonds uncorrelated, M_k ~ tr M_k / P_k * identity, each term would be s^2 ||X||^2.  So

    chi = sum_k ||B_k||^2 tr M_k / (P_k K ||X||^2)

is near 1 for a model whose terms add up like random vectors, below 1 where they are aligned, and large where they
cancel: a divergent model has chi of 1e3 and more.  Unlike SS / ||X||^(2(K-1)/K) it needs no reference for shape and
rank.

**Spectrum.**  Singular values of J, those of the gauge left out.  Their spread sigma_max / sigma_min is how much
worse the blocks are known in the worst direction than in the best.  Null values beyond the gauge mean that X does
not determine the blocks.

Cost: a few gauge cycles, and one eigenvalue decomposition of J^H J, left out for large models.

Reference: Tichavsky, Phan, Cichocki, "Sensitivity in tensor decomposition" (2019), for the sensitivity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tensorchain import kernels
from tensorchain.diagnosis.cp import component_norms, congruences, is_cp
from tensorchain.diagnosis.restricted import values_within
from tensorchain.models import Model
from tensorchain.solvers.constraints import Domain
from tensorchain.solvers.constraints.domain import EVERYWHERE
from tensorchain.stability.conditioning import condition_number, jacobian_singular_values
from tensorchain.stability.gauge import optimal_gauge
from tensorchain.stability.perturbation import excess
from tensorchain.stability.quantization import rounding_variance
from tensorchain.stability.scales import common_scale, double_precision, scalar_ldexp, unit_blocks

BITS = (8, 6, 4)
"""Word lengths at which the error of rounding the blocks is predicted."""
SPECTRUM_LIMIT = 1500
"""Most parameters for which the spectrum of J is computed (about a second)."""
NULL = 1e-7
"""Singular values below this share of the largest one are null: what J^H J resolves in double precision."""
_SMALL_TENSOR = 1 << 20
"""Entries of X up to which its norm may be taken from X itself (8 MB in double)."""
_RESOLVED = 1e-8
"""Share of the uncancelled ||X||^2 down to which the moments give ||X||^2 to eight digits."""
_GAUGE_TOL = 1e-3
_GAUGE_CYCLES = 30


@dataclass(frozen=True)
class CPFigures:
    """What is known of CP alone.

    Attributes
    ----------
    norms : tuple of float
        ||a_r o b_r o ...|| over ||X||, of each component, in decreasing order.
    opposed, aligned : float
        Least and largest cosine between two rank-one components (real part).  Near -1 components cancel, near 1 they
        coincide.  NaN for a single component.
    condition : float
        Condition number of the rank decomposition, as `tensorchain.condition_number`.
    """

    norms: tuple[float, ...]
    opposed: float
    aligned: float
    condition: float


@dataclass(frozen=True)
class Figures:
    """Measured figures of a model.

    Attributes
    ----------
    model : str
        In words.
    block_names, block_sensitivities : tuple of str or tuple of float
        ||dX/dblock_k||_F^2 of each block, in the gauge of the model.
    shares : tuple of float
        Of each block in their sum.
    sensitivity : float
        SS, their sum.
    relative_sensitivity : float
        SS / ||X||^(2(K-1)/K) with K blocks.
    gauge_excess : float
        SS over SS in the optimal gauge, at least 1.
    cancellation : float
        Chi, 1 where the terms add up like random vectors, large where they cancel.
    spread : float or None
        sigma_max / sigma_min of J modulo gauge, infinite where `nullity` is not zero; None for a large model.
    condition : float or None
        ||X|| / (sigma_min ||theta||), relative error of the blocks per relative error of X; None as `spread`.
    nullity : int or None
        Null directions of J beyond the gauge; None as `spread`.
    rounding : tuple of tuple of (int, float)
        ((bits, predicted relative error), ...) when the blocks are rounded in the gauge of the model.
    cp : CPFigures or None
        Figures that exist for CP alone.
    """

    model: str
    block_names: tuple[str, ...]
    block_sensitivities: tuple[float, ...]
    shares: tuple[float, ...]
    sensitivity: float
    relative_sensitivity: float
    gauge_excess: float
    cancellation: float
    spread: float | None
    condition: float | None
    nullity: int | None
    rounding: tuple[tuple[int, float], ...]
    cp: CPFigures | None


def measure(model: Model, domain: Domain = EVERYWHERE) -> Figures:
    """All figures of a model.

    Parameters
    ----------
    model : Model
        Any model, of any dtype; not zero everywhere.
    domain : Domain, optional
        Where its blocks may lie: directions and gauges that leave it do not count.

    Raises
    ------
    TypeError
        When `model` is no model.
    ValueError
        When it holds NaN or infinity, or is zero everywhere.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.diagnosis import measure
    >>> figures = measure(tc.CP([np.eye(3), np.eye(3), np.eye(3)]))
    >>> figures.sensitivity, round(figures.gauge_excess, 6), round(figures.cancellation, 6), figures.nullity
    (27.0, 1.0, 1.0, 0)
    """
    given = double_precision(model)
    unit, exponents = unit_blocks(given)
    network = unit.network
    scaled, fixed = domain.restricted(network), domain.fixed(network)
    balanced = optimal_gauge(unit, tol=_GAUGE_TOL, max_cycles=_GAUGE_CYCLES, scaled=scaled, fixed=fixed)
    size = tensor_norm(balanced)
    if size == 0.0:
        raise ValueError(
            f"the {type(model).__name__} is zero everywhere: it has no relative figures; was a block set to zero?"
        )
    count = len(unit.matrices)
    least = balanced.sensitivity()
    shared, exponent = common_scale(given)
    with np.errstate(over="ignore", invalid="ignore"):
        values = [float(value) for value in shared.block_sensitivities()]
    shift = 2 * (count - 1) * exponent
    # Blocks of the unit model carry 2^-e_k, so X carries the sum, and SS_opt 2(K-1)/K of it.
    depth = math.log2(least) + 2.0 * (count - 1) / count * sum(exponents) - shift
    total = math.fsum(values)
    above = max(1.0, 2.0 ** min(math.log2(total) - depth, 1023.0)) if 0.0 < total < math.inf else math.inf
    spread, condition, nullity = _spectrum(balanced, size, domain)
    return Figures(
        model=repr(model),
        block_names=model.block_names,
        block_sensitivities=tuple(scalar_ldexp(value, shift) for value in values),
        shares=tuple(value / total for value in values),
        sensitivity=scalar_ldexp(total, shift),
        relative_sensitivity=float(above * least / size ** (2.0 * (count - 1) / count)),
        gauge_excess=float(above),
        cancellation=cancellation(balanced, size),
        spread=spread,
        condition=condition,
        nullity=nullity,
        rounding=tuple((bits, _rounding_error(unit, bits) / size) for bits in BITS),
        cp=_cp_figures(unit, size) if is_cp(unit) else None,
    )


def cancellation(model: Model, size: float | None = None) -> float:
    """chi = sum_k ||B_k||^2 tr M_k / (P_k K ||X||^2), in the gauge of the model, which should be the optimal one.

    Parameters
    ----------
    model : Model
        In double precision, not zero.
    size : float, optional
        ||X||, if it is known.

    Examples
    --------
    Two components that coincide, and two that nearly cancel:

    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.diagnosis import cancellation
    >>> one = np.ones((4, 1))
    >>> same = tc.CP([np.hstack([one, one])] * 3)
    >>> opposed = tc.CP([np.hstack([one, -0.99 * one]), *[np.hstack([one, one])] * 2])
    >>> round(cancellation(same), 3), cancellation(opposed) > 1e3
    (0.5, True)
    """
    size = tensor_norm(model) if size is None else size
    return _uncancelled(model) / size**2


def _uncancelled(model: Model) -> float:
    """||X||^2 if its terms were uncorrelated."""
    terms = [
        kernels.norm(matrix) ** 2 * float(np.trace(model.gram(k)).real) / matrix.shape[1]
        for k, matrix in enumerate(model.matrices)
    ]
    return math.fsum(terms) / len(terms)


def tensor_norm(model: Model) -> float:
    """||X||, from X itself where its terms cancel so much that the moments lose it, and X is small enough."""
    size = model.norm()
    if size**2 > _RESOLVED * _uncancelled(model) or math.prod(model.shape) > _SMALL_TENSOR:
        return size
    return kernels.norm(model.full())


def _rounding_error(unit: Model, bits: int) -> float:
    """Expected error of X when the blocks are rounded, as `quantization_error` but absolute."""
    noise = [rounding_variance(matrix, bits, "block").sum(axis=0) for matrix in unit.matrices]
    return math.sqrt(excess(unit, noise))


def _spectrum(balanced: Model, size: float, domain: Domain) -> tuple[float | None, float | None, int | None]:
    """(spread, condition, nullity) of J in the optimal gauge, or Nones for a large model."""
    if balanced.n_parameters > SPECTRUM_LIMIT:
        return None, None, None
    values = values_within(balanced, domain)
    values = jacobian_singular_values(balanced) if values is None else values
    if not values.size:
        # Every direction is one of the gauge.
        return 1.0, 1.0, 0
    nullity = int(np.count_nonzero(values <= NULL * values[0]))
    if nullity:
        return math.inf, math.inf, nullity
    blocks = math.sqrt(math.fsum(kernels.norm(matrix) ** 2 for matrix in balanced.matrices))
    return float(values[0] / values[-1]), float(size / (values[-1] * blocks)), 0


def _cp_figures(unit: Model, size: float) -> CPFigures:
    norms = component_norms(unit) / size
    cosines = congruences(unit).real
    pairs = cosines[np.triu_indices(len(cosines), k=1)]
    return CPFigures(
        norms=tuple(float(value) for value in np.sort(norms)[::-1]),
        opposed=float(pairs.min()) if pairs.size else math.nan,
        aligned=float(pairs.max()) if pairs.size else math.nan,
        condition=condition_number(unit) if unit.n_parameters <= SPECTRUM_LIMIT else math.nan,
    )
