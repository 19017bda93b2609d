"""Tensors to try solvers on: planted models, tensors without a best approximation, functions, and measured data.

Two conventions hold throughout.

- A generator whose truth is known returns it: `Planted` has the `tensor` and the `model` in it, `Border` the `tensor`
  and the models that tend to it.  All others return a plain array.
- What is random comes from a required `numpy.random.Generator`.  The same seed gives the same data, and in float32
  the rounding of the data in float64.
"""

from tensorchain.datasets.bilinear import matmul, strassen
from tensorchain.datasets.border import Border, border_chain, border_cp
from tensorchain.datasets.corruptions import add_noise, incomplete, outliers
from tensorchain.datasets.functions import hilbert, inverse_radius, rosenbrock
from tensorchain.datasets.gauges import bad_gauge
from tensorchain.datasets.measured import fluorescence, photograph
from tensorchain.datasets.pictures import fold_image, swimmer, unfold_image
from tensorchain.datasets.planted import Planted, exact_block_term, exact_chain, exact_cp, exact_tucker
from tensorchain.datasets.spectra import kernel_like

__all__ = [
    "Border",
    "Planted",
    "add_noise",
    "bad_gauge",
    "border_chain",
    "border_cp",
    "exact_block_term",
    "exact_chain",
    "exact_cp",
    "exact_tucker",
    "fluorescence",
    "fold_image",
    "hilbert",
    "incomplete",
    "inverse_radius",
    "kernel_like",
    "matmul",
    "outliers",
    "photograph",
    "rosenbrock",
    "strassen",
    "swimmer",
    "unfold_image",
]
