"""A fifth model, written outside the package against the protocol alone.

The hierarchical Tucker format of order 4 is a binary tree: leaves U_n, two transfer cores and a root,

    X(i,j,k,l) = sum U_1(i,a) U_2(j,b) U_3(k,c) U_4(l,d) B_12(a,b,p) B_34(c,d,q) S(p,q).

The class below says how its blocks are wired and what their natural shapes are.  Everything else, from the contract of
models to every solver under every constraint, is held against it without a change to the package.

Reference: Hackbusch and Kuehn, "A new scheme for the tensor representation" (2009).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.models import Model, Network
from tests.cases import Case, combined, mostly_slow, relative
from tests.model_contract import ModelContract
from tests.solver_contract import CONSTRAINTS, SOLVERS, SolverContract, few
from tests.test_gauge import GaugeContract

WIRING = ("k", "l", "m", "n", "klo", "mnp", "op")


class HierarchicalTucker(Model):
    """Leaves (I_n, R_n), cores (R_1, R_2, R_12) and (R_3, R_4, R_34), root (R_12, R_34)."""

    name = "hierarchical_tucker"

    def __init__(self, blocks: Sequence[Any]) -> None:
        blocks = [np.array(block) for block in blocks]
        rank = (*(leaf.shape[1] for leaf in blocks[:4]), *blocks[6].shape)
        network = self.wiring(tuple(len(leaf) for leaf in blocks[:4]), rank)
        self._build(network, [self._to_matrix(k, block) for k, block in enumerate(blocks)])

    @classmethod
    def wiring(cls, shape: tuple[int, ...], rank: Any) -> Network:
        if len(shape) != 4:
            raise ValueError(f"HierarchicalTucker: shape {shape} was given; order 4 is needed")
        return Network.single(WIRING, dict(zip("klmnop", rank, strict=True)), (0, 1, 2, 3, None, None, None))

    @property
    def rank(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.network.terms[0].sizes)

    def _to_block(self, k: int, matrix: Any) -> Any:
        return matrix if k < 4 else matrix.reshape(self.network.terms[0].shapes[k])

    def _to_matrix(self, k: int, block: Any) -> Any:
        return block if k < 4 else block.reshape(1, -1)


# -- from here on, nothing but tests --------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _leave_no_trace() -> Iterator[None]:
    yield
    Model.registry.pop(HierarchicalTucker.name, None)


def twin(blocks: Sequence[Any]) -> Any:
    """Leaf by leaf, entry by entry."""
    first, second, third, fourth, left, right, root = blocks
    shape = tuple(len(leaf) for leaf in blocks[:4])
    tensor = np.empty(shape, dtype=np.result_type(*blocks))
    for i, j, k, n in itertools.product(*map(range, shape)):
        pair = sum(first[i, a] * second[j, b] * left[a, b] for a in range(len(left)) for b in range(left.shape[1]))
        other = sum(third[k, c] * fourth[n, d] * right[c, d] for c in range(len(right)) for d in range(right.shape[1]))
        tensor[i, j, k, n] = pair @ root @ other
    return tensor


def tree_case(shape: tuple[int, ...], rank: tuple[int, ...]) -> Case:
    return Case(HierarchicalTucker, shape, rank, twin, sum(r**2 for r in rank))


TREE = tree_case((3, 4, 3, 2), (2, 3, 2, 2, 3, 2))
CASES = [TREE.as_type(dtype) for dtype in ("float64", "complex128", "float32")] + [
    tree_case((2, 2, 3, 2), (1, 2, 1, 2, 2, 1))
]


@pytest.mark.parametrize("case", CASES, ids=[*map(str, CASES[:3]), "thin"])
class TestModel(ModelContract):
    """The contract of models."""


@pytest.mark.parametrize("case", CASES[:2], ids=str)
class TestGauge(GaugeContract):
    """The contract of the gauge."""


@pytest.mark.parametrize(
    "solver", mostly_slow([SOLVERS["lm"], SOLVERS["path"], SOLVERS["als"]], 2), ids=["lm", "path", "als"]
)
@pytest.mark.parametrize("case", CASES[:1], ids=str)
class TestSolvers(SolverContract):
    """The contract of solvers."""


class TestEverythingElse:
    def test_it_takes_few_lines(self) -> None:
        source = Path(__file__).read_text(encoding="utf-8").split("\nclass HierarchicalTucker")[1]
        lines = source.split("\n# --")[0].splitlines()
        assert sum(bool(line.strip()) for line in lines) <= 40

    def test_its_name_is_known(self) -> None:
        fit = tc.decompose(TREE.tensor(), "hierarchical_tucker", rank=TREE.rank, solver=tc.ALS(max_iter=3), rng=0)
        assert type(fit.model) is HierarchicalTucker
        assert "HierarchicalTucker" in repr(fit)

    @pytest.mark.parametrize("init", ["random", "svd"])
    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_an_exact_tree_is_found(self, solver: Any, init: str) -> None:
        truth = HierarchicalTucker.random((4, 4, 4, 4), (2, 2, 2, 2, 2, 2), 1)
        fit = tc.decompose(truth.full(), HierarchicalTucker, rank=truth.rank, solver=solver, init=init, starts=2, rng=0)
        assert fit.error < 1e-5
        assert relative(fit.model.full(), truth.full()) == pytest.approx(fit.error, abs=1e-9)

    @pytest.mark.parametrize(
        ("case", "constraint", "solver"),
        mostly_slow(combined(CASES[:3], list(CONSTRAINTS.values()), list(SOLVERS.values())), 6),
    )
    def test_every_constraint_with_every_solver(self, solver: Any, constraint: Any, case: Case) -> None:
        T = case.tensor()
        fit = tc.decompose(T, HierarchicalTucker, case.rank, solver=solver, constraint=constraint, rng=0, callback=few)
        assert fit.error <= 1.0
        assert fit.error == pytest.approx(relative(fit.model.full(), T), rel=1e-5)
        assert fit.model.dtype == case.dtype

    def test_several_starts(self) -> None:
        fit = tc.decompose(
            TREE.tensor(), HierarchicalTucker, rank=TREE.rank, solver=tc.LM(max_iter=20), starts=3, rng=0
        )
        assert len(fit.starts) == 3
        assert fit.error == min(start.error for start in fit.starts)

    def test_it_contains_the_tucker_model(self) -> None:
        # The tree with full inner ranks is a Tucker model: B_12 and B_34 flatten pairs of modes of the core.
        tucker = tc.Tucker.random((3, 3, 3, 3), (2, 2, 2, 2), 0)
        pairs = np.eye(4).reshape(2, 2, 4)
        tree = HierarchicalTucker([*tucker.factors, pairs, pairs, tucker.core.reshape(4, 4)])
        assert relative(tree.full(), tucker.full()) < 1e-14
        assert tree.inner(tucker) == pytest.approx(tucker.norm() ** 2, rel=1e-12)

    def test_a_rank_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="order 4"):
            tc.decompose(np.ones((2, 2, 2)), HierarchicalTucker, rank=(1,) * 6)
        with pytest.raises(ValueError, match="beyond the size"):
            tc.decompose(np.ones((2, 2, 2, 2)), HierarchicalTucker, rank=(9, 1, 1, 1, 1, 1))
