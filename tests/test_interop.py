"""Models in other packages: the same tensor there, and the same blocks, bit for bit, when they come back."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import opt_einsum
import pytest
import pyttb
import quimb.tensor
import scipy.sparse
import tensorly
import torch
import xarray
from numpy.testing import assert_array_equal
from tensorly.cp_tensor import CPTensor
from tensorly.decomposition import parafac, tensor_ring, tensor_train, tucker
from tensorly.parafac2_tensor import Parafac2Tensor
from tensorly.tr_tensor import TRTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor

import tensorchain as tc
from tensorchain.interop import from_pyttb, from_tensorly, to_einsum, to_pyttb, to_quimb, to_tensorly
from tests.cases import ALL, Case, four_models, relative

IN_TENSORLY = [case for case in ALL if case.kind is not tc.BlockTerm]
IN_PYTTB = [case for case in ALL if case.kind is not tc.TensorChain and case.dtype != "complex128"]
CLASSES = {tc.CP: CPTensor, tc.Tucker: TuckerTensor, tc.TensorChain: TRTensor}


def assert_same(model: Any, again: Any) -> None:
    """The same kind, type and entries, to the last bit."""
    assert type(again) is type(model)
    assert again.dtype == model.dtype
    for one, other in zip(model.blocks, again.blocks, strict=True):
        assert_array_equal(one, other)
    assert_array_equal(model.full(), again.full())


class TestTensorly:
    @pytest.mark.parametrize("case", IN_TENSORLY, ids=str)
    def test_there_and_back(self, case: Case) -> None:
        model = case.model()
        there = to_tensorly(model)
        assert type(there) is CLASSES[case.kind]
        assert relative(there.to_tensor(), case.twin(model.blocks)) < case.tol
        assert_same(model, from_tensorly(there))

    def test_what_tensorly_finds(self) -> None:
        T = tc.datasets.inverse_radius(order=3, size=5)
        for found in (
            parafac(T, 2, n_iter_max=3, normalize_factors=True, init="svd"),
            tucker(T, (2, 3, 2), n_iter_max=2),
            tensor_ring(T, (2, 2, 2, 2)),
            tensor_train(T, (1, 2, 3, 1)),
        ):
            model = from_tensorly(found)
            assert relative(model.full(), found.to_tensor()) < 1e-13
        assert type(model) is tc.TensorChain
        assert model.bonds == (1, 2, 3)

    def test_weights_go_into_the_first_factor(self) -> None:
        factors = [np.ones((3, 2)), np.ones((4, 2))]
        weighted = from_tensorly(CPTensor((np.array([2.0, -3.0]), factors)))
        assert_array_equal(weighted.blocks[0], [[2.0, -3.0]] * 3)
        assert_array_equal(weighted.blocks[1], factors[1])
        single = [factor.astype(np.float32) for factor in factors]
        assert from_tensorly(CPTensor((np.ones(2), single))).dtype == np.float32

    def test_bare_parts(self) -> None:
        model = tc.CP.random((3, 4, 5), 2, 0)
        assert_same(model, from_tensorly((None, model.factors)))
        assert_same(model, from_tensorly([np.ones(2), list(model.factors)]))
        model = tc.Tucker.random((3, 4), (2, 3), 0)
        assert_same(model, from_tensorly((model.core, model.factors)))
        model = tc.TensorChain.random((3, 4), (1, 3), 0)
        assert_same(model, from_tensorly(list(model.cores)))
        train = tc.TensorChain.random((3, 4, 5), (1, 2, 3), 0)
        assert_same(train, from_tensorly(TTTensor(list(train.cores))))

    @pytest.mark.parametrize("case", [four_models(3)[0], four_models(3)[1], four_models(3)[3]], ids=str)
    def test_another_backend(self, case: Case) -> None:
        model = case.model()
        with tensorly.backend_context("pytorch"):
            there = to_tensorly(model)
            assert isinstance(there.factors[0], torch.Tensor)
            assert relative(there.to_tensor().numpy(), model.full()) < 1e-12
        # Read where another backend is the current one.
        assert_same(model, from_tensorly(there))

    def test_a_fit_is_taken_for_its_model(self) -> None:
        fit = tc.decompose(tc.datasets.inverse_radius(order=3, size=5), "cp", 2, solver=tc.ALS(max_iter=2), rng=0)
        assert_same(fit.model, from_tensorly(to_tensorly(fit)))

    def test_what_has_no_twin_is_refused(self) -> None:
        with pytest.raises(TypeError, match="one by one"):
            to_tensorly(four_models(3)[2].model())
        with pytest.raises(TypeError, match="a fit or a model is needed, and a list was given"):
            to_tensorly([1])  # type: ignore[arg-type]
        factors = [np.ones((2, 1)), np.ones((1, 1)), np.ones((3, 1))]
        slices = Parafac2Tensor((np.ones(1), factors, [np.ones((1, 1))] * 2))
        with pytest.raises(TypeError, match="PARAFAC2"):
            from_tensorly(slices)
        with pytest.raises(TypeError, match="three dimensions each"):
            from_tensorly([np.ones((1, 2, 2, 1)), np.ones((1, 2, 2, 1))])
        for nonsense in (3, np.ones((2, 2)), [], SimpleNamespace()):
            with pytest.raises(TypeError, match="CPTensor"):
                from_tensorly(nonsense)
        with pytest.raises(ValueError, match="weights have shape"):
            from_tensorly((np.ones(3), [np.ones((2, 2)), np.ones((2, 2))]))


class TestPyttb:
    @pytest.mark.parametrize("case", IN_PYTTB, ids=str)
    def test_there_and_back(self, case: Case) -> None:
        model = case.model()
        there = to_pyttb(model)
        assert type(there).__name__ == {"cp": "ktensor", "tucker": "ttensor", "btd": "sumtensor"}[case.kind.name]
        assert relative(there.full().data, case.twin(model.blocks)) < case.tol
        # pyttb holds double precision.
        assert_same(model.astype(np.float64), from_pyttb(there))

    def test_weights_go_into_the_first_factor(self) -> None:
        kruskal = pyttb.ktensor([np.ones((3, 2)), np.ones((4, 2))], np.array([2.0, -3.0]))
        model = from_pyttb(kruskal)
        assert_array_equal(model.blocks[0], [[2.0, -3.0]] * 3)
        assert_array_equal(model.full(), kruskal.full().data)

    def test_what_pyttb_finds(self) -> None:
        T = pyttb.tensor(tc.datasets.inverse_radius(order=3, size=5))
        kruskal, _, _ = pyttb.cp_als(T, 2, maxiters=2, printitn=0)
        assert relative(from_pyttb(kruskal).full(), kruskal.full().data) < 1e-13
        multilinear = pyttb.tucker_als(T, 2, maxiters=2, printitn=0)[0]
        assert relative(from_pyttb(multilinear).full(), multilinear.full().data) < 1e-13

    def test_sparse_parts_are_read(self) -> None:
        core = np.zeros((2, 2))
        core[0, 1] = 3.0
        factors = [scipy.sparse.coo_matrix(np.eye(3, 2)), np.ones((4, 2))]
        model = from_pyttb(pyttb.ttensor(pyttb.tensor(core).to_sptensor(), factors))
        assert_array_equal(model.core, core)
        assert_array_equal(model.full(), np.eye(3, 2) @ core @ np.ones((2, 4)))

    def test_a_sum_of_both_kinds(self) -> None:
        cp, tucker_model = tc.CP.random((3, 4, 2), 2, 0), tc.Tucker.random((3, 4, 2), (2, 2, 1), 1)
        both = pyttb.sumtensor([to_pyttb(cp), to_pyttb(tucker_model)])
        model = from_pyttb(both)
        assert type(model) is tc.BlockTerm
        assert model.rank == [(2, 2, 2), (2, 2, 1)]
        assert relative(model.full(), cp.full() + tucker_model.full()) < 1e-14

    def test_what_has_no_twin_is_refused(self) -> None:
        with pytest.raises(TypeError, match="TensorChain was given"):
            to_pyttb(four_models(3)[3].model())
        with pytest.raises(TypeError, match="complex"):
            to_pyttb(tc.CP.random((3, 4), 2, 0, dtype=complex))
        for nonsense in (pyttb.tensor(np.ones((2, 2))), np.ones((2, 2)), 3):
            with pytest.raises(TypeError, match="a ktensor, ttensor or sumtensor"):
                from_pyttb(nonsense)


class TestExpressions:
    @pytest.mark.parametrize("case", ALL, ids=str)
    def test_einsum(self, case: Case) -> None:
        model = case.model()
        terms = to_einsum(model)
        assert len(terms) == len(model.network.terms)
        twin = case.twin(model.blocks)
        plain = sum(np.einsum(term.equation, *term.operands, optimize=True) for term in terms)
        assert relative(plain, twin) < case.tol
        compiled = [opt_einsum.contract_expression(t.equation, *(o.shape for o in t.operands)) for t in terms]
        value = sum(run(*term.operands) for run, term in zip(compiled, terms, strict=True))
        assert relative(value, twin) < case.tol
        assert all(not operand.flags.writeable for term in terms for operand in term.operands)

    def test_equations_are_readable(self) -> None:
        cp, tucker_model, btd, chain = (to_einsum(case.model()) for case in four_models(3))
        assert [term.equation for term in cp] == ["ar,br,cr->abc"]
        assert [term.equation for term in tucker_model] == ["klm,ak,bl,cm->abc"]
        assert [term.equation for term in btd] == ["klm,ak,bl,cm->abc"] * 2
        assert [term.equation for term in chain] == ["akl,blm,cmk->abc"]

    @pytest.mark.parametrize("case", [case for case in ALL if case.kind is not tc.BlockTerm], ids=str)
    def test_quimb(self, case: Case) -> None:
        model = case.model()
        network = to_quimb(model)
        names = tuple(f"mode {n + 1}" for n in range(model.order))
        assert relative(network.contract(output_inds=names).data, case.twin(model.blocks)) < case.tol
        assert set(network.tags) == set(model.block_names)

    def test_quimb_keeps_the_names_of_dimensions(self) -> None:
        data = xarray.DataArray(np.random.default_rng(0).standard_normal((4, 5, 3)), dims=("time", "place", "band"))
        fit = tc.decompose(data, "tc", 2, solver=tc.ALS(max_iter=2), rng=0)
        network = to_quimb(fit)
        assert set(network.outer_inds()) == {"time", "place", "band"}
        value = network.contract(output_inds=("time", "place", "band"))
        assert isinstance(value, quimb.tensor.Tensor)
        assert relative(value.data, fit.model.full()) < 1e-12

    def test_a_sum_is_no_network(self) -> None:
        with pytest.raises(TypeError, match=r"2 terms was given.*one by one"):
            to_quimb(four_models(3)[2].model())


PACKAGES = {
    "tensorly": (lambda: to_tensorly(tc.CP.random((3, 4), 2, 0)), "to_tensorly needs TensorLy"),
    "pyttb": (lambda: to_pyttb(tc.CP.random((3, 4), 2, 0)), "to_pyttb needs pyttb"),
    "quimb.tensor": (lambda: to_quimb(tc.CP.random((3, 4), 2, 0)), "to_quimb needs quimb"),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, message = PACKAGES[package]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message + r".*: pip install tensorchain\[interop\]"):
        call()


def test_none_of_them_is_imported_early() -> None:
    heavy = ["tensorly", "pyttb", "quimb", "opt_einsum", "sklearn", "torch", "safetensors", "IPython", "matplotlib"]
    code = (
        "import sys, tensorchain.cli, tensorchain.interop, tensorchain.plotting;"
        "tensorchain.interop.Decomposition('cp', 1).get_params();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
