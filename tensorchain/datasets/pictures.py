"""Pictures as tensors: a drawn family with known parts, and the multiscale fold of any image.

**Swimmer.**  A figure with a fixed torso and four limbs, each in one of four positions: all 4^4 = 256 pictures.  Every
picture is the torso plus four limb parts with no common pixel, so the nonnegative parts are known: 1 + 16 of them,
while the pictures span 1 + 4 * 3 = 13 dimensions.

**Fold.**  Write row and column in mixed radix with the same digits, most significant first,

    row = (r_1 ... r_L),  column = (c_1 ... c_L),        X[(r_1, c_1), ..., (r_L, c_L)] = image[row, column],

and merge each pair of digits into a mode of size d_l^2.  Mode 1 selects a coarse tile, mode 2 a tile within it, and so
on to the pixel: neighbours in the picture stay neighbours in the tensor, and images become tensors of any order.

References
----------
D. Donoho and V. Stodden, "When does non-negative matrix factorization give a correct decomposition into parts?",
Advances in Neural Information Processing Systems 16, 2003.  J. I. Latorre, "Image compression and entanglement",
arXiv quant-ph/0510031, 2005.  I. V. Oseledets, "Approximation of 2^d x 2^d matrices using tensor decomposition",
SIAM Journal on Matrix Analysis and Applications 31, 2010.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tensorchain.datasets._arguments import checked_count
from tensorchain.kernels import Array

_SIDE = 32
_TORSO = (slice(11, 21), slice(15, 17))
_LIMB = 9
# The pixel (row, column) from which a limb starts, and its directions away from the middle: (down, right).
_JOINTS = ((12, 14, -1, -1), (12, 17, -1, 1), (19, 14, 1, -1), (19, 17, 1, 1))
# Degrees from outward, positive away from the middle.  Arms and legs of one side do not meet.
_POSITIONS = (75.0, 45.0, 15.0, -15.0)


def swimmer() -> NDArray[np.float64]:
    """Draw the 256 pictures of a swimmer.

    Returns
    -------
    ndarray, shape (32, 32, 256)
        Zeros and ones; the last mode runs over the positions of the four limbs, the last limb fastest.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import swimmer
    >>> X = swimmer()
    >>> X.shape, int(np.linalg.matrix_rank(X.reshape(1024, 256)))
    ((32, 32, 256), 13)
    """
    torso = np.zeros((_SIDE, _SIDE))
    torso[_TORSO] = 1.0
    limbs = [[_limb(joint, angle) for angle in _POSITIONS] for joint in _JOINTS]
    return np.stack([torso + sum(pose) for pose in itertools.product(*limbs)], axis=-1)


def fold_image(image: Array, digits: Sequence[int]) -> Array:
    """Fold an image into a tensor that has one mode a scale.

    Parameters
    ----------
    image : ndarray, shape (side, side) or (side, side, channels)
        A square image.
    digits : sequence of int
        The radices (d_1, ..., d_L), coarsest first, of product `side`; each at least 2.

    Returns
    -------
    ndarray
        Shape (d_1^2, ..., d_L^2) or (d_1^2, ..., d_L^2, channels).

    Raises
    ------
    ValueError
        If the image is not square, or the product of the digits is not its side.

    Examples
    --------
    The first index selects a tile of the image, here the upper right quarter:

    >>> import numpy as np
    >>> from tensorchain.datasets import fold_image
    >>> image = np.arange(36).reshape(6, 6)
    >>> fold_image(image, (2, 3))[1].reshape(3, 3)
    array([[ 3,  4,  5],
           [ 9, 10, 11],
           [15, 16, 17]])
    """
    picture = np.asarray(image)
    radices = _checked_digits(digits)
    side, channels = math.prod(radices), picture.shape[2:]
    if picture.ndim not in (2, 3) or picture.shape[:2] != (side, side):
        raise ValueError(
            f"image has shape {picture.shape}, but digits {radices} need a square of side {side}: crop it, "
            "or choose digits of another product"
        )
    split = picture.reshape(*radices, *radices, *channels)
    return split.transpose(_pairs(len(radices), len(channels))).reshape(*(d * d for d in radices), *channels)


def unfold_image(tensor: Array, digits: Sequence[int]) -> Array:
    """Put a folded image together again, the inverse of `fold_image`.

    Parameters
    ----------
    tensor : ndarray, shape (d_1^2, ..., d_L^2) or (d_1^2, ..., d_L^2, channels)
        A folded image, or a model of one.
    digits : sequence of int
        The radices (d_1, ..., d_L) it was folded with.

    Returns
    -------
    ndarray
        Shape (side, side) or (side, side, channels).

    Raises
    ------
    ValueError
        If the tensor does not have the shape that the digits say.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import fold_image, unfold_image
    >>> image = np.random.default_rng(0).random((6, 6, 3))
    >>> np.array_equal(unfold_image(fold_image(image, (3, 2)), (3, 2)), image)
    True
    """
    folded = np.asarray(tensor)
    radices = _checked_digits(digits)
    scales, side = len(radices), math.prod(radices)
    channels = folded.shape[scales:]
    squares = tuple(d * d for d in radices)
    if folded.shape[:scales] != squares or len(channels) > 1:
        raise ValueError(f"tensor has shape {folded.shape}, but digits {radices} need {squares} and at most one more")
    split = folded.reshape(*(d for d in radices for _ in range(2)), *channels)
    back = np.argsort(_pairs(scales, len(channels)))
    return split.transpose(back).reshape(side, side, *channels)


def _pairs(scales: int, channels: int) -> list[int]:
    """Axes (r_1, ..., r_L, c_1, ..., c_L, channels) in the order r_1, c_1, r_2, c_2, ..., channels."""
    order = [axis for scale in range(scales) for axis in (scale, scales + scale)]
    return [*order, *range(2 * scales, 2 * scales + channels)]


def _checked_digits(digits: Sequence[int]) -> tuple[int, ...]:
    radices = tuple(checked_count(f"digits[{n}]", digit, 2) for n, digit in enumerate(digits))
    if not radices:
        raise ValueError("digits is empty, but one radix a scale is needed, such as (4, 4, 4, 4)")
    return radices


def _limb(joint: tuple[int, int, int, int], degrees: float) -> NDArray[np.float64]:
    """A straight limb of `_LIMB` pixels, drawn from the joint."""
    row, column, down, right = joint
    rise, run = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    # One pixel a step along the longer side, as Bresenham draws, so no pixel is drawn twice.
    stride = 1.0 / max(abs(rise), abs(run))
    picture = np.zeros((_SIDE, _SIDE))
    for step in range(_LIMB):
        picture[row + down * round(step * stride * rise), column + right * round(step * stride * run)] = 1.0
    return picture
