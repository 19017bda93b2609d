"""Blocks of a model on memory that stays where it is, for programs (:mod:`tensorchain.kernels.program`).

For models of one term whose blocks all carry a mode; the subscripts are those of :mod:`tensorchain.models.form`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorchain.kernels import Array
from tensorchain.kernels.program import Program
from tensorchain.models.base import Model
from tensorchain.models.network import COLUMN, ROW


class FixedBlocks:
    """Blocks B_k, their conjugates (the blocks themselves where they are real), and views of both with their bonds."""

    def __init__(self, model: Model) -> None:
        self.term = model.network.terms[0]
        self.matrices: list[Array] = [np.zeros(matrix.shape, matrix.dtype) for matrix in model.matrices]
        complex_like = model.dtype.kind == "c"
        self.conjugates = [np.zeros_like(matrix) if complex_like else matrix for matrix in self.matrices]
        shapes = [(-1, *shape) for shape in self.term.shapes]
        self.operands = [matrix.reshape(shape) for matrix, shape in zip(self.matrices, shapes, strict=True)]
        self.conjugated = [matrix.reshape(shape) for matrix, shape in zip(self.conjugates, shapes, strict=True)]

    @staticmethod
    def fit(model: Model, array: Array) -> bool:
        """Whether there are such blocks for this model, in the dtype of an array in double precision."""
        plain = len(model.network.terms) == 1 and not model.network.has_cores
        return plain and array.dtype != np.float32 and all(matrix.dtype == array.dtype for matrix in model.matrices)

    def put(self, k: int, matrix: Array) -> None:
        """Copy a block in."""
        np.copyto(self.matrices[k], matrix)
        self.conjugate(k)

    def conjugate(self, k: int) -> None:
        """Bring the conjugate up to date with block k."""
        if self.conjugates[k] is not self.matrices[k]:
            np.conjugate(self.matrices[k], out=self.conjugates[k])

    def gram(self, program: Program, k: int, moments: Sequence[Array]) -> Array:
        """Write M_k from the moments, (P_k, P_k)."""
        bonds = self.term.bonds[k]
        labels, operands = self._pairs(moments, (k,))
        value = program.contract(",".join(labels) + "->" + bonds + bonds.upper(), *operands)
        return program.matrix(value, (self.term.widths[k],) * 2)

    def cross(self, program: Program, k: int, m: int, moments: Sequence[Array]) -> Array:
        """Write J_k^H J_m, (I_k, *bonds, I_m, *bonds)."""
        bonds = self.term.bonds
        labels, operands = self._pairs(moments, (k, m))
        labels.append(ROW + bonds[k].upper())
        operands.append(self.operands[k])
        target = ROW + bonds[k] + COLUMN + bonds[m].upper()
        # Block m comes last: its bonds then lie side by side in what is copied into J^H J.
        inner = [letter for letter in bonds[m] if letter not in target]
        outer = [letter for letter in target if any(letter in label for label in labels)]
        rest = "".join(inner + outer)
        first = program.contract(",".join(labels) + "->" + rest, *operands)
        return program.contract(f"{COLUMN}{bonds[m]},{rest}->{target}", self.conjugated[m], first)

    def _pairs(self, moments: Sequence[Array], without: tuple[int, ...]) -> tuple[list[str], list[Array]]:
        """Letters and moments of all blocks but some, with one axis for each bond."""
        others = [m for m in range(len(moments)) if m not in without]
        labels = [self.term.bonds[m] + self.term.bonds[m].upper() for m in others]
        return labels, [moments[m].reshape(self.term.shapes[m] * 2) for m in others]
