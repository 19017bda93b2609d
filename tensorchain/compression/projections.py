"""Two small convolutions in place of one, by the best subspace of a layer's outputs, or of its inputs.

A layer with kernel W, unfolded as (T, S D), sees patches x of covariance C.  With the output y = W x,

- **outputs**: the r leading eigenvectors U of W C W' give the X = U U'W that is nearest of all matrices of rank r in
  ||(W - X) C^{1/2}||, with the whole covariance: a convolution U'W from S to r channels, then U, pointwise;
- **inputs**: the a leading directions A of the channels, from the SVD of W in the root of the channels' covariance,
  pointwise, then the best convolution B of what they give: B = W C L'(L C L')^{-1} with L = A (x) I.

Both are closed forms, and their errors come for all ranks at once: those of the outputs from the eigenvalues, those of
the inputs from one Cholesky factor of L C L', since the system of a lower rank is its leading block.  They are two
convolutions and not three, which costs less time at equal multiplications, and the whole covariance is what lets them
keep the outputs of a trained network without training.

Without a covariance C is the identity, and the errors are those of the kernel.

Cost: T p^2 + min(T, p)^3 and p^3 / 3 + S p^2 multiplications, p = S D.

References: Zhang, Zou, He, Sun, "Accelerating very deep convolutional networks for classification and detection"
(2016), for the subspace of the responses.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from tensorchain.compression.candidates import Candidate
from tensorchain.compression.conv import Convolution, Geometry, LayerPlan, Pair, Sizes, macs_of
from tensorchain.compression.fitting import KernelFit
from tensorchain.compression.patches import PatchCovariance
from tensorchain.kernels import Array

PROJECTIONS = ("svd-out", "svd-in")
_LEAST, _MOST = 0.01, 0.95
"""Ends of a ladder, as shares of the kernel's parameters."""
_DENSER = 3
"""Times as many ranks as on other ladders: their errors are free."""
_FLOOR = 1e-6
"""Part of the identity in the covariance, relative to its mean: directions that no patch uses count a little."""


