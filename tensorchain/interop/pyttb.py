"""Models to and from pyttb, the Python Tensor Toolbox, without a change of the tensor.

| here | pyttb |
|---|---|
| `CP` | `ktensor`, with weights of one |
| `Tucker` | `ttensor` |
| `BlockTerm` | `sumtensor` of `ttensor`s |

pyttb has no chain, and holds real numbers in double precision: a float32 model is widened, a complex one refused.
Weights of a `ktensor` that is read go into its first factor; `tensorchain.optimal_gauge` spreads them over all factors.
Cores and factors that are sparse are read as dense ones.

Reference: Bader and Kolda, "Algorithm 862: MATLAB tensor classes for fast algorithm prototyping" (2006).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorchain.kernels import Array
from tensorchain.labels import Subject, labels_of
from tensorchain.models import CP, BlockTerm, Model, Tucker


def to_pyttb(model: Subject) -> Any:
    """The pyttb object that stands for the same tensor.

    Parameters
    ----------
    model : Fit or Model
        A real `CP`, `Tucker` or `BlockTerm`, or a fit of one.

    Returns
    -------
    object
        Pyttb `ktensor`, `ttensor` or `sumtensor`.

    Raises
    ------
    TypeError
        When pyttb has no such model, or the model is complex.
    ImportError
        Without pyttb.

    Examples
    --------
    >>> import numpy as np, tensorchain as tc
    >>> from tensorchain.interop import to_pyttb
    >>> cp = tc.CP.random((4, 5, 6), 2, rng=0)
    >>> np.allclose(to_pyttb(cp).full().data, cp.full())
    True
    """
    model = labels_of(model).model
    if not isinstance(model, (CP, Tucker, BlockTerm)):
        raise TypeError(f"pyttb has CP, Tucker and sums of them, and a {type(model).__name__} was given")
    if model.dtype.kind == "c":
        raise TypeError("pyttb holds real numbers, and the model is complex; convert its real part and imaginary part")
    pyttb = _pyttb()
    if isinstance(model, CP):
        return pyttb.ktensor(_double(model.factors))
    if isinstance(model, Tucker):
        return _ttensor(model)
    return pyttb.sumtensor([_ttensor(term) for term in model.terms])


def from_pyttb(decomposition: Any) -> Model:
    """The model that stands for the same tensor as an object of pyttb.

    Parameters
    ----------
    decomposition : pyttb.ktensor, pyttb.ttensor or pyttb.sumtensor
        `ktensor`, `ttensor`, or a `sumtensor` of `ttensor`s and `ktensor`s.

    Returns
    -------
    Model
        CP, Tucker or BlockTerm.

    Raises
    ------
    TypeError
        When it is none of these.

    Examples
    --------
    >>> import numpy as np, pyttb
    >>> from tensorchain.interop import from_pyttb
    >>> from_pyttb(pyttb.ktensor([np.eye(2), np.eye(2)], np.array([2.0, 3.0]))).full()
    array([[2., 0.],
           [0., 3.]])
    """
    if hasattr(decomposition, "parts"):
        return BlockTerm([_as_tucker(from_pyttb(part)) for part in decomposition.parts])
    factors = [_dense(factor) for factor in getattr(decomposition, "factor_matrices", [])]
    if factors and hasattr(decomposition, "core"):
        return Tucker(_dense(decomposition.core), factors)
    if factors and hasattr(decomposition, "weights"):
        return CP([factors[0] * np.asarray(decomposition.weights), *factors[1:]])
    raise TypeError(f"a {type(decomposition).__name__} was given; a ktensor, ttensor or sumtensor of them is needed")


def _pyttb() -> Any:
    try:
        import pyttb
    except ImportError as error:
        raise ImportError("to_pyttb needs pyttb: pip install tensorchain[interop]") from error
    return pyttb


def _double(blocks: tuple[Array, ...]) -> list[Array]:
    return [np.array(block, dtype=np.float64) for block in blocks]


def _ttensor(model: Tucker) -> Any:
    pyttb = _pyttb()
    core, *factors = _double(model.blocks)
    return pyttb.ttensor(pyttb.tensor(core), factors)


def _as_tucker(model: Model) -> Tucker:
    """A CPD is the Tucker model whose core is a superdiagonal of ones."""
    if isinstance(model, Tucker):
        return model
    if not isinstance(model, CP):
        raise TypeError("a sumtensor within a sumtensor was given; join their parts into one")
    core = np.zeros((model.rank,) * model.order)
    core[(np.arange(model.rank),) * model.order] = 1.0
    return Tucker(core, model.factors)


def _dense(array: Any) -> Array:
    """A NumPy array from an array, a `tensor`, an `sptensor` or a scipy.sparse matrix."""
    if hasattr(array, "toarray"):
        array = array.toarray()
    elif hasattr(array, "full"):
        array = array.full()
    return np.asarray(getattr(array, "data", array) if not isinstance(array, np.ndarray) else array)
