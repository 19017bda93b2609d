"""A method for each layer, and layers side by side."""

import numpy as np
import pytest

from tensorchain.compression import Geometry, Request, Site, plan_network
from tensorchain.compression.parallel import in_parallel
from tensorchain.compression.progress import Progress

SAME = Geometry(padding=((1, 1), (1, 1)))


def sites():
    """One kernel that is a CPD, one that is a Tucker-2, a matrix and a kernel without structure."""
    rng = np.random.default_rng(0)
    cpd = np.einsum("tr,sr,ir,jr->tsij", *(rng.standard_normal((n, 6)) for n in (16, 16, 3, 3)))
    tucker = np.einsum("ta,sb,abij->tsij", *(rng.standard_normal(n) for n in ((16, 5), (16, 5), (5, 5, 3, 3))))
    kernels = {
        "cpd": cpd,
        "tucker": tucker,
        "matrix": rng.standard_normal((16, 12, 1, 1)),
        "noise": rng.standard_normal((16, 16, 3, 3)),
    }
    return [
        Site(name, kernel, None, SAME if kernel.shape[2] > 1 else Geometry(), (8, 8))
        for name, kernel in kernels.items()
    ]


def total(all_sites):
    return sum(site.parameters for site in all_sites)


def test_each_layer_gets_the_method_that_suits_it():
    given = sites()[:2]
    plans, report = plan_network(given, Request("auto", keep_macs=0.16, stabilise=False), parameters=total(given))
    methods = {layer.name: layer.method for layer in report.layers}
    errors = {layer.name: layer.error for layer in report.layers}
    assert methods["cpd"] in ("cp3", "cp4")
    assert methods["tucker"] in ("tucker2", "tucker-cp")
    assert errors["cpd"] < 0.05
    assert errors["tucker"] < 0.05
    assert all(plans[name].method == method for name, method in methods.items() if method != "dense")
    assert report.macs[1] <= 0.16 * report.macs[0]


def test_no_method_alone_has_a_smaller_predicted_error():
    given = sites()
    errors = {}
    for method in ("auto", "cp3", "tucker2", "tc"):
        request = Request(method, keep_params=0.4, stabilise=False, candidates=3)
        _, report = plan_network(given, request, parameters=total(given))
        errors[method] = report.allocation.error
    assert all(errors["auto"] <= error + 1e-3 for error in errors.values())


@pytest.mark.slow
def test_layers_side_by_side_are_those_one_after_the_other(tmp_path):
    pytest.importorskip("joblib")
    given = sites()[:3]
    runs = [
        plan_network(
            given, Request("auto", keep_macs=0.5, candidates=2, stabilise=False, jobs=jobs), parameters=total(given)
        )
        for jobs in (1, 2)
    ]
    for (alone, first), (together, second) in [runs]:
        assert first.allocation.choices == second.allocation.choices
        assert alone.keys() == together.keys()
        for name, plan in alone.items():
            np.testing.assert_allclose(plan.kernel, together[name].kernel, atol=1e-6)


def test_a_checkpoint_remembers_the_methods(tmp_path):
    pytest.importorskip("safetensors")
    given, path = sites(), tmp_path / "run.safetensors"
    request = Request("auto", keep_macs=0.5, candidates=3, stabilise=False)
    first = plan_network(given, request, parameters=total(given), progress=Progress(path, "x"))
    again = plan_network(given, request, parameters=total(given), progress=Progress(path, "x"))
    assert [layer.method for layer in first[1].layers] == [layer.method for layer in again[1].layers]
    assert again[1].seconds < first[1].seconds
    for name, plan in first[0].items():
        np.testing.assert_array_equal(plan.kernel, again[0][name].kernel)


def test_unknown_methods_and_jobs_are_refused():
    with pytest.raises(ValueError, match="auto, cp3"):
        Request("best", keep_macs=0.5)
    with pytest.raises(ValueError, match="jobs"):
        list(in_parallel([(pow, (2, 3))], 0))
