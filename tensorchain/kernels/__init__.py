"""Contractions on bare arrays: the only package that knows how to make them fast."""

from tensorchain.kernels.contraction import contract
from tensorchain.kernels.linalg import (
    Array,
    cholesky,
    cholesky_solve,
    diagonal_blocks,
    leading_eigenpairs,
    norm,
    scaled_norm,
)
from tensorchain.kernels.memory import recycling
from tensorchain.kernels.systems import GramSystem, KroneckerSystem, System
from tensorchain.kernels.threads import blas_threads

__all__ = [
    "Array",
    "GramSystem",
    "KroneckerSystem",
    "System",
    "blas_threads",
    "cholesky",
    "cholesky_solve",
    "contract",
    "diagonal_blocks",
    "leading_eigenpairs",
    "norm",
    "recycling",
    "scaled_norm",
]
