"""Measured data, read from what other packages ship: nothing is downloaded.

A photograph (scikit-learn) is smooth with edges, and folds into a tensor of any order.  A kinetic fluorescence
experiment (tensorly) is of order 4 and close to a CP of low rank by the physics of the measurement, with gaps and with
measurements that its authors call outliers.  Both packages come with ``pip install "tensorchain[figures]"``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tensorchain.datasets.pictures import fold_image

# The measurement that the detector lost for good: a fifth of it is missing, 89 % of all gaps.
_INTERRUPTED = 27


def photograph(
    name: Literal["china", "flower"] = "china", digits: Sequence[int] | None = (4, 4, 4, 4)
) -> NDArray[np.float64]:
    """Load a colour photograph, folded into a tensor of high order.

    Parameters
    ----------
    name : {"china", "flower"}
        A temple with fine regular detail, or a flower before a blurred background; both (427, 640, 3).
    digits : sequence of int, optional
        The middle of the photograph is cut to a square whose side is the product of the digits, at most 427, and
        folded as by `fold_image`.  None returns the whole photograph, unfolded.

    Returns
    -------
    ndarray, shape (d_1^2, ..., d_L^2, 3)
        Intensities in [0, 1]; (16, 16, 16, 16, 3) by default.

    Raises
    ------
    ImportError
        If scikit-learn or Pillow is missing.
    ValueError
        If the name is unknown, or the side too large.

    Notes
    -----
    `load_sample_image` of scikit-learn: "china.jpg" by over9000 and "flower.jpg" by dany13, both CC BY 2.0.

    Examples
    --------
    >>> from tensorchain.datasets import photograph
    >>> photograph("china").shape
    (16, 16, 16, 16, 3)
    """
    try:
        import PIL  # noqa: F401  (scikit-learn reads the file with it, and says so less clearly)
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError('photograph() needs scikit-learn and Pillow: pip install "tensorchain[figures]"') from error
    if name not in ("china", "flower"):
        raise ValueError(f"name is {name!r}, but 'china' or 'flower' is needed")
    image = np.asarray(load_sample_image(f"{name}.jpg"), dtype=np.float64) / 255.0
    if digits is None:
        return image
    side = math.prod(digits)
    if side > min(image.shape[:2]):
        raise ValueError(f"digits {tuple(digits)} need a side of {side}, but the photograph has {image.shape[0]} rows")
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return np.asarray(fold_image(image[top : top + side, left : left + side], digits), dtype=np.float64)


def fluorescence(gaps: Literal["nan", "fill"] = "nan") -> NDArray[np.float64]:
    """Load the kinetic fluorescence of catecholamines: measurement x emission x excitation x time.

    Parameters
    ----------
    gaps : {"nan", "fill"}
        What to do where the detector recorded nothing (0.4 % of the entries).  "nan" marks the gaps as NaN.  "fill"
        leaves out one more measurement, in which 1561 are missing, nearly all at the end, and fills the 154 gaps left
        (0.04 %) by linear interpolation in time.

    Returns
    -------
    ndarray, shape (59, 12, 10, 60) or, filled, (58, 12, 10, 60)
        Intensities, in the units of the instrument.  Emission at 472 to 554.5 nm in steps of 7.5, excitation at 362
        to 416 nm in steps of 6, a scan every 20 seconds.  The five measurements that the authors of the data call
        outliers are left out.

    Raises
    ------
    ImportError
        If tensorly is missing.
    ValueError
        If `gaps` is neither "nan" nor "fill".

    Notes
    -----
    `load_kinetic` of tensorly, which marks gaps with zeros and a separate mask.  Measured by R. P. H. Nikolajsen, K.
    S. Booksh, Å. M. Hansen, R. Bro, "Quantifying catecholamines using multi-way kinetic modelling", Analytica Chimica
    Acta 475, 2003.

    Examples
    --------
    >>> from tensorchain.datasets import fluorescence
    >>> fluorescence(gaps="fill").shape
    (58, 12, 10, 60)
    """
    try:
        from tensorly.datasets import load_kinetic
    except ImportError as error:
        raise ImportError('fluorescence() needs tensorly: pip install "tensorchain[figures]"') from error
    if gaps not in ("nan", "fill"):
        raise ValueError(f"gaps is {gaps!r}, but 'nan' or 'fill' is needed")
    data = load_kinetic()
    # The file is in Fortran order, which the unfoldings of a C-ordered package would copy every time.
    tensor = np.array(data.tensor, dtype=np.float64, order="C")
    tensor[np.asarray(data.missing_values_position, dtype=bool)] = np.nan
    dropped = [*data.outlier_measurements_idx, *([_INTERRUPTED] if gaps == "fill" else [])]
    kept = np.delete(tensor, dropped, axis=0)
    return _interpolate_in_time(kept) if gaps == "fill" else kept


def _interpolate_in_time(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill NaN along the last mode; before the first and after the last value, with that value."""
    curves = tensor.reshape(-1, tensor.shape[-1]).copy()
    times = np.arange(tensor.shape[-1])
    for row in np.flatnonzero(np.isnan(curves).any(axis=1)):
        known = ~np.isnan(curves[row])
        curves[row] = np.interp(times, times[known], curves[row, known])
    return curves.reshape(tensor.shape)
