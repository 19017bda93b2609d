"""What the data say of a fit: more than noise, determined, needed, finished."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.diagnosis import Verdict, diagnose
from tensorchain.diagnosis.support import observed_spectrum, support_of, without_parts
from tests.cases import crossed, jacobian, mostly_slow, relative

LIMIT = 1500


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def measured(tensor: Any, model: Any) -> Any:
    return support_of(tensor, model, tensor.residual_norm(model) / tensor.norm(), limit=LIMIT)


@crossed(
    every=2,
    problem=[
        ((9, 8, 7), "cp", 1),
        ((6, 6, 6), "cp", 4),
        ((7, 6, 5), "tucker", 2),
        ((6, 5, 6), "tc", 2),
        ((5, 4, 5, 4), "cp", 2),
        ((6, 6, 6), "btd", [(2, 2, 2)]),
        ((18, 14), "cp", 3),
    ],
    dtype=["float64", "complex128"],
)
def test_fits_of_noise_have_a_figure_of_their_own(problem: Any, dtype: str) -> None:
    """F between 1.5 and 4, whatever the model; ten times as much with structure behind it."""
    shape, kind, rank = problem
    noise = rng(1).standard_normal(shape)
    if dtype == "complex128":
        noise = noise + 1j * rng(2).standard_normal(shape)
    fit = tc.decompose(noise, kind, rank, solver=tc.ALS(max_iter=60), starts=2, jobs=1, rng=0)
    assert 1.5 < measured(tc.Dense(noise), fit.model).evidence < 4.0
    truth = fit.model.random_like(rng(3)).full()
    data = truth / np.linalg.norm(truth) + 0.3 * noise / np.linalg.norm(noise)
    again = tc.decompose(data, kind, rank, solver=tc.ALS(max_iter=60), starts=2, jobs=1, rng=0)
    assert measured(tc.Dense(data), again.model).evidence > 15.0


@pytest.mark.parametrize(
    "planted",
    mostly_slow(
        [
            tc.datasets.exact_tucker((6, 5, 6), (2, 3, 2), rng(), noise=0.05),
            tc.datasets.exact_chain((6, 5, 6), (2, 2, 2), rng(), noise=0.05),
            tc.datasets.exact_cp((7, 6, 5), 3, rng(), noise=0.05),
        ],
        2,
    ),
    ids=["tucker", "tc", "cp"],
)
def test_parts_that_explain_noise(planted: Any) -> None:
    right = tc.decompose(planted.tensor, init=planted.model, solver=tc.LM()).model
    more = {3: 4, (2, 3, 2): (3, 3, 2), (2, 2, 2): (3, 2, 2)}[right.rank]
    wide = tc.decompose(planted.tensor, type(right), more, starts=2, jobs=1, rng=0)
    source = tc.Dense(planted.tensor)
    assert measured(source, right).least_evidence > 8.0
    assert measured(source, wide.model).least_evidence < 4.3
    diagnosis = diagnose(wide, planted.tensor)
    assert diagnosis.verdict is Verdict.OVER_RANKED
    assert repr(right.rank) in diagnosis.cure or "degeneracy_profile" in diagnosis.cure


@pytest.mark.parametrize(
    "model",
    [
        tc.CP.random((4, 3, 5), 3, 0),
        tc.Tucker.random((4, 3, 5), (2, 2, 3), 0),
        tc.TensorChain.random((4, 3, 5), (2, 3, 2), 0),
        tc.BlockTerm.random((4, 4, 4), [(2, 2, 2), (1, 2, 2)], 0),
        tc.TensorChain.random((4, 5), (2, 2), 0, dtype=complex),
    ],
    ids=str,
)
def test_models_without_a_part(model: Any) -> None:
    """A part of no weight is the one that is left out, and nothing else is lost."""
    found = list(without_parts(model))
    assert found
    for smaller, part in found:
        assert type(smaller) is type(model)
        assert smaller.n_parameters < model.n_parameters
        assert smaller.full().shape == model.shape
        assert part
    if type(model) is tc.CP:
        weak = model.with_matrices([model.matrices[0] * [1.0, 1e-9, 1.0], *model.matrices[1:]])
        assert (
            relative(
                next(without_parts(weak))[0].full(), model.full() - tc.CP([f[:, 1:2] for f in model.factors]).full()
            )
            < 1e-6
        )


@pytest.mark.parametrize("make", ["masked", "observed", "weighted"])
def test_null_directions_at_the_observed_entries(make: str) -> None:
    """Against the singular values of the rows of J at those entries."""
    model = tc.CP.random((5, 4, 4), 2, 3)
    for holes in ("few", "a slice", "blocks"):
        seen = rng(4).random(model.shape) < 0.9
        if holes == "a slice":
            seen[2] = False
            seen[2, 1, 1] = True
        if holes == "blocks":
            seen = np.zeros(model.shape, dtype=bool)
            seen[:3, :2, :2] = seen[3:, 2:, 2:] = True
        weights = np.where(seen, rng(5).uniform(0.5, 2.0, model.shape), 0.0) if make == "weighted" else seen * 1.0
        tensor: Any = tc.Masked(model.full(), weights=weights)
        if make == "observed":
            tensor = tc.Observed(np.argwhere(seen), model.full()[seen], model.shape)
        balanced = tc.optimal_gauge(model, tol=1e-3)
        weights = weights / weights[seen].mean()
        values = np.linalg.svd(np.sqrt(weights.ravel())[:, None] * jacobian(balanced), compute_uv=False)
        values = np.concatenate([values, np.zeros(model.n_parameters - len(values))])
        null = int(np.count_nonzero(values < 1e-7 * values[0])) - model.gauge_dimension
        found, spread = observed_spectrum(tensor, model)
        assert found == null
        assert (null > 0) == (holes != "few")
        if not null:
            assert spread == pytest.approx(values[0] / values[-1 - model.gauge_dimension], rel=1e-6)
        else:
            assert diagnose(model, tensor).verdict is Verdict.UNDETERMINED


def test_fewer_entries_than_parameters() -> None:
    model = tc.TensorChain.random((6, 6, 6), 2, 0)
    where = np.unique(
        np.concatenate([np.repeat(np.arange(6)[:, None], 3, axis=1), rng(6).integers(0, 6, (30, 3))]), axis=0
    )
    tensor = tc.Observed(where, model.entries(where), model.shape)
    diagnosis = diagnose(model, tensor)
    assert diagnosis.verdict is Verdict.UNDETERMINED
    assert f"{len(where)} entries are observed" in diagnosis.evidence[0]


def test_noise_and_next_to_nothing() -> None:
    noise = rng(7).standard_normal((10, 9, 8))
    fit = tc.decompose(noise, "cp", 1, rng=0)
    for diagnosis in (diagnose(fit, noise), diagnose(fit.model, noise)):
        assert diagnosis.verdict is Verdict.EXPLAINS_LITTLE
        assert diagnosis.support is not None
        assert diagnosis.support.explained == pytest.approx(1.0 - fit.error**2)
    names = {"tc": tc, "T": noise}
    exec(diagnose(fit, noise).cure.replace("starts=10", "starts=1"), names)
    assert names["fit"].model.rank == 2


@pytest.mark.parametrize("solver", [tc.ALS(max_iter=1), tc.LM(max_iter=1)])
def test_fits_that_are_not_finished(solver: Any) -> None:
    planted = tc.datasets.exact_chain((7, 6, 7), (2, 2, 2), rng(8), noise=0.2)
    start = planted.model.with_matrices([m + 0.35 * rng(9).standard_normal(m.shape) for m in planted.model.matrices])
    fit = tc.decompose(planted.tensor, init=start, solver=solver, rng=0)
    diagnosis = diagnose(fit, planted.tensor)
    assert diagnosis.verdict in (Verdict.UNFINISHED, Verdict.STUCK)
    assert diagnose(fit).verdict is Verdict.UNFINISHED
    assert "fit.model" in diagnose(fit).cure
    names = {"tc": tc, "T": planted.tensor, "fit": fit, "diagnosis": diagnosis}
    exec(diagnosis.cure, names)
    assert diagnose(names["fit"], planted.tensor).verdict is Verdict.HEALTHY


@pytest.mark.slow
def test_cures_name_what_was_given() -> None:
    border = tc.datasets.border_cp((5, 5, 5), rng(10))
    fit = tc.decompose(border.tensor, "cp", 2, solver=tc.LM(max_iter=150), rng=0)
    assert "init=fit.model" in diagnose(fit, border.tensor).cure
    assert "init=model" in diagnose(fit.model, border.tensor).cure
    assert any("a guess" in sentence for sentence in diagnose(fit.model).evidence)


@pytest.mark.parametrize("share", mostly_slow([0.6, 0.9]))
def test_masked_fits_can_be_healthy(share: float) -> None:
    planted = tc.datasets.exact_chain((7, 7, 7), (2, 3, 2), rng(11), noise=0.02)
    tensor = tc.Masked(planted.tensor, rng(12).random((7, 7, 7)) < share)
    fit = tc.decompose(tensor, init=planted.model, solver=tc.LM())
    assert diagnose(fit, tensor).verdict is Verdict.HEALTHY
