"""What a solver computes with: one tensor, and the model at which it is looked at.

An evaluator is made by a run (`Tensor.evaluator(model)`) and belongs to it: buffers, plans and partial products live
here, neither in the data nor in the models, so that one tensor can serve several threads.  It *holds* one model of a
fixed wiring, shape and dtype; every answer is about that model.

    error()                     ||T - X||, exact to rounding at any size
    gradient()                  J_k^H (T - X) for each block
    rhs(k)                      L_k^H vec(T): the right-hand side of the least-squares problem of block k
    gram(k), system(k)          L_k^H L_k, its matrix
    metric(k)                   Q_k, the metric of the sensitivity
    gauss_newton()              J^H J, for all blocks at once

This class is the generic one: it asks the tensor and the model anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tensorchain.kernels import Array, System
from tensorchain.models import Model

if TYPE_CHECKING:
    from tensorchain.tensors import Tensor
    from tensorchain.tensors.base import Residual


class Evaluator:
    """Answers about one tensor at one model, asked of both.

    What `rhs` and `gradient` return belongs to the caller; Grams and metrics may be those that a model has at hand.

    Parameters
    ----------
    tensor : Tensor
        The data.
    model : Model
        The model to begin with.
    """

    def __init__(self, tensor: Tensor, model: Model) -> None:
        self.tensor, self.network = tensor, model.network
        self._model = model
        self._residual: Residual | None = None

    # -- where it stands ----------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The model that is held; it does not change when the evaluator moves on."""
        return self._model

    def matrix(self, k: int) -> Array:
        """Block k of the model, in matrix form; not to be written to."""
        return self._model.matrices[k]

    def hold(self, model: Model) -> None:
        """Move to another model of the same wiring, shape and dtype.

        Raises
        ------
        ValueError
            For a model of another wiring.
        """
        if model is not self._model:
            self._check(model)
            self._model, self._residual = model, None

    def replace(self, k: int, matrix: Array) -> None:
        """Move to the model with another block k, in matrix form; the array is given away."""
        self.hold(self._model.with_matrix(k, matrix))

    def state(self) -> list[list[int]]:
        """What is at hand beside the model, in plain numbers (JSON): nothing here.

        Sums are rounded in another order when they are made from other partial products.  An evaluator of the same
        tensor at the same model that is given this by `restore` answers as this one, to the last bit.
        """
        return []

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        """Have at hand what `state` of another evaluator said."""
        if state:
            raise ValueError(f"{type(self).__name__} has no partial products, {state!r} was given; pass []")

    def _check(self, model: Model) -> None:
        same = model.network is self.network or model.network == self.network
        if not same or model.shape != self._model.shape:
            raise ValueError(f"the evaluator is for models such as {self._model!r}, not {model!r}; make another one")

    # -- the data -----------------------------------------------------------------------

    @cached_property
    def norm(self) -> float:
        """||T||."""
        return self.tensor.norm()

    @property
    def rounding(self) -> float:
        """Relative error below which the data say nothing."""
        return self.tensor.rounding

    @property
    def complete(self) -> bool:
        """Whether every entry is observed with one weight, so that Grams follow from the model alone."""
        return self.tensor.complete

    # -- the data and the model ---------------------------------------------------------

    def error(self) -> float:
        """||T - X||."""
        return self._at_model().norm

    def gradient(self) -> list[Array]:
        """J_k^H (T - X) for each block, in matrix form."""
        return self._at_model().gradient

    def rhs(self, k: int) -> Array:
        """L_k^H vec(T), (I_k, P_k)."""
        return self.tensor.contract_all_but(self.model, k)

    def joint_rhs(self, k: int) -> Array | None:
        """L^H vec(T) for the core that has taken in factor k, as `Model.rejoined` needs it; None for most models."""
        whole = self.model.absorbed(k) if self.complete else None
        return None if whole is None else self.tensor.contract_all_but(whole, 0)

    def gram(self, k: int) -> Array:
        """L_k^H L_k over the observed entries: (P_k, P_k), or (I_k, P_k, P_k) where rows differ."""
        return self.tensor.gram(self.model, k)

    def system(self, k: int) -> System:
        """L_k^H L_k over the observed entries, to apply to block k and to solve."""
        return self.tensor.system(self.model, k)

    def gauss_newton(self) -> Array:
        """J^H J over the observed entries, at least its upper block triangle: the caller's until the next call."""
        return self.tensor.gauss_newton(self.model)

    def gauss_newton_matvec(self, delta: Sequence[Array]) -> list[Array]:
        """J^H J delta over the observed entries."""
        return self.tensor.gauss_newton_matvec(self.model, delta)

    # -- the model ----------------------------------------------------------------------

    def sensitivity(self) -> float:
        """SS."""
        return float(self.model.block_sensitivities().sum())

    def metric(self, k: int) -> Array:
        """Q_k, (P_k, P_k), with SS = <B_k, B_k Q_k^T> + I_k tr M_k."""
        return self.model.sensitivity_metric(k)

    def apply_metric(self, k: int, block: Array) -> Array:
        """B Q_k^T for a block in matrix form; Q_k of a core is not formed."""
        return self.model.apply_metric(k, block)

    def _at_model(self) -> Residual:
        if self._residual is None:
            self._residual = self.tensor.residual(self.model)
        return self._residual
