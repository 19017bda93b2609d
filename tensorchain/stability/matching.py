"""Do two models say the same?  Factor match of components, and of subspaces.

- **Two CPs**: their components are unique.  The score of a pair is the product over the modes of |cos(a_r, a'_s)|.
- **Two block-term models**: their terms are unique, the factors of these are not.  The score of a pair is
  |cos(X_r, X'_s)| of the tensors of the terms; where not all modes are asked for, the product of what follows.
- **All else**: factors turn within their column spaces.  With orthonormal bases U and V (r and r' columns) of the
  column spaces of the unfoldings, the score of a mode is ||U^H V||_F / sqrt(max(r, r')), that of all modes the product.

Pairs are matched one to one so that the sum is largest, and the score of two models is the mean over the larger number
of components.  Of models of one component all three are the same figure.

References: Acar, Dunlavy, Kolda, Morup, "Scalable tensor factorizations for incomplete data" (2011), for the factor
match score; Bjorck and Golub, "Numerical methods for computing angles between linear subspaces" (1973).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from tensorchain import kernels
from tensorchain.kernels import Array
from tensorchain.models import BlockTerm, Model
from tensorchain.stability.conditioning import is_canonical
from tensorchain.stability.scales import double_precision, unit_blocks

_NULL = 1e-12
"""Eigenvalue of T_(n) T_(n)^H over its largest, below which a direction is not in the column space."""


class Match(NamedTuple):
    """How well two models agree.

    Attributes
    ----------
    score : float
        0 to 1.
    modes : tuple of float
        The same for each mode that was asked for, over the matched components; NaN where the mode says nothing.
    order : tuple of int
        For each component of the first model in turn the matched one of the other, -1 for none; empty where subspaces
        are compared.
    components : tuple of float
        The score of each pair, in the order of the first model, 0 where there is none; empty where subspaces are
        compared.
    """

    score: float
    modes: tuple[float, ...]
    order: tuple[int, ...]
    components: tuple[float, ...] = ()


def factor_match(model: Model, other: Model, modes: Sequence[int] | None = None) -> Match:
    """How well two models of tensors of equal modes agree, whatever their gauge, order and signs: 1 for the same.

    Sizes do not count: components that point the same way match in full.  Two CPs are compared by their components,
    which are matched so that the score is largest; components that one of the two lacks count as zero.  Two block-term
    models are compared by their terms.  For Tucker models, chains and models of different kinds the column spaces of
    the unfoldings are compared, which no change of gauge moves.

    Parameters
    ----------
    model, other : Model
    modes : sequence of int, optional
        Over which modes; by default all.  The others may differ in size: two halves of the samples, say, are compared
        over all modes but that of the samples.

    Returns
    -------
    Match

    Raises
    ------
    TypeError
        When one is no model.
    ValueError
        When orders or the sizes of the modes differ, a mode is out of range or named twice, a model is zero or not
        finite, or no mode says anything: the spaces of both models are all of it, as those of a wide chain are.

    References
    ----------
    E. Acar, D. Dunlavy, T. Kolda, M. Morup, "Scalable tensor factorizations for incomplete data", 2011.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> cp = tc.CP.random((5, 4, 3), 2, rng=0)
    >>> turned = tc.CP([-factor[:, ::-1] for factor in cp.factors])
    >>> match = tc.factor_match(cp, turned)
    >>> round(match.score, 12), match.order
    (1.0, (1, 0))
    >>> tucker = tc.Tucker.random((5, 4, 3), (2, 2, 2), rng=0)
    >>> round(tc.factor_match(tucker, tucker.orthogonalized()).score, 12)
    1.0
    """
    for given in (model, other):
        if not isinstance(given, Model):
            raise TypeError(f"two models are needed, and a {type(given).__name__} was given; of a fit take fit.model")
    if model.order != other.order:
        raise ValueError(f"models of orders {model.order} and {other.order} were given; equal ones are needed")
    chosen = tuple(range(model.order)) if modes is None else tuple(np.atleast_1d(np.array(modes)).tolist())
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= mode < model.order for mode in chosen):
        raise ValueError(f"modes is {modes!r}; different numbers from 0 to {model.order - 1} are needed")
    for mode in chosen:
        if model.shape[mode] != other.shape[mode]:
            raise ValueError(
                f"mode {mode} has size {model.shape[mode]} and {other.shape[mode]}; equal sizes are needed, or leave "
                "the mode out of `modes`"
            )
    one, two = _checked(model), _checked(other)
    if is_canonical(one.network) and is_canonical(two.network):
        cosines = np.array([_cosines(one.matrices[mode], two.matrices[mode]) for mode in chosen])
        return _matched(cosines, cosines.prod(axis=0))
    if isinstance(one, BlockTerm) and isinstance(two, BlockTerm):
        spaces = np.array([_overlaps(one, two, mode) for mode in chosen])
        whole = len(chosen) == model.order
        return _matched(spaces, _term_cosines(one, two) if whole else spaces.prod(axis=0))
    scores = [_overlap(one, two, mode) for mode in chosen]
    defined = [score for score in scores if not math.isnan(score)]
    if not defined:
        raise ValueError("the column spaces of both models are all of every mode, which says nothing about them")
    return Match(math.prod(defined), tuple(scores), ())


def _checked(model: Model) -> Model:
    """The model in double precision with blocks of moderate size; the tensor changes its scale only."""
    unit, _ = unit_blocks(double_precision(model))
    size = unit.norm()
    if size == 0.0 or not math.isfinite(size):
        raise ValueError(f"a model of norm {size} was given; one that is finite and not zero is needed")
    return unit


def _matched(by_mode: Array, scores: Array) -> Match:
    rows, columns = scipy.optimize.linear_sum_assignment(scores, maximize=True)
    order, each = np.full(len(scores), -1), np.zeros(len(scores))
    order[rows], each[rows] = columns, scores[rows, columns]
    most = max(scores.shape)
    per_mode = tuple(float(table[rows, columns].sum()) / most for table in by_mode)
    return Match(float(each.sum()) / most, per_mode, tuple(order.tolist()), tuple(each.tolist()))


def _cosines(one: Array, two: Array) -> Array:
    """|cos| between the columns of two factors; 0 for columns of zeros."""
    left, right = (
        matrix / np.array([kernels.norm(column) or 1.0 for column in matrix.T]) for matrix in (one, two)
    )  # fmt: skip
    return np.asarray(np.minimum(np.abs(left.conj().T @ right), 1.0))


def _term_cosines(one: BlockTerm, two: BlockTerm) -> Array:
    """|cos| between the tensors of the terms."""
    table = np.zeros((len(one.terms), len(two.terms)))
    for r, left in enumerate(one.terms):
        for s, right in enumerate(two.terms):
            sizes = left.norm() * right.norm()
            table[r, s] = min(abs(left.inner(right)) / sizes, 1.0) if sizes > 0.0 else 0.0
    return table


def _overlaps(one: BlockTerm, two: BlockTerm, mode: int) -> Array:
    left, right = ([_basis(term, mode) for term in model.terms] for model in (one, two))
    return np.array([[_closeness(u, v) for v in right] for u in left])


def _overlap(one: Model, two: Model, mode: int) -> float:
    u, v = _basis(one, mode), _basis(two, mode)
    if u.shape[1] == v.shape[1] == len(u):
        return math.nan
    return _closeness(u, v)


def _closeness(u: Array, v: Array) -> float:
    """||U^H V||_F / sqrt(max(r, r')): the root of the mean squared cosine of the principal angles."""
    widest = max(u.shape[1], v.shape[1])
    return min(float(np.linalg.norm(u.conj().T @ v)) / math.sqrt(widest), 1.0) if widest else 0.0


def _basis(model: Model, mode: int) -> Array:
    """Orthonormal basis of the column space of X_(n) = B L^T: with B = Q R, of Q times that of R M^T R^H."""
    k = model.network.block_of_mode[mode]
    basis, triangle = np.linalg.qr(model.matrices[k])
    values, vectors = np.linalg.eigh(triangle @ model.gram(k).T @ triangle.conj().T)
    return np.asarray(basis @ vectors[:, values > _NULL * max(float(values[-1]), 0.0)])
