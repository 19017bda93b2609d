"""Arrays in memory: the products with T come from partial products that are used again.

A sweep replaces one block after the other, and a partial product is good until a block in it is replaced: two passes
over the data a sweep, or three for two sweeps (:mod:`tensorchain.evaluation.tree`).  Each change of a block gets a
number of its own, its *version*, and a partial product remembers those of the blocks in it.

Masked tensors are served as well: their products with T are those of the array of W T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensorchain.evaluation.evaluator import Evaluator
from tensorchain.evaluation.partials import Partials
from tensorchain.kernels import Array
from tensorchain.models import Model

if TYPE_CHECKING:
    from tensorchain.tensors import Tensor


class DenseEvaluator(Evaluator):
    """Answers about a tensor whose products are those of one array.

    Parameters
    ----------
    tensor, model : Tensor or Model
        As for `Evaluator`.
    array : ndarray
        L_k^H vec(T) is `scale` times that of this array.
    scale : float, default 1.0
        A number.
    """

    def __init__(self, tensor: Tensor, model: Model, array: Array, *, scale: float = 1.0) -> None:
        super().__init__(tensor, model)
        self._partials, self._scale = Partials(array), scale
        self._versions = list(range(len(model.matrices)))
        self._changes = len(self._versions)

    def hold(self, model: Model) -> None:
        before = self._model
        super().hold(model)
        for k, (old, new) in enumerate(zip(before.matrices, model.matrices, strict=True)):
            # Blocks are immutable, and both models are alive: the same array is the same block.
            if new is not old:
                self._versions[k] = self._changes
                self._changes += 1

    def rhs(self, k: int) -> Array:
        return self._scaled(self._partials.all_but(self._model, k, self._versions))

    def joint_rhs(self, k: int) -> Array | None:
        whole = self._model.absorbed(k) if self.complete else None
        if whole is None:
            return None
        # Block 0 of `whole` has no version: it is not multiplied, and no partial product holds it.
        versions = [-1, *(version for m, version in enumerate(self._versions) if m not in (0, k))]
        return self._scaled(self._partials.all_but(whole, 0, versions))

    def state(self) -> list[list[int]]:
        return self._partials.state(self._model, self._versions)

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        self._partials.restore(self._model, self._versions, state)

    def _scaled(self, product: Array) -> Array:
        # Always a new array: the product may be a view of a partial product.
        return product * self._scale
