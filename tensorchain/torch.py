"""Models as PyTorch modules: blocks as parameters, X and its sensitivity with gradients.

A tensor model inside someone's own training has the trouble of every fit: its blocks may grow and cancel.  The module
gives the sensitivity as a term for the loss, so that it is held down there as well:

    module = tc.torch.as_module(fit.model)
    loss = task(module()) + weight * module.sensitivity()

Values are made by the contractions of :mod:`tensorchain.models`, the sensitivity from the moments of the blocks,
without forming a Jacobian; autograd goes through both.  PyTorch is imported by the first call.
"""

from __future__ import annotations

import itertools
import string
from functools import cache
from typing import Any

import numpy as np

from tensorchain.evaluation.device_blocks import DeviceBlocks
from tensorchain.kernels.namespace import Namespace
from tensorchain.models import Model
from tensorchain.models.network import BATCH, Network

__all__ = ["as_module"]


def as_module(model: Model, *, dtype: Any = None, device: Any = None) -> Any:
    """A model as a `torch.nn.Module`.

    Parameters
    ----------
    model : Model
        CP, Tucker, block terms, a chain, or any other model; it is not changed.
    dtype : torch.dtype, optional
        Of the parameters; that of the model by default.
    device : torch.device or str, optional
        Where they are made.

    Returns
    -------
    torch.nn.Module
        With

        - `blocks`, a `ParameterList` of the blocks in their natural shapes;
        - `forward()`, the tensor X, and `forward(indices)`, its entries at integer positions (..., N);
        - `sensitivity(relative=False)`, SS with a gradient;
        - `model()`, the model with the blocks as they are now, on the host.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        When `model` is no model.

    Examples
    --------
    >>> import torch, tensorchain as tc
    >>> model = tc.TensorChain.random((4, 5, 6), 2, rng=0)
    >>> module = tc.torch.as_module(model)
    >>> [tuple(block.shape) for block in module.blocks]
    [(2, 4, 2), (2, 5, 2), (2, 6, 2)]
    >>> module().shape, module(torch.tensor([[0, 1, 2], [3, 4, 5]])).shape
    (torch.Size([4, 5, 6]), torch.Size([2]))
    >>> loss = module().square().sum() + 1e-3 * module.sensitivity()
    >>> loss.backward()
    >>> module.blocks[0].grad.shape
    torch.Size([2, 4, 2])
    >>> bool(abs(module.sensitivity().item() / model.sensitivity() - 1) < 1e-12)
    True
    """
    inner = getattr(model, "model", model)
    if not isinstance(inner, Model):
        raise TypeError(f"as_module: a {type(model).__name__} was given; a model such as tc.CP, or a Fit, is needed")
    return module_class()(inner, dtype=dtype, device=device)