@dataclass(frozen=True)
class Projections:
    """The projections of a kernel at all ranks.

    Parameters
    ----------
    kernel : ndarray
        (T, S, D1, ..).
    covariance : PatchCovariance, optional
        Of its patches.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((6, 4, 3, 3))
    >>> projections = Projections(kernel)
    >>> plan = projections.plan("svd-out", 6, Geometry(), None)
    >>> bool(np.allclose(plan.kernel, kernel))
    True
    """

    kernel: Array
    covariance: PatchCovariance | None = None

    @property
    def rows(self) -> Array:
        """W, (T, S D), in double precision."""
        return self.kernel.reshape(len(self.kernel), -1).astype(np.float64)

    @property
    def matrix(self) -> Array | None:
        """C with its floor; None for the identity."""
        if self.covariance is None:
            return None
        size = math.prod(self.kernel.shape[1:])
        mean = float(np.trace(self.covariance.matrix)) / size
        return np.asarray(self.covariance.matrix + (_FLOOR * mean if mean > 0.0 else 1.0) * np.eye(size))

    def errors(self, method: str) -> Array:
        """Squared relative errors at ranks 1, 2, .., not above 1."""
        if method != "svd-in":
            values = self._outputs()[0]
            tails = np.concatenate([np.cumsum(values[::-1])[::-1][1:], [0.0]])
            return np.asarray(tails / max(float(values.sum()), np.finfo(float).tiny))
        rows = self.rows
        _, moved, _ = self._inputs(rows)
        taps = rows.shape[1] // self.kernel.shape[1]
        gained = np.sum(moved.reshape(-1, taps, len(rows)) ** 2, axis=(1, 2))
        # Summed from the far end, so that small errors are not lost in the whole.
        tails = np.concatenate([np.cumsum(gained[::-1])[::-1][1:], [0.0]])
        return np.asarray(tails / max(float(gained.sum()), np.finfo(float).tiny))

    def plan(self, method: str, rank: int, geometry: Geometry, bias: Array | None) -> LayerPlan:
        """The two convolutions at a rank.

        Parameters
        ----------
        method : str
            One of `PROJECTIONS`; "svd" for matrices, as "svd-out".
        rank : int
            r or a.
        geometry, bias : Geometry or ndarray
            Of the layer.
        """
        outputs, inputs, *window = self.kernel.shape
        trivial, dtype, one = Geometry.trivial(len(window)), self.kernel.dtype, [1] * len(window)
        if method != "svd-in":
            basis = self._outputs()[1][:, :rank]
            first = (basis.T @ self.rows).reshape(rank, inputs, *window), geometry
            last = basis.reshape(outputs, rank, *one), trivial
        else:
            rows = self.rows
            lower, moved, directions = self._inputs(rows)
            size = rank * math.prod(window)
            solved = moved[:size]
            if lower is not None:
                solved = scipy.linalg.solve_triangular(lower[:size, :size], solved, lower=True, trans=1)
            first = directions[:rank].reshape(rank, inputs, *one), trivial
            last = solved.T.reshape(outputs, rank, *window), geometry
        weights = _least_sensitive(first[0], last[0])
        steps = (
            Convolution(weights[0].astype(dtype), first[1]),
            Convolution(weights[1].astype(dtype), last[1], bias=None if bias is None else bias.astype(dtype)),
        )
        return LayerPlan(method, rank, steps)

    def _outputs(self) -> tuple[Array, Array]:
        """Eigenvalues and eigenvectors of W C W', the largest first; no more than a patch has entries."""
        rows, matrix = self.rows, self.matrix
        if len(rows) > rows.shape[1]:
            # Those of (W K)'(W K), C = K K', are the same, and fewer.
            moved = rows if matrix is None else rows @ np.linalg.cholesky(matrix)
            values, vectors = np.linalg.eigh(moved.T @ moved)
            basis = np.linalg.qr(moved @ vectors[:, ::-1])[0]
            return values[::-1].clip(0.0), basis
        values, vectors = np.linalg.eigh(rows @ rows.T if matrix is None else rows @ matrix @ rows.T)
        return values[::-1].clip(0.0), vectors[:, ::-1]

    def _inputs(self, rows: Array) -> tuple[Array | None, Array, Array]:
        """Cholesky factor K of L C L' for all directions, K^{-1} L C W', and the directions (S, S) as rows of A.

        K is None for the identity.
        """
        inputs, matrix = self.kernel.shape[1], self.matrix
        taps = rows.shape[1] // inputs
        if matrix is None:
            unfolded = rows.reshape(len(rows), inputs, taps).transpose(1, 2, 0).reshape(inputs, -1)
            directions = np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1].T
            return None, (directions @ unfolded).reshape(inputs * taps, -1), directions
        channels = np.einsum("sdtd->st", matrix.reshape(inputs, taps, inputs, taps))
        values, vectors = np.linalg.eigh(channels)
        scales = np.sqrt(np.maximum(values, 1e-12 * values[-1]))
        # Channels are x = V s z with white z; the directions are singular vectors of W V s, as functions of x.
        inside = (vectors * scales).T @ rows.reshape(len(rows), inputs, taps).transpose(1, 0, 2).reshape(inputs, -1)
        directions = ((vectors / scales) @ np.linalg.eigh(inside @ inside.T)[1][:, ::-1]).T
        half = np.tensordot(directions, matrix.reshape(inputs, taps, -1), axes=1).reshape(-1, inputs, taps)
        whole = np.tensordot(half, directions, axes=(1, 1)).swapaxes(1, 2).reshape(len(matrix), len(matrix))
        whole = (whole + whole.T) / 2.0 + 1e-12 * float(np.trace(whole)) / len(whole) * np.eye(len(whole))
        lower = np.linalg.cholesky(whole)
        cross = half.reshape(len(matrix), -1) @ rows.T
        return lower, scipy.linalg.solve_triangular(lower, cross, lower=True), directions


