"""Models to and from other packages, which are imported only when they are used.

| package | to | from |
|---|---|---|
| TensorLy: CP, Tucker, tensor ring | `to_tensorly` | `from_tensorly` |
| pyttb: ktensor, ttensor, sumtensor | `to_pyttb` | `from_pyttb` |
| NumPy, opt_einsum, torch: an einsum equation and its operands | `to_einsum` | |
| quimb: a tensor network | `to_quimb` | |
| scikit-learn: an estimator with `fit`, `transform`, `inverse_transform` | `Decomposition` | |

Arrays of NumPy, dask, xarray, PyTorch and others need no conversion: `tensorchain.decompose` reads them as they are.
"""

from tensorchain.interop.estimator import Decomposition
from tensorchain.interop.networks import Einsum, to_einsum, to_quimb
from tensorchain.interop.pyttb import from_pyttb, to_pyttb
from tensorchain.interop.tensorly import from_tensorly, to_tensorly

__all__ = [
    "Decomposition",
    "Einsum",
    "from_pyttb",
    "from_tensorly",
    "to_einsum",
    "to_pyttb",
    "to_quimb",
    "to_tensorly",
]