@cache
def module_class() -> Any:
    """`TensorModel`, the class of the modules; made at first use, so that this package is imported without PyTorch."""
    try:
        import torch
        from torch import nn
    except ImportError as error:
        raise ImportError("a model as a PyTorch module needs PyTorch: pip install tensorchain[torch]") from error

    class TensorModel(nn.Module):  # type: ignore[misc, unused-ignore]
        """A tensor model with its blocks as parameters."""

        def __init__(self, model: Model, *, dtype: Any = None, device: Any = None) -> None:
            super().__init__()
            self._like = model.with_matrices([np.zeros_like(matrix) for matrix in model.matrices])
            self._axes = [_axes_of(model, k) for k in range(len(model.matrices))]
            blocks = [torch.tensor(np.array(block), dtype=dtype, device=device) for block in model.blocks]
            self.blocks = nn.ParameterList([nn.Parameter(block) for block in blocks])

        def forward(self, indices: Any = None) -> Any:
            """X, (I_1, ..., I_N); or its entries at `indices`, integers (..., N): (...)."""
            if indices is None:
                return self._full()
            positions = torch.as_tensor(indices, device=self.blocks[0].device)
            order = self._like.order
            if positions.is_floating_point() or positions.is_complex() or positions.shape[-1:] != (order,):
                raise ValueError(
                    f"indices are {positions.dtype} of shape {tuple(positions.shape)}; integers of shape (..., {order})"
                    " are needed, one column for each mode"
                )
            return self._entries(positions.reshape(-1, order)).reshape(positions.shape[:-1])

        def sensitivity(self, relative: bool = False) -> Any:
            """SS, the expected squared change of X per unit variance of noise on the blocks, with a gradient.

            With `relative`, SS / ||X||^(2(K-1)/K), which does not change when X is scaled.
            """
            held = self._held()
            value = held.sensitivity()
            if not relative:
                return value
            count = len(self.blocks)
            k = min(range(count), key=lambda n: self._like.network.widths[n])
            moment, gram = held.moment(k), held.gram(k)
            square = (moment * gram).sum().real if moment.is_complex() else (moment * gram).sum()
            return value / square ** ((count - 1) / count)

        def model(self) -> Model:
            """The model with the blocks as they are, on the host; not connected with the module."""
            matrices = [self._matrix(k).detach().cpu().resolve_conj().numpy() for k in range(len(self.blocks))]
            return self._like.with_matrices([np.array(matrix) for matrix in matrices])

        def extra_repr(self) -> str:
            return repr(self._like)

        # -- inside ---------------------------------------------------------------------

        def _matrix(self, k: int) -> Any:
            """Block k in matrix form, (I_k, P_k)."""
            block, like = self.blocks[k], self._like.matrices[k]
            if block.dtype == torch.bfloat16:
                # NumPy has no such numbers, and sums of them no digits.
                block = block.float()
            return block.permute(self._axes[k]).reshape(like.shape)

        def _held(self) -> DeviceBlocks:
            matrices = [self._matrix(k) for k in range(len(self.blocks))]
            names = Namespace(matrices[0])
            held = DeviceBlocks(names, self._like.network, self._like.row_counts, names.dtype(matrices[0]))
            for k, matrix in enumerate(matrices):
                held.put(k, matrix)
            return held

        def _full(self) -> Any:
            held, network = self._held(), self._like.network
            total: Any = None
            for t, subscripts in enumerate(network.evaluations):
                value = held.namespace.contract(subscripts, *[held.operand(t, k) for k in range(len(self.blocks))])
                total = value if total is None else total + value
            return total

        def _entries(self, positions: Any) -> Any:
            network = self._like.network
            total: Any = None
            for t, term in enumerate(network.terms):
                operands, labels = [], []
                for k, mode in enumerate(network.modes):
                    matrix = self._matrix(k)[:, network.columns[t][k]]
                    rows = matrix[0] if mode is None else matrix[positions[:, mode]]
                    labels.append(term.bonds[k] if mode is None else BATCH + term.bonds[k])
                    operands.append(rows.reshape(*([] if mode is None else [-1]), *term.shapes[k]))
                value = torch.einsum(_in_ascii(labels, network), *operands)
                total = value if total is None else total + value
            return total

    TensorModel.__module__, TensorModel.__qualname__ = __name__, "TensorModel"
    return TensorModel


def _axes_of(model: Model, k: int) -> tuple[int, ...]:
    """The permutation of the axes of block k after which it is its matrix form, row by row."""
    block = model.blocks[k]
    places = np.arange(block.size).reshape(block.shape)
    wanted = model._to_matrix(k, places).ravel()
    for axes in itertools.permutations(range(block.ndim)):
        if np.array_equal(places.transpose(axes).ravel(), wanted):
            return axes
    raise TypeError(
        f"{type(model).__name__}: block {k} is no permutation of the axes of its matrix form; write `_to_block` and "
        "`_to_matrix` as transpositions and reshapes"
    )


def _in_ascii(labels: list[str], network: Network) -> str:
    """Subscripts for PyTorch's einsum, which takes no letters but those of ASCII."""
    letters = dict.fromkeys("".join(labels))
    plain = [letter for letter in string.ascii_letters if letter != BATCH]
    if len(letters) - 1 > len(plain):
        raise ValueError(f"entries of a model of order {network.order} need more than 52 indices; use forward()")
    names = {BATCH: BATCH, **dict(zip((x for x in letters if x != BATCH), plain, strict=False))}
    return ",".join("".join(names[x] for x in label) for label in labels) + "->" + BATCH


def __getattr__(name: str) -> Any:
    # Pickled modules find their class here.
    if name == "TensorModel":
        return module_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
