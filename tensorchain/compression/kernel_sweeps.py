"""Sweeps of alternating least squares for the kernel of one layer, with the sensitivity as a penalty.

A network has tens of layers, each with dozens of candidates, and most kernels are so small that a step of the general
solvers (:mod:`tensorchain.solvers`) is bound by its bookkeeping.  Here the same steps are written out for the two
families that layers have.  The kernel W is (D, S, T), taps first; one block after the other solves

    minimise   ||W - X||_F^2  +  nu SS(X),

which is quadratic in each block: SS = <block, Q block> + terms without it, and the solution is that of the normal
equations with M + nu Q.

**CP**: W[d] ~ B diag(A[d]) C', with A the Khatri-Rao product of one factor (order 3) or of two (order 4).  The Grams
are Hadamard products, and Q is diagonal: q_r = sum_{n != k} I_n prod_{m != n, k} ||column r of block m||^2.

**Groups** of a chain or of block terms: W[d] ~ sum_g A_g G_g[d] B_g', with one G for all groups in a chain:

    A:  M = sum_d K_d K_d',  K_d = [G_g[d] B_g'] stacked,       Q = T blockdiag(sum_d G_g[d] G_g[d]') + D (B_g'B_h) x I
    G:  M = (A_g'A_h) x (B_g'B_h),                             Q = S I x B_g'B_g + T A_g'A_g x I

where (B_g'B_h) stands for inner products of whole matrices, and, in block terms, only for g = h.  SS counts the rows
that blocks have in the layer; a kernel in its singular vectors may have fewer.

Cost of a sweep: two products of W with a block, 2 D S T P each, and the cubes of the numbers of columns.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.linalg

from tensorchain.kernels import Array

_FLOOR = 1e-12
"""Of the mean diagonal entry: what is added to normal matrices."""


class Sweeps(Protocol):
    """What one family offers to the search."""

    energy: float

    @property
    def cost(self) -> float:
        """Multiplications of a sweep."""

    def sweep(self, nu: float) -> float:
        """New values for all blocks, in turn; returns ||W - X||^2."""

    def sensitivity(self) -> float:
        """SS of the present blocks."""

    def full(self) -> Array:
        """X, (D, S, T)."""

    @property
    def state(self) -> list[Array]:
        """The blocks; they are replaced by a sweep, never changed."""

    @state.setter
    def state(self, blocks: list[Array]) -> None: ...


class CPSweeps:
    """CP of a kernel (D, S, T).

    Parameters
    ----------
    kernel : ndarray (D, S, T)
    blocks : list of ndarray
        One or two factors for the taps, then those of S and T.
    sizes : tuple of int, optional
        Rows of the blocks in the layer.
    """

    def __init__(self, kernel: Array, blocks: list[Array], sizes: tuple[int, ...] | None = None) -> None:
        self.kernel, self.energy = kernel, float(np.vdot(kernel, kernel))
        self.turned = np.ascontiguousarray(kernel.transpose(0, 2, 1))
        self.state = blocks
        self.sizes = sizes or tuple(len(block) for block in blocks)

    @property
    def cost(self) -> float:
        """As in `Sweeps`."""
        rank = self.state[0].shape[1]
        return float(2.0 * self.kernel.size * rank + len(self.state) * float(rank) ** 3)

    def sweep(self, nu: float) -> float:
        """As in `Sweeps`."""
        blocks = list(self.state)
        grams = [block.T @ block for block in blocks]
        last, first, taps = len(blocks) - 1, len(blocks) - 2, range(len(blocks) - 2)
        half = self.kernel @ blocks[last]
        inner = (half * blocks[first]).sum(1)
        for k in taps:
            rhs = inner
            if len(taps) == 2:
                cube = inner.reshape(len(blocks[0]), len(blocks[1]), -1)
                rhs = (cube * blocks[1]).sum(1) if k == 0 else (cube * blocks[0][:, None]).sum(0)
            self._solve(blocks, grams, k, rhs, nu)
        rows = _khatri_rao(blocks[:first])[:, None]
        self._solve(blocks, grams, first, (half * rows).sum(0), nu)
        rhs = (self.turned @ blocks[first] * rows).sum(0)
        gram = self._solve(blocks, grams, last, rhs, nu)
        self.state = blocks
        left = self.energy - 2.0 * float(np.vdot(rhs, blocks[last])) + float(np.vdot(gram, grams[last]))
        return max(left, 0.0)

    def _solve(self, blocks: list[Array], grams: list[Array], k: int, rhs: Array, nu: float) -> Array:
        """The new block k; its normal matrix without the penalty."""
        gram = np.ones_like(grams[0])
        for n, other in enumerate(grams):
            if n != k:
                gram = gram * other
        penalty = np.zeros(len(gram))
        if nu > 0.0:
            squares = [np.diagonal(other) for other in grams]
            for n, size in enumerate(self.sizes):
                if n != k:
                    penalty = penalty + size * _product([s for m, s in enumerate(squares) if m not in (n, k)])
        blocks[k] = _solved(gram + np.diag(nu * penalty), rhs)
        grams[k] = blocks[k].T @ blocks[k]
        return gram

    def sensitivity(self) -> float:
        """As in `Sweeps`."""
        squares = [np.einsum("ir,ir->r", block, block) for block in self.state]
        return float(
            sum(
                size * _product([s for m, s in enumerate(squares) if m != n]).sum() for n, size in enumerate(self.sizes)
            )
        )

    def full(self) -> Array:
        """X, (D, S, T)."""
        rows = _khatri_rao(self.state[:-2])
        return np.asarray((rows[:, None] * self.state[-2]) @ self.state[-1].T)


class GroupSweeps:
    """A chain (`shared`) or block terms of a kernel (D, S, T).

    Parameters
    ----------
    kernel : ndarray (D, S, T)
    first, core, last : ndarray
        (f, S, a), (f, D, a, b), or (1, D, a, b) in a chain, and (f, T, b).
    sizes : (int, int, int), optional
        D, S and T of the layer.
    """

    def __init__(
        self, kernel: Array, blocks: tuple[Array, Array, Array], sizes: tuple[int, int, int] | None = None
    ) -> None:
        self.kernel, self.energy = kernel, float(np.vdot(kernel, kernel))
        self.turned = np.ascontiguousarray(kernel.transpose(0, 2, 1))
        self.state = list(blocks)
        self.groups, self.shared = len(blocks[0]), len(blocks[1]) < len(blocks[0])
        self.sizes = sizes or (int(kernel.shape[0]), int(kernel.shape[1]), int(kernel.shape[2]))

    @property
    def cost(self) -> float:
        """As in `Sweeps`."""
        groups, cores, _, a, b = self.groups, *self.state[1].shape
        unknowns = float(cores * a * b) ** 3 + float(groups * a) ** 3 + float(groups * b) ** 3
        return float(2.0 * self.kernel.size * groups * (a + b) + unknowns)

    def sweep(self, nu: float) -> float:
        """As in `Sweeps`."""
        first, core, last = self.state
        inner, outer = _products(first), _products(last)
        half = (self.kernel @ _side_by_side(last)).reshape(*self.kernel.shape[:2], self.groups, -1)
        core = self._core(first, half, (inner, outer), nu)
        first, inner, *_ = self._outer(half, core, outer, (self.sizes[2], self.sizes[0]), nu)
        back = (self.turned @ _side_by_side(first)).reshape(len(self.turned), self.turned.shape[1], self.groups, -1)
        turned = core.swapaxes(2, 3)
        last, outer, rhs, gram = self._outer(back, turned, inner, (self.sizes[1], self.sizes[0]), nu)
        self.state = [first, core, last]
        flat = _side_by_side(last)
        left = self.energy - 2.0 * float(np.vdot(rhs, flat)) + float(np.vdot(gram, flat.T @ flat))
        return max(left, 0.0)

    def _core(self, first: Array, half: Array, products: tuple[Array, Array], nu: float) -> Array:
        """G from A and W B."""
        inner, outer = products
        f, (_, _, a), b = self.groups, first.shape, outer.shape[-1]
        rhs = np.matmul(first.swapaxes(1, 2)[:, None], half.transpose(2, 0, 1, 3))
        own = range(f)
        left = self.sizes[1] * outer[own, own], self.sizes[2] * inner[own, own]
        if self.shared:
            # (A_g'A_h) x (B_g'B_h), summed over all pairs, as one product.
            summed = (inner.reshape(f * f, -1).T @ outer.reshape(f * f, -1)).reshape(a, a, b, b)
            normal: Array = summed.transpose(0, 2, 1, 3).reshape(a * b, a * b)
            if nu > 0.0:
                normal = normal + nu * _kron_sum(left[1].sum(0), left[0].sum(0))
            solved = _solved(normal, rhs.sum(0).reshape(-1, a * b))
            return solved.reshape(1, -1, a, b)
        pairs = inner[:, :, :, None, :, None] * outer[:, :, None, :, None, :]
        if nu > 0.0:
            for g in own:
                pairs[g, g] += nu * _kron_sum(left[1][g], left[0][g]).reshape(a, b, a, b)
        normal = pairs.transpose(0, 2, 3, 1, 4, 5).reshape(f * a * b, -1)
        solved = _solved(normal, rhs.transpose(1, 0, 2, 3).reshape(-1, f * a * b))
        return np.ascontiguousarray(solved.reshape(-1, f, a, b).transpose(1, 0, 2, 3))

    def _outer(
        self, half: Array, core: Array, outer: Array, sizes: tuple[int, int], nu: float
    ) -> tuple[Array, Array, Array, Array]:
        """A from W B (D, S, f, b), G and the products of B; its products, and what the error is made of."""
        f, a, b = self.groups, core.shape[2], core.shape[3]
        taps, rows = half.shape[:2]
        cores = np.broadcast_to(core, (f, *core.shape[1:]))
        wide = np.ascontiguousarray(cores.transpose(0, 2, 1, 3)).reshape(f, a, -1)
        rhs = half.transpose(2, 1, 0, 3).reshape(f, rows, taps * b) @ wide.swapaxes(1, 2)
        rhs = rhs.transpose(1, 0, 2).reshape(rows, f * a)
        # G_g (B_g'B_h) for all pairs, then times G_h'.
        spread = np.matmul(cores[:, None], outer[:, :, None])
        spread = spread.transpose(0, 1, 3, 2, 4).reshape(f, f, a, -1)
        gram = (spread @ wide.swapaxes(1, 2)[None]).transpose(0, 2, 1, 3).reshape(f * a, f * a)
        normal: Array = gram
        if nu > 0.0:
            penalty = np.zeros((f, a, f, a))
            squares = np.einsum("ghbb->gh", outer) if self.shared else np.diag(np.einsum("ggbb->g", outer))
            own = wide @ wide.swapaxes(1, 2)
            for g in range(f):
                penalty[g, :, g] += sizes[0] * own[g]
            penalty += sizes[1] * squares[:, None, :, None] * np.eye(a)[:, None, :]
            normal = gram + nu * penalty.reshape(f * a, f * a)
        found = _solved(normal, rhs)
        first = np.ascontiguousarray(found.reshape(rows, f, a).transpose(1, 0, 2))
        return first, _products(first), rhs, gram

    def sensitivity(self) -> float:
        """As in `Sweeps`."""
        first, core, last = self.state
        taps, rows, columns = self.sizes
        inner, outer = np.einsum("gsi,hsi->gh", first, first), np.einsum("gsi,hsi->gh", last, last)
        pairs = inner * outer
        total = taps * (pairs.sum() if self.shared else np.trace(pairs))
        total += rows * float(np.sum((core @ last.swapaxes(1, 2)[:, None]) ** 2))
        return float(total + columns * float(np.sum((first[:, None] @ core) ** 2)))

    def full(self) -> Array:
        """X, (D, S, T)."""
        first, core, last = self.state
        return np.asarray((first[:, None] @ core @ last.swapaxes(1, 2)[:, None]).sum(0))


def _khatri_rao(factors: list[Array]) -> Array:
    """(D, R) of one factor or two."""
    if len(factors) == 1:
        return factors[0]
    return (factors[0][:, None] * factors[1]).reshape(-1, factors[0].shape[1])


def _product(vectors: list[Array]) -> Array:
    found = vectors[0]
    for other in vectors[1:]:
        found = found * other
    return found


def _kron_sum(first: Array, second: Array) -> Array:
    """first x I + I x second."""
    a, b = len(first), len(second)
    found = np.zeros((a, b, a, b))
    found[:, range(b), :, range(b)] += first
    found[range(a), :, range(a)] += second
    return found.reshape(a * b, a * b)


def _side_by_side(parts: Array) -> Array:
    """(S, f a) of (f, S, a)."""
    return np.ascontiguousarray(parts.transpose(1, 0, 2)).reshape(parts.shape[1], -1)


def _products(parts: Array) -> Array:
    """A_g'A_h, (f, f, a, a)."""
    groups, _, width = parts.shape
    flat = _side_by_side(parts)
    return (flat.T @ flat).reshape(groups, width, groups, width).transpose(0, 2, 1, 3)


def _solved(normal: Array, rhs: Array) -> Array:
    """rhs (rows, P) times the inverse of a positive semidefinite matrix."""
    mean = float(np.trace(normal)) / len(normal)
    if not mean > 0.0:
        return np.zeros_like(rhs)
    damped = normal.copy()
    damped.flat[:: len(normal) + 1] += _FLOOR * mean
    # Called tens of thousands of times for small matrices: LAPACK without the checks around it.
    _, found, failed = scipy.linalg.lapack.dposv(damped, rhs.T)
    return np.asarray((np.linalg.lstsq(damped, rhs.T, rcond=None)[0] if failed else found).T)
