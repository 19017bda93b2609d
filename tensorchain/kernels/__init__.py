"""Contractions on bare arrays: the only package that knows how to make them fast."""

from tensorchain.kernels.contraction import contract
from tensorchain.kernels.linalg import Array, cholesky, cholesky_solve, diagonal_blocks, norm

__all__ = ["Array", "cholesky", "cholesky_solve", "contract", "diagonal_blocks", "norm"]
