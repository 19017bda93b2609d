"""The lower bound of the sensitivity: reached by equal components, and by no model passed."""

import numpy as np
import pytest
from scipy.optimize import minimize

import tensorchain as tc
from tensorchain.models import Model
from tests.cases import halved

KINDS = [
    (tc.CP, (4, 3, 2), 3),
    (tc.CP, (2, 3, 2, 3), 4),
    (tc.CP, (3, 4), 2),
    (tc.TensorChain, (2, 3, 4), 2),
    (tc.TensorChain, (2, 3, 2, 2), 2),
    (tc.TensorChain, (3, 2, 3), (1, 2, 2)),
    (tc.TensorChain, (4, 3, 3), (3, 2, 3)),
    (tc.Tucker, (3, 4, 2), 2),
    (tc.Tucker, (3, 4), (2, 1)),
    (tc.BlockTerm, (3, 3, 2), [(2, 2, 2), (1, 2, 2)]),
    (tc.BlockTerm, (2, 2, 2, 2), [(1, 1, 1, 1)] * 3),
]


def equal(kind: type[Model], shape: tuple[int, ...], rank: object) -> Model:
    """The model that reaches the bound: equal components of one product of vectors."""
    vectors = [np.full(size, size**-0.5) for size in shape]
    if kind is tc.CP:
        return tc.CP([np.outer(vector, np.ones(rank)) for vector in vectors])
    if kind is tc.TensorChain:
        return tc.TensorChain([np.einsum("i,ab->aib", vector, np.eye(rank)) for vector in vectors])
    term = (np.ones((1,) * len(shape)), [vector[:, None] for vector in vectors])
    return tc.Tucker(*term) if kind is tc.Tucker else tc.BlockTerm([term] * len(rank))


@pytest.mark.parametrize(("kind", "shape", "rank"), KINDS)
def test_it_is_reached(kind, shape, rank):
    if kind is tc.TensorChain and not isinstance(rank, int):
        rank = min(rank)
    model = tc.optimal_gauge(equal(kind, shape, rank))
    assert model.sensitivity(relative=True) == pytest.approx(model.least_sensitivity, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("kind", "shape", "rank"), KINDS)
def test_no_model_of_drawn_entries_has_less(kind, shape, rank, dtype):
    for seed in range(5):
        model = tc.optimal_gauge(kind.random(shape, rank, rng=seed, dtype=dtype))
        assert model.sensitivity(relative=True) >= model.least_sensitivity


@pytest.mark.parametrize(("kind", "shape", "rank"), halved(KINDS))
def test_descent_on_the_sensitivity_does_not_pass_it(kind, shape, rank):
    start = kind.random(shape, rank, rng=7)
    sizes = np.cumsum([matrix.size for matrix in start.matrices])[:-1]

    def at(entries):
        parts = np.split(entries, sizes)
        return start.with_matrices([p.reshape(m.shape) for p, m in zip(parts, start.matrices, strict=True)])

    found = minimize(
        lambda entries: np.log(at(entries).sensitivity(relative=True)),
        np.concatenate([matrix.ravel() for matrix in start.matrices]),
        options={"maxiter": 60},
    )
    assert np.exp(found.fun) >= start.least_sensitivity * (1.0 - 1e-9)
    assert np.exp(found.fun) < start.sensitivity(relative=True)


def test_more_terms_need_less_and_larger_sizes_more():
    bounds = [tc.CP.random((4, 5, 6), rank, rng=0).least_sensitivity for rank in (1, 2, 8)]
    assert bounds[0] == pytest.approx(3 * 120 ** (1 / 3))
    assert bounds == pytest.approx([bounds[0], bounds[0] / 2 ** (1 / 3), bounds[0] / 2])
    assert tc.CP.random((8, 5, 6), 2, rng=0).least_sensitivity == pytest.approx(bounds[1] * 2 ** (1 / 3))


def test_a_healthy_fit_is_not_asked_whether_it_can_be_less_sensitive(monkeypatch):
    """What no model of these sizes can have is not looked for."""
    from tensorchain.solvers import stabilise

    asked = []
    whole = stabilise.Reduced.aside
    monkeypatch.setattr(stabilise.Reduced, "aside", lambda *given: asked.append(given) or whole(*given))
    T = tc.TensorChain.random((12, 12, 12), 2, rng=0)
    noise = np.random.default_rng(1).standard_normal(T.shape)
    data = T.full() / T.norm() + 0.1 * noise / np.linalg.norm(noise)
    fit = tc.decompose(data, "tc", 2, rng=0)
    assert fit.reason.name == "CONVERGED"
    assert not asked
    weighted = tc.Masked(data, weights=np.random.default_rng(2).uniform(0.5, 1.0, data.shape))
    tc.decompose(weighted, "tc", 2, rng=0)
    assert asked
