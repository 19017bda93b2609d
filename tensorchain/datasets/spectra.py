"""Random tensors with the spectra of trained convolution kernels.

The singular values of the unfoldings of a trained kernel fall roughly as a power of their index and never reach a
floor, unlike a planted model of low rank plus white noise.  Any rank then leaves an error, the next component is
nearly as large as the last one kept, and that is where plain chains become degenerate on real layers.

To draw a tensor whose unfoldings X_(n) all have singular values proportional to i^(-d), start from white noise and
cycle over the modes, giving X_(n) = U S V' the singular values wanted, X_(n) <- U S_wanted V'.  This is alternating
projection; each correction disturbs the other modes less than it helps, and ten sweeps meet the law within 1 % at any
decay of interest.  The eigenvectors of X_(n) X_(n)' suffice, so a sweep costs two products of an I_n x I_n matrix
with an unfolding a mode.

References
----------
W. Hackbusch and A. Uschmajew, "On the interconnection between the higher-order singular values of real tensors",
Numerische Mathematik 135, 2017 (the alternating projections).  C. H. Martin and M. W. Mahoney, "Implicit
self-regularization in deep neural networks", Journal of Machine Learning Research 22, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tensorchain.datasets._arguments import checked_generator, checked_real, checked_sizes

_SWEEPS = 100
_TOLERANCE = 1e-3


def kernel_like(shape: Sequence[int], decay: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a random tensor whose multilinear singular values fall as a power law.

    Parameters
    ----------
    shape : sequence of int
        The sizes (I_1, ..., I_N), N >= 2; (S, D^2, T) for a convolution with D x D windows.  No size may exceed the
        product of the others, since an unfolding has no more singular values than its smaller side.
    decay : float
        Exponent d >= 0: the i-th singular value of each unfolding is i^(-d) times the first, within 0.1 % of it.
        0 makes all equal; 0.5 to 1 resembles trained layers.
    rng : numpy.random.Generator
        Where the tensor comes from.

    Returns
    -------
    ndarray, shape (I_1, ..., I_N)
        Of norm 1.

    Raises
    ------
    ValueError
        If the shape or the decay is out of range, or the spectra were not met, which has been seen only where the decay
        asks for values below rounding.
    TypeError
        If `rng` is not a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorchain.datasets import kernel_like
    >>> X = kernel_like((16, 9, 32), 1.0, np.random.default_rng(0))
    >>> values = np.linalg.svd(X.reshape(16, -1), compute_uv=False)
    >>> (values[[0, 1, 3]] / values[0]).round(2)
    array([1.  , 0.5 , 0.25])
    """
    sizes = checked_sizes("shape", shape)
    decay, rng = checked_real("decay", decay, 0.0), checked_generator(rng)
    entries = math.prod(sizes)
    for n, size in enumerate(sizes):
        if size > entries // size:
            raise ValueError(f"shape[{n}] is {size}, but at most {entries // size} is needed, the other sizes' product")
    wanted = [_power_law(size, decay) for size in sizes]
    tensor = rng.standard_normal(sizes)
    for _ in range(_SWEEPS):
        farthest = 0.0
        for mode, law in enumerate(wanted):
            tensor, distance = _impose(tensor, mode, law)
            farthest = max(farthest, distance)
        if farthest < _TOLERANCE:
            return np.ascontiguousarray(tensor / np.linalg.norm(tensor))
    raise ValueError(
        f"no tensor of shape {sizes} with spectra of decay {decay:g} was found in {_SWEEPS} sweeps: "
        "choose a smaller decay, or sizes that are more alike"
    )


def _power_law(size: int, decay: float) -> NDArray[np.float64]:
    law = np.arange(1.0, size + 1.0) ** -decay
    return np.asarray(law / np.linalg.norm(law))


def _impose(tensor: NDArray[np.float64], mode: int, wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Give one unfolding the singular values `wanted`; also the largest relative change that this took."""
    front = np.moveaxis(tensor, mode, 0)
    unfolded = front.reshape(front.shape[0], -1)
    squares, basis = np.linalg.eigh(unfolded @ unfolded.T)
    # Ascending from eigh; a value lost to rounding is raised to what float64 resolves.
    values = np.sqrt(np.maximum(squares[::-1], np.finfo(np.float64).eps * squares[-1]))
    directions = basis[:, ::-1]
    changed = (directions * (wanted / values)) @ (directions.T @ unfolded)
    distance = float(np.abs(values / wanted - 1.0).max())
    return np.moveaxis(changed.reshape(front.shape), 0, mode), distance
