"""Blocks of a model on a device, their moments and Grams, and what follows from these: nothing of it travels.

The formulas are those of :mod:`tensorchain.models.form`, written for blocks that lie in another library's memory, from
the wiring alone.  Each change of a block gets a number of its own, its *version*; moments C_k = B_k^H B_k, Grams M_k
and conjugated blocks are remembered with the versions that they were made from.

    M_k                     one contraction of the moments of the other blocks for each pair of terms
    Q_k                     the same with the moment of one of them replaced by I_n * identity, summed over n
    SS = sum_k I_k tr M_k

The identity of block n is the outer product of one identity for each of its bonds, and is never formed.  A core has one
row: its moment is a product of two vectors.

Cost: P_k^2 times the longest bond for each Gram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorchain.kernels.namespace import Namespace
from tensorchain.models.network import Network


class DeviceBlocks:
    """Blocks in matrix form, (I_k, P_k), in double precision where the device has it.

    Parameters
    ----------
    namespace : Namespace
        Where they are.
    network : Network
        The wiring.
    row_counts : sequence of int
        I_k, as the sensitivity counts them.
    dtype : dtype
        Of the blocks.
    """

    def __init__(self, namespace: Namespace, network: Network, row_counts: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.namespace, self.network, self.row_counts = namespace, network, tuple(row_counts)
        self.dtype = namespace.computed(np.dtype(dtype))
        count = len(network.modes)
        self.matrices: list[Any] = [None] * count
        self.versions = [-1] * count
        self._changes = 0
        self._operands: dict[tuple[int, int], tuple[int, Any]] = {}
        self._conjugates: dict[tuple[int, int, np.dtype[Any]], tuple[int, Any]] = {}
        self._moments: dict[int, tuple[int, Any]] = {}
        self._grams: dict[int, tuple[tuple[int, ...], Any]] = {}

    def put(self, k: int, matrix: Any) -> None:
        """Block k is another one from now on."""
        self.matrices[k], self.versions[k] = matrix, self._changes
        self._changes += 1

    def operand(self, t: int, k: int) -> Any:
        """Block k of term t, (I_k, *bonds)."""
        found = self._operands.get((t, k))
        if found is None or found[0] != self.versions[k]:
            matrix, term = self.matrices[k], self.network.terms[t]
            if len(self.network.terms) > 1:
                matrix = matrix[:, self.network.columns[t][k]]
            value = self.namespace.reshape(matrix, (matrix.shape[0], *term.shapes[k]))
            found = self._operands[t, k] = self.versions[k], value
        return found[1]

    def conjugate(self, t: int, k: int, dtype: np.dtype[Any]) -> Any:
        """Its conjugate, in the dtype of the data."""
        found = self._conjugates.get((t, k, dtype))
        if found is None or found[0] != self.versions[k]:
            value = self.namespace.cast(self.namespace.conj(self.operand(t, k)), dtype)
            found = self._conjugates[t, k, dtype] = self.versions[k], value
        return found[1]

    # -- Grams --------------------------------------------------------------------------

    def moment(self, k: int) -> Any:
        """C_k = B_k^H B_k."""
        found = self._moments.get(k)
        if found is None or found[0] != self.versions[k]:
            matrix = self.matrices[k]
            value = self.namespace.matmul(self.namespace.adjoint(matrix), matrix)
            found = self._moments[k] = self.versions[k], value
        return found[1]

    def gram(self, k: int) -> Any:
        """M_k, (P_k, P_k)."""
        others = (*self.versions[:k], *self.versions[k + 1 :])
        found = self._grams.get(k)
        if found is None or found[0] != others:
            found = self._grams[k] = others, self._gram(k)
        return found[1]

    def metric(self, k: int) -> Any:
        """Q_k, (P_k, P_k), with SS = <B_k, B_k Q_k^T> + I_k tr M_k; terms do not mix in it."""
        network, found = self.network, []
        for t, term in enumerate(network.terms):
            total: Any = None
            for n, rows in enumerate(self.row_counts):
                if n != k:
                    part = float(rows) * self._pair(t, t, k, noisy=n)
                    total = part if total is None else total + part
            found.append(self.namespace.reshape(total, (term.widths[k], term.widths[k])))
        if len(found) == 1:
            return found[0]
        widths = [term.widths[k] for term in network.terms]
        rows_of_blocks = []
        for t, width in enumerate(widths):
            row = [found[t] if s == t else self.namespace.zeros((width, w), self.dtype) for s, w in enumerate(widths)]
            rows_of_blocks.append(self.namespace.xp.concat(row, axis=1))
        return self.namespace.xp.concat(rows_of_blocks, axis=0)

    def sensitivity(self) -> Any:
        """SS, a scalar on the device."""
        parts = [float(rows) * self.gram_trace(k) for k, rows in enumerate(self.row_counts)]
        return sum(parts[1:], start=parts[0])

    def gram_trace(self, k: int) -> Any:
        """tr M_k; the Gram of a core is not formed for it."""
        if self.network.modes[k] is not None:
            return self.namespace.trace(self.gram(k))
        total: Any = None
        for t, term in enumerate(self.network.terms):
            labels, operands = self._others(t, t, (k,))
            for letter in term.bonds[k]:
                labels.append(letter + letter.upper())
                operands.append(self._identity(term.size_of[letter]))
            value = self.namespace.real(self.namespace.contract(",".join(labels) + "->", *operands))
            total = value if total is None else total + value
        return total

    def norms(self) -> list[Any]:
        """||B_k||^2 of each block, scalars on the device."""
        return [
            self.namespace.trace(self.moment(k)) if mode is not None else self.namespace.squared(self.matrices[k])
            for k, mode in enumerate(self.network.modes)
        ]

    def traced(self, t: int, k: int, letter: str, metrics: dict[str, Any]) -> Any:
        """I_k M_k within term t, contracted with an H, (R, R), in place of each bond but one: (R, R) of that one."""
        labels, operands = self._others(t, t, (k,))
        bonds = self.network.terms[t].bonds[k]
        for other in bonds:
            if other != letter:
                labels.append(other + other.upper())
                operands.append(metrics[other])
        target = letter + letter.upper()
        return float(self.row_counts[k]) * self.namespace.contract(",".join(labels) + "->" + target, *operands)

    # -- inside -------------------------------------------------------------------------

    def _gram(self, k: int) -> Any:
        xp, terms = self.namespace.xp, self.network.terms
        found: dict[tuple[int, int], Any] = {}
        for s, lower in enumerate(terms):
            for t in range(s, len(terms)):
                value = self.namespace.reshape(self._pair(s, t, k), (lower.widths[k], terms[t].widths[k]))
                found[s, t] = value
                if s != t:
                    found[t, s] = self.namespace.adjoint(value)
        if len(terms) == 1:
            return found[0, 0]
        rows = [xp.concat([found[s, t] for t in range(len(terms))], axis=1) for s in range(len(terms))]
        return xp.concat(rows, axis=0)

    def _pair(self, s: int, t: int, k: int, noisy: int | None = None) -> Any:
        """M_k between two terms, with the identity in place of the moment of block `noisy`."""
        labels, operands = self._others(s, t, (k,) if noisy is None else (k, noisy))
        if noisy is not None:
            term = self.network.terms[t]
            for letter in term.bonds[noisy]:
                labels.append(letter + letter.upper())
                operands.append(self._identity(term.size_of[letter]))
        target = self.network.terms[s].bonds[k] + self.network.terms[t].bonds[k].upper()
        return self.namespace.contract(",".join(labels) + "->" + target, *operands)

    def _others(self, s: int, t: int, without: tuple[int, ...]) -> tuple[list[str], list[Any]]:
        """Moments between terms s (conjugated) and t of all blocks but some, with their letters."""
        network, labels, operands = self.network, [], []
        lower, upper = network.terms[s], network.terms[t]
        for m, mode in enumerate(network.modes):
            if m in without:
                continue
            if mode is None:
                labels += [lower.bonds[m], upper.bonds[m].upper()]
                operands += [self.conjugate(s, m, self.dtype)[0, ...], self.operand(t, m)[0, ...]]
                continue
            moment = self.moment(m)
            if len(network.terms) > 1:
                moment = moment[network.columns[s][m], network.columns[t][m]]
            labels.append(lower.bonds[m] + upper.bonds[m].upper())
            operands.append(self.namespace.reshape(moment, lower.shapes[m] + upper.shapes[m]))
        return labels, operands

    def _identity(self, size: int) -> Any:
        return self.namespace.unit(size, self.dtype)
