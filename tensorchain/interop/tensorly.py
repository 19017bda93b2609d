"""Models to and from TensorLy, without a change of the tensor.

| here | TensorLy |
|---|---|
| `CP` | `CPTensor`, with weights of one |
| `Tucker` | `TuckerTensor` |
| `TensorChain` | `TRTensor` (tensor ring); a `TTTensor` (tensor train) is read as a chain whose first bond is 1 |

TensorLy has no block terms: convert `model.terms` one by one.  Weights of a `CPTensor` that is read go into its first
factor; `tensorchain.optimal_gauge` spreads them over all factors.  Arrays are copied, in the type they have; those that
are written belong to TensorLy's current backend, those that are read may belong to any.

Reference: Kossaifi, Panagakis, Anandkumar, Pantic, "TensorLy: tensor learning in Python" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import Subject, labels_of
from tensorchain.models import CP, Model, TensorChain, Tucker


def to_tensorly(model: Subject) -> Any:
    """The TensorLy object that stands for the same tensor.

    Parameters
    ----------
    model : Fit or Model
        a `CP`, `Tucker` or `TensorChain`, or a fit of one.

    Returns
    -------
    object
        Tensorly `CPTensor`, `TuckerTensor` or `TRTensor`, in the current backend of TensorLy.

    Raises
    ------
    TypeError
        When TensorLy has no such model.
    ImportError
        Without TensorLy.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.interop import to_tensorly
    >>> chain = tc.TensorChain.random((4, 5, 6), (2, 3, 2), rng=0)
    >>> np.allclose(to_tensorly(chain).to_tensor(), chain.full())
    True
    """
    model = labels_of(model).model
    if not isinstance(model, (CP, Tucker, TensorChain)):
        raise TypeError(
            f"TensorLy has CP, Tucker and tensor ring models, and a {type(model).__name__} was given; "
            "convert the terms of a block-term model one by one: [to_tensorly(term) for term in model.terms]"
        )
    try:
        import tensorly
        from tensorly.cp_tensor import CPTensor
        from tensorly.tr_tensor import TRTensor
        from tensorly.tucker_tensor import TuckerTensor
    except ImportError as error:
        raise ImportError("to_tensorly needs TensorLy: pip install tensorchain[interop]") from error
    blocks = [tensorly.tensor(np.array(block)) for block in model.blocks]
    if isinstance(model, CP):
        return CPTensor((None, blocks))
    return TRTensor(blocks) if isinstance(model, TensorChain) else TuckerTensor((blocks[0], blocks[1:]))


def from_tensorly(decomposition: Any) -> Model:
    """The model that stands for the same tensor as an object of TensorLy.

    Parameters
    ----------
    decomposition : object of TensorLy, tuple or list
        `CPTensor`, `TuckerTensor`, `TRTensor` or `TTTensor`; or what these are made of: (weights, factors), (core,
        factors), or a list of cores of three dimensions.

    Returns
    -------
    Model
        CP, Tucker or TensorChain.

    Raises
    ------
    TypeError
        When it is none of these.
    ValueError
        When its parts do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.interop import from_tensorly
    >>> from_tensorly((np.array([2.0, 3.0]), [np.eye(2), np.eye(2)])).full()
    array([[2., 0.],
           [0., 3.]])
    """
    if hasattr(decomposition, "projections"):
        raise TypeError("a PARAFAC2 model was given, whose slices differ in size; it is no model of one tensor")
    factors = getattr(decomposition, "factors", None)
    if factors is None:
        return _from_parts(decomposition)
    if hasattr(decomposition, "core"):
        return _tucker(decomposition.core, factors)
    return _cp(decomposition.weights, factors) if hasattr(decomposition, "weights") else _chain(factors)


def _from_parts(parts: Any) -> Model:
    """A model from a bare pair or list."""
    if not isinstance(parts, (tuple, list)) or not parts:
        raise TypeError(
            f"a {type(parts).__name__} was given; TensorLy's CPTensor, TuckerTensor, TRTensor or TTTensor is needed, "
            "or (weights, factors), (core, factors), or a list of cores"
        )
    if len(parts) == 2 and isinstance(parts[1], (tuple, list)):
        head, factors = parts
        return _cp(head, factors) if head is None or np.ndim(on_host(head)) == 1 else _tucker(head, factors)
    return _chain(parts)


def _cp(weights: Any, factors: Sequence[Any]) -> CP:
    blocks = [on_host(factor) for factor in factors]
    if weights is not None:
        scale = on_host(weights)
        if scale.shape != blocks[0].shape[1:]:
            raise ValueError(f"weights have shape {scale.shape} and the first factor {blocks[0].shape}; one a column")
        # Weights of one, and no others, leave the type of the factors alone.
        blocks[0] = blocks[0] if np.all(scale == 1) else blocks[0] * scale
    return CP(blocks)


def _tucker(core: Any, factors: Sequence[Any]) -> Tucker:
    return Tucker(on_host(core), [on_host(factor) for factor in factors])


def _chain(cores: Sequence[Any]) -> TensorChain:
    blocks = [on_host(core) for core in cores]
    shapes = [block.shape for block in blocks]
    if any(len(shape) != 3 for shape in shapes):
        raise TypeError(f"cores of shapes {shapes} were given; a chain needs three dimensions each: (R, I, R')")
    return TensorChain(blocks)


def on_host(array: Any) -> Array:
    """An array of any of TensorLy's backends as a NumPy array."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    elif hasattr(array, "get") and hasattr(array, "device"):
        array = array.get()
    return np.asarray(array)
