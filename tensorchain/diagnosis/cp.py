"""Figures of a canonical polyadic decomposition (CPD), X = sum_r a_r^(1) o ... o a_r^(N).

| figure | formula | what it tells |
|---|---|---|
| component norms | prod_n ||a_r^(n)|| | norms far above ||X|| must cancel |
| congruence | c_rs = prod over modes of cos(a_r^(n), a_s^(n)) | c_rs near -1: a degenerate pair |
| core consistency | 100 (1 - ||G - I||^2 / R), G = T x_1 A_1^+ ... x_N A_N^+ | far below 100: rank too high |
| factor match score | mean over matched pairs of |c_rs| (1 - |p_r - q_s| / max(p_r, q_s)) | 1: the same components |

The cosine of two rank-one tensors is the product of the cosines of their factors, so all congruences come from R x R
Grams.  The core G is the least-squares Tucker core for the factors of the CPD; it takes N small pseudo-inverses and
one TTM chain, never the Kronecker product of the factors, and so costs one pass over T.

**Which scale.**  G is not invariant when norms move between the factors of a component; here they are shared
evenly by the modes before G is formed.

References: Bro and Kiers, "A new efficient method for determining the number of components in PARAFAC models" (2003),
for the core consistency; Papalexakis and Faloutsos, "Fast efficient and scalable core consistency diagnostic"
(2015), for pseudo-inverses; Acar, Dunlavy, Kolda, Morup, "Scalable tensor factorizations for incomplete data" (2011),
for the factor match score; Tucker, "A method for synthesis of factor analysis studies" (1951), for the congruence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import Model, Tucker
from tensorchain.stability.conditioning import is_canonical
from tensorchain.stability.scales import double_precision, scalar_ldexp, unit_blocks
from tensorchain.tensors import Tensor, as_tensor

_LARGEST_CORE = 2000


def is_cp(model: Model) -> bool:
    """Whether the wiring is that of a CPD, whatever the class."""
    return is_canonical(model.network)


def component_norms(model: Model) -> Array:
    """Norm of each rank-one component, prod_n ||a_r^(n)||.

    Parameters
    ----------
    model : Model
        a CPD of rank R.

    Returns
    -------
    ndarray
        (R,), in the order of the columns.

    Raises
    ------
    TypeError
        When the model is no CPD.
    ValueError
        When it holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> tc.component_norms(tc.CP([np.array([[3.0, 1.0], [4.0, 0.0]])] * 3))
    array([125.,   1.])
    """
    unit, exponents = unit_blocks(_checked(model))
    norms = np.prod([_column_norms(matrix) for matrix in unit.matrices], axis=0)
    return np.array([scalar_ldexp(float(value), sum(exponents)) for value in norms])


def congruences(model: Model, modes: Sequence[int] | None = None) -> Array:
    """Cosines between the components: c_rs = prod_n cos(a_r^(n), a_s^(n)).

    Parameters
    ----------
    model : Model
        a CPD of rank R.
    modes : sequence of int, optional
        Over which to take the product: [n] for the cosines of one mode, two modes for the pairwise figure, three for
        the triple one.  By default all of them: the cosines between the rank-one tensors themselves.

    Returns
    -------
    ndarray
        (R, R), Hermitian, with ones on the diagonal; 0 for a component that is zero.

    Raises
    ------
    TypeError
        When the model is no CPD.
    ValueError
        When a mode is out of range or named twice.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> A = np.array([[1.0, -0.6], [0.0, 0.8]])
    >>> tc.congruences(tc.CP([A, A, A]), modes=[0])
    array([[ 1. , -0.6],
           [-0.6,  1. ]])
    >>> tc.congruences(tc.CP([A, A, A]))
    array([[ 1.   , -0.216],
           [-0.216,  1.   ]])
    """
    unit, _ = unit_blocks(_checked(model))
    chosen = range(unit.order) if modes is None else list(modes)
    if len(set(chosen)) < len(chosen) or not all(0 <= mode < unit.order for mode in chosen) or not len(chosen):
        raise ValueError(f"modes is {modes!r}; different numbers from 0 to {unit.order - 1} are needed")
    result: Array = np.ones((unit.network.widths[0],) * 2)
    for mode in chosen:
        directions = _directions(unit.matrices[mode])
        result = result * (directions.conj().T @ directions)
    alive = np.prod([_column_norms(matrix) for matrix in unit.matrices], axis=0) > 0.0
    np.fill_diagonal(result, alive)
    return result


def core_consistency(model: Model, tensor: Any, *, normalised: bool = False) -> float:
    """Core consistency diagnostic (CORCONDIA), in percent.

    Parameters
    ----------
    model : Model or Fit
        A CPD of rank R, fitted to the tensor.
    tensor : Tensor or array_like
        The tensor, of the shape of the model.  Missing entries count as missing: the core is the one that fits the
        observed entries best, with their weights.
    normalised : bool, optional
        Divide by ||G||^2 instead of R; the figure then lies in (-inf, 100] but rarely below -100.

    Returns
    -------
    float
        100 (1 - ||G - I||^2 / R) with G the least-squares core and I the superdiagonal one: 100 for an exact CPD with
        factors of full column rank, low or negative when components share their variation.

    Raises
    ------
    TypeError
        When the model is no CPD.
    ValueError
        When shapes differ, or, with missing entries, the core has more than 2000 numbers.

    References
    ----------
    Bro and Kiers, "A new efficient method for determining the number of components in PARAFAC models", J. Chemometrics
    (2003).

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> planted = tc.datasets.exact_cp((6, 5, 4), 2, np.random.default_rng(0))
    >>> round(tc.core_consistency(planted.model, planted.tensor), 6)
    100.0
    """
    checked = _checked(model)
    source = as_tensor(tensor)
    if checked.shape != source.shape:
        raise ValueError(f"the model has shape {checked.shape}, the tensor {source.shape}; they must be equal")
    size = checked.norm()
    if size == 0.0 or not np.isfinite(size):
        raise ValueError(f"the norm of the model is {size}; a CPD that is finite and not zero is needed")
    unit, exponents = unit_blocks(checked)
    norms = np.prod([_column_norms(matrix) for matrix in unit.matrices], axis=0)
    share = norms ** (1.0 / unit.order)
    factors = [_directions(matrix) * share for matrix in unit.matrices]
    core = _least_squares_core(source.scaled(float(np.ldexp(1.0, -sum(exponents)))), factors, checked.dtype)
    rank = len(share)
    distance = core - _superdiagonal(rank, unit.order)
    reference = float(np.linalg.norm(core)) ** 2 if normalised else float(rank)
    return 100.0 * (1.0 - float(np.linalg.norm(distance)) ** 2 / reference)


def _least_squares_core(source: Tensor, factors: list[Array], dtype: Any) -> Array:
    """The core G that minimises ||T - G x_1 A_1 ... x_N A_N||_W, (R, ..., R)."""
    rank, order = factors[0].shape[1], len(factors)
    ones = np.ones((rank,) * order, dtype=dtype)
    if source.complete:
        # For a Tucker model with factors (A_n^+)^H the adjoint of its core's design is T x_1 A_1^+ ... x_N A_N^+.
        closing = Tucker(ones, [np.linalg.pinv(factor).conj().T for factor in factors])
        return source.contract_all_but(closing, 0).reshape(ones.shape)
    if ones.size > _LARGEST_CORE:
        raise ValueError(
            f"the core has {ones.size} numbers; with missing entries at most {_LARGEST_CORE} are supported"
        )
    model = Tucker(ones, factors)
    gram, rhs = np.asarray(source.gram(model, 0)), source.contract_all_but(model, 0)
    solution, *_ = np.linalg.lstsq(gram.reshape(ones.size, ones.size), rhs.ravel(), rcond=None)
    return np.asarray(solution.reshape(ones.shape))


class FactorMatch(NamedTuple):
    """How well two CPDs agree.

    Attributes
    ----------
    score : float
        Factor match score, 0 to 1.
    order : tuple of int
        For each matched component of the reference, the column of the model; (min(R, R'),).
    reference : tuple of int
        The columns of the reference that were matched, increasing.
    components : tuple of float
        The score of each matched pair.
    """

    score: float
    order: tuple[int, ...]
    reference: tuple[int, ...]
    components: tuple[float, ...]


def factor_match_score(model: Model, reference: Model, *, weights: bool = True) -> FactorMatch:
    """Factor match score of a CPD against a reference, with the best matching of components.

    The score of a pair is |c_rs|, the cosine of the two rank-one tensors in absolute value; with `weights` it is
    multiplied by 1 - |p - q| / max(p, q), where p and q are the norms of the two components, so that components of
    the right direction and the wrong size do not count in full.  The matching that maximises the sum is found by
    the Hungarian algorithm.

    Parameters
    ----------
    model, reference : Model
        CPDs of one shape, of ranks R and R'.
    weights : bool, default True
        Whether norms count.

    Returns
    -------
    FactorMatch
        FactorMatch; `score` is the sum over matched pairs divided by max(R, R'): components that one of the two lacks
        count as zero.

    Raises
    ------
    TypeError
        When one is no CPD.
    ValueError
        When shapes differ.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> cp = tc.CP.random((5, 4, 3), 2, rng=0)
    >>> swapped = tc.CP([factor[:, ::-1] for factor in cp.factors])
    >>> match = tc.factor_match_score(swapped, cp)
    >>> round(match.score, 12), match.order
    (1.0, (1, 0))
    """
    left, right = _checked(model), _checked(reference)
    if left.shape != right.shape:
        raise ValueError(f"the model has shape {left.shape}, the reference {right.shape}; they must be equal")
    cosines: Array = np.ones((right.network.widths[0], left.network.widths[0]))
    for a, b in zip(right.matrices, left.matrices, strict=True):
        cosines = cosines * (_directions(a).conj().T @ _directions(b))
    scores = np.abs(cosines)
    if weights:
        p, q = component_norms(right)[:, None], component_norms(left)[None, :]
        larger = np.maximum(p, q)
        ratio = np.divide(np.minimum(p, q), larger, out=np.zeros_like(larger), where=larger > 0.0)
        scores = scores * ratio
    rows, columns = scipy.optimize.linear_sum_assignment(scores, maximize=True)
    matched = scores[rows, columns]
    return FactorMatch(
        score=float(matched.sum()) / max(scores.shape),
        order=tuple(int(column) for column in columns),
        reference=tuple(int(row) for row in rows),
        components=tuple(float(value) for value in matched),
    )


def _checked(model: Model) -> Model:
    """The model in double precision, if it is a CPD."""
    checked = double_precision(model)
    if not is_cp(checked):
        raise TypeError(f"this figure exists for a CPD alone, and a {type(checked).__name__} was given")
    return checked


def _column_norms(matrix: Array) -> Array:
    return np.array([kernels.norm(column) for column in matrix.T])


def _directions(matrix: Array) -> Array:
    """Columns of norm 1; zero columns stay."""
    norms = _column_norms(matrix)
    return np.asarray(matrix / np.where(norms > 0.0, norms, 1.0))


def _superdiagonal(rank: int, order: int) -> Array:
    core = np.zeros((rank,) * order)
    core[(np.arange(rank),) * order] = 1.0
    return core
