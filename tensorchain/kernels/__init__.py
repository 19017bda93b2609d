"""Contractions on bare arrays: the only package that knows how to make them fast."""

from tensorchain.kernels.contraction import contract
from tensorchain.kernels.linalg import Array, cholesky, cholesky_solve, diagonal_blocks, norm
from tensorchain.kernels.threads import blas_threads

__all__ = ["Array", "blas_threads", "cholesky", "cholesky_solve", "contract", "diagonal_blocks", "norm"]
