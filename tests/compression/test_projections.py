"""The best subspaces of a layer's outputs and inputs, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tensorchain.compression import Geometry, PatchCovariance, Request, Site, plan_network
from tensorchain.compression.projections import PROJECTIONS, Projections, projected_curve

SHAPES = [(6, 4, 3, 3), (5, 7, 1, 1), (4, 3, 2, 1, 3), (3, 8, 3, 2), (30, 4, 1, 1), (19, 3, 2, 2)]


def measured(kernel, seed=0):
    rng = np.random.default_rng(seed)
    size = kernel[0].size
    patches = rng.standard_normal((400, size)) * np.linspace(0.1, 3.0, size) + rng.standard_normal((400, 1))
    return PatchCovariance.from_patches(patches, kernel.shape[1])


@pytest.mark.parametrize("method", PROJECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("known", [True, False])
def test_errors_of_all_ranks_are_those_of_the_plans(shape, method, known):
    kernel = np.random.default_rng(1).standard_normal(shape)
    projections = Projections(kernel, measured(kernel) if known else None)
    rows, errors = projections.rows, projections.errors(method)
    matrix = projections.matrix if known else np.eye(rows.shape[1])
    assert len(errors) == (shape[1] if method == "svd-in" else min(shape[0], kernel[0].size))
    for rank in (1, 2, len(errors)):
        plan = projections.plan(method, rank, Geometry.trivial(len(shape) - 2), None)
        change = plan.kernel.reshape(rows.shape) - rows
        error = np.trace(change @ matrix @ change.T) / np.trace(rows @ matrix @ rows.T)
        np.testing.assert_allclose(errors[rank - 1], error, atol=1e-9)


def test_projection_of_the_outputs_is_the_best_of_its_rank():
    kernel = np.random.default_rng(2).standard_normal((6, 3, 2, 2))
    covariance = measured(kernel)
    projections = Projections(kernel, covariance)
    values, vectors = np.linalg.eigh(projections.matrix)
    root = (vectors * np.sqrt(values)) @ vectors.T
    singular = np.linalg.svd(projections.rows @ root, compute_uv=False)
    np.testing.assert_allclose(projections.errors("svd-out")[2], np.sum(singular[3:] ** 2) / np.sum(singular**2))


def test_projection_of_the_inputs_beats_other_directions_in_its_metric():
    kernel = np.random.default_rng(3).standard_normal((5, 6, 3, 1))
    projections = Projections(kernel)
    rng = np.random.default_rng(4)
    for _ in range(20):
        basis = np.linalg.qr(rng.standard_normal((6, 2)))[0]
        rows = kernel.reshape(5, 6, 3)
        near = np.einsum("tsd,sa,ua->tud", rows, basis, basis)
        assert projections.errors("svd-in")[1] <= np.sum((rows - near) ** 2) / np.sum(rows**2) + 1e-12


def test_candidates_cost_what_their_plans_cost():
    kernel = np.random.default_rng(5).standard_normal((12, 10, 3, 3))
    geometry = Geometry(stride=(2, 2), padding=((1, 1), (1, 1)))
    points = projected_curve(kernel, geometry=geometry, image=(11, 11), covariance=measured(kernel), candidates=3)
    for point in points:
        plan = Projections(kernel, None).plan(point.method, point.rank, geometry, None)
        assert (plan.parameters, plan.macs((11, 11))) == (point.parameters, point.macs)
    assert {point.method for point in points} == set(PROJECTIONS)


@pytest.mark.parametrize("method", PROJECTIONS)
def test_the_scales_of_inner_channels_are_those_of_least_sensitivity(method):
    kernel = np.random.default_rng(8).standard_normal((6, 5, 3, 2))
    plan = Projections(kernel, measured(kernel)).plan(method, 3, Geometry(), None)
    first, last = (step.weight for step in plan.convolutions)
    for channel in range(3):
        for factor in (0.8, 1.25):
            scales = np.ones(3)
            scales[channel] = factor
            moved = (first * scales[:, None, None, None], last / scales[None, :, None, None])
            steps = tuple(replace(s, weight=w) for s, w in zip(plan.convolutions, moved, strict=True))
            assert replace(plan, steps=steps).sensitivity() > plan.sensitivity()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_network_takes_them_where_they_serve(groups):
    rng = np.random.default_rng(6)
    basis = rng.standard_normal((12, 3))
    kernel = np.einsum("tr,rsde->tsde", basis, rng.standard_normal((3, 8, 3, 3)))
    site = Site("conv", kernel, np.ones(12), Geometry(padding=((1, 1), (1, 1))), (8, 8), groups=groups)
    rank = 3
    plans, report = plan_network([site], Request("svd", keep_macs=0.9), parameters=kernel.size + 12)
    assert report.layers[0].method == "svd-out"
    assert report.layers[0].rank >= rank
    assert report.layers[0].error < 1e-6
    assert plans["conv"].convolutions[-1].bias is not None


def test_a_layer_without_signal_keeps_its_kernel():
    kernel = np.random.default_rng(7).standard_normal((4, 4, 3, 3))
    dead = Projections(kernel, PatchCovariance(np.zeros((36, 36)), 4))
    assert np.isfinite(dead.errors("svd-in")).all()
    np.testing.assert_allclose(dead.errors("svd-out"), Projections(kernel).errors("svd-out"))


def test_weights_on_a_grid_are_refused():
    with pytest.raises(ValueError, match="svd has no weights on a grid"):
        Request("svd", keep_macs=0.5, weight_bits=4)


def test_the_identity_is_the_covariance_that_is_assumed():
    kernel = np.random.default_rng(9).standard_normal((5, 6, 3, 2))
    for method in PROJECTIONS:
        one, other = (Projections(kernel, c) for c in (None, PatchCovariance(np.eye(36), 6)))
        np.testing.assert_allclose(one.errors(method), other.errors(method), atol=1e-9)