def projected_curve(
    kernel: Array,
    *,
    geometry: Geometry,
    image: Sizes,
    covariance: PatchCovariance | None = None,
    candidates: int = 12,
    below: Pair | None = None,
) -> list[Candidate]:
    """Candidates of a kernel (T, S, D1, ..) by both projections that are cheaper than `below`.

    Parameters
    ----------
    kernel, geometry, image, covariance : ndarray or Geometry or Sizes or PatchCovariance
        Of the layer.
    candidates : int, default 12
        A third of the ranks on each ladder.
    below : tuple of (int, int), optional
        Parameters and multiplications that are not reached; by default those of the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> points = projected_curve(kernel, geometry=Geometry(), image=(8, 8), candidates=4)
    >>> {point.method for point in points} == set(PROJECTIONS), points[0].error > points[-1].error
    (True, True)
    """
    most = below or (kernel.size, macs_of(kernel.shape, geometry, image))
    found, projections = [], Projections(kernel, covariance)
    pointwise = math.prod(kernel.shape[2:]) == 1
    for method in ("svd",) if pointwise else PROJECTIONS:
        largest = kernel.shape[1] if method == "svd-in" else min(len(kernel), kernel[0].size)
        blank = blank_projection(kernel.shape, method, geometry)
        each = sum(step.weight.size for step in blank.convolutions)
        ranks = np.geomspace(_LEAST, _MOST, max(candidates, 2) * _DENSER) * kernel.size / each
        ranks = np.unique(np.rint(ranks).astype(int).clip(1, max(largest - 1, 1)))
        # Both counts are proportional to the rank.
        parameters, macs = blank.parameters, blank.macs(image)
        cheap = [int(r) for r in ranks if r * parameters < most[0] and r * macs < most[1]]
        if not cheap:
            continue
        errors = projections.errors(method)
        found += [Candidate(r, r * parameters, r * macs, float(errors[r - 1]), method) for r in cheap]
    return sorted(found, key=lambda point: (point.macs, point.error))


def projected_fit(
    kernel: Array, method: str, rank: int, *, geometry: Geometry, bias: Array | None, covariance: PatchCovariance | None
) -> KernelFit:
    """The projection of a kernel at a rank, as `fit_kernel` would give it."""
    start = time.perf_counter()
    plan = Projections(kernel, covariance).plan(method, rank, geometry, bias)
    double, near = kernel.astype(np.float64), plan.kernel
    return KernelFit(
        plan=plan,
        error=float(np.linalg.norm(near - double) / np.linalg.norm(double)),
        sensitivity=plan.sensitivity(relative=True),
        output_error=None if covariance is None else covariance.relative_error(near, double),
        stabilised=False,
        seconds=time.perf_counter() - start,
    )


def blank_projection(shape: Sizes, method: str, geometry: Geometry, rank: int = 1) -> LayerPlan:
    """A plan of a rank without values."""
    outputs, inputs, *window = shape
    one, trivial = [1] * len(window), Geometry.trivial(len(window))
    first, last = (rank, inputs, *window), (outputs, rank, *one)
    at = (geometry, trivial)
    if method == "svd-in":
        first, last, at = (rank, inputs, *one), (outputs, rank, *window), (trivial, geometry)
    return LayerPlan(method, rank, (Convolution(np.zeros(first), at[0]), Convolution(np.zeros(last), at[1])))


def _least_sensitive(first: Array, last: Array) -> tuple[Array, Array]:
    """The two weights with the scales of the inner channels for which SS is least.

    SS = sum over channels of n |l|^2 + m |f|^2, with n and m entries in their parts f and l of the weights.
    """
    rows, columns = first.reshape(len(first), -1), last.swapaxes(0, 1).reshape(len(first), -1)
    sizes = [np.sum(part**2, axis=1) for part in (rows, columns)]
    ratios = columns.shape[1] * sizes[0] / np.maximum(rows.shape[1] * sizes[1], np.finfo(float).tiny)
    scales = np.where((sizes[0] > 0.0) & (sizes[1] > 0.0), ratios, 1.0) ** 0.25
    shape = [-1, *[1] * (first.ndim - 1)]
    return first / scales.reshape(shape), last * scales.reshape(1, *shape[:-1])
