"""One cycle of the gauge of least sensitivity, on a device: the formulas of :mod:`tensorchain.stability.gauge`.

For a bond between blocks k and m, with Lm and Rm their Grams weighted by I_k and I_m and contracted with the metrics H
of their other bonds, Lm = B B^H, Rm = A A^H and A^H B = U s V^H,

    G = B V s^{-1/2},       G^-1 = s^{-1/2} U^H A^H,

and on a hyperedge, with d_n the diagonals of the same Grams, scales alpha_n^2 = d_n / (their geometric mean).  A gauge
that is not finite (of a deficient bond) is left out, which the device decides by itself.

Cost: P_k^2 operations for each bond of each block, and a singular value decomposition R x R for each bond.
"""

from __future__ import annotations

from typing import Any

from tensorchain.evaluation.device_blocks import DeviceBlocks
from tensorchain.models.network import BATCH

_RIDGE = 5.0
"""Of a Gram, in units of the rounding of its trace: it keeps a gauge finite where a bond is deficient."""


def gauge_cycle(blocks: DeviceBlocks) -> None:
    """Each bond and hyperedge at its best once; the blocks are replaced."""
    network, changed = blocks.network, dict[int, list[Any]]()
    for t, term in enumerate(network.terms):
        metrics = [
            {letter: blocks.namespace.unit(term.size_of[letter], blocks.dtype) for letter in bonds}
            for bonds in term.bonds
        ]
        gauges: list[dict[str, Any]] = [{} for _ in term.bonds]
        for letter, k, m in term.gauge_bonds:
            _balance_bond(blocks, t, (letter, k, m), metrics, gauges)
        for letter, owners in term.hyperedges:
            _balance_hyperedge(blocks, t, (letter, owners), metrics, gauges)
        for k, own in enumerate(gauges):
            changed.setdefault(k, []).append(_moved(blocks, t, k, own))
    for k, pieces in changed.items():
        blocks.put(k, pieces[0] if len(pieces) == 1 else blocks.namespace.xp.concat(pieces, axis=1))


def _balance_bond(
    blocks: DeviceBlocks,
    t: int,
    bond: tuple[str, int, int],
    metrics: list[dict[str, Any]],
    gauges: list[dict[str, Any]],
) -> None:
    names, (letter, k, m) = blocks.namespace, bond
    xp = names.xp
    left = blocks.traced(t, k, letter, metrics[k])
    right = blocks.traced(t, m, letter, metrics[m])
    # Rows of a Gram belong to the conjugated side: tr M_m = tr(Rm S), but tr M_k = tr(Lm^T S^-1).
    lower, upper = _factor(blocks, names.transpose(left)), _factor(blocks, right)
    product = names.matmul(names.adjoint(upper), lower)
    # Some libraries raise an exception for what is no number.
    product = xp.where(xp.isfinite(product), product, xp.zeros_like(product))
    u, s, vh = names.svd(product)
    root = 1.0 / xp.sqrt(s)
    gauge = names.matmul(lower, names.adjoint(vh)) * root
    inverse = root[:, None] * names.matmul(names.adjoint(u), names.adjoint(upper))
    good = xp.isfinite(names.squared(gauge) + names.squared(inverse))
    unit = names.unit(blocks.network.terms[t].size_of[letter], blocks.dtype)
    gauge, inverse = xp.where(good, gauge, unit), xp.where(good, inverse, unit)
    metrics[k][letter] = names.matmul(names.adjoint(inverse), inverse)
    metrics[m][letter] = names.matmul(names.conj(gauge), names.transpose(gauge))
    # B_k[.., b] G[b, c] and G^-1[c, b] B_m[.., b]
    gauges[k][letter], gauges[m][letter] = names.transpose(gauge), inverse


def _balance_hyperedge(
    blocks: DeviceBlocks,
    t: int,
    edge: tuple[str, tuple[int, ...]],
    metrics: list[dict[str, Any]],
    gauges: list[dict[str, Any]],
) -> None:
    names, (letter, owners) = blocks.namespace, edge
    xp = names.xp
    diagonals = [names.real(xp.linalg.diagonal(blocks.traced(t, k, letter, metrics[k]))) for k in owners]
    weights = xp.stack(diagonals)
    alive = xp.all(weights > 0.0, axis=0)
    logs = xp.log(xp.where(alive, weights, xp.ones_like(weights)))
    logs = logs - xp.mean(logs, axis=0)
    # A component with a zero column adds nothing to X: without it SS is least.
    nothing = xp.zeros_like(logs)
    scales, inverses = xp.where(alive, xp.exp(0.5 * logs), nothing), xp.where(alive, xp.exp(-logs), nothing)
    unit = names.unit(blocks.network.terms[t].size_of[letter], blocks.dtype)
    for n, k in enumerate(owners):
        gauges[k][letter] = scales[n, ...] * unit
        metrics[k][letter] = inverses[n, ...] * unit


def _factor(blocks: DeviceBlocks, gram: Any) -> Any:
    """B with gram = B B^H, after a ridge of the size of its rounding."""
    names = blocks.namespace
    unit = names.unit(int(gram.shape[0]), blocks.dtype)
    # A sum of contractions is Hermitian only to rounding.
    even = 0.5 * (gram + names.adjoint(gram)) + (_RIDGE * names.eps(blocks.dtype)) * names.trace(gram) * unit
    return names.cholesky(even)


def _moved(blocks: DeviceBlocks, t: int, k: int, gauges: dict[str, Any]) -> Any:
    """Block k of term t in the new gauge, in matrix form."""
    names, network = blocks.namespace, blocks.network
    value, label = blocks.operand(t, k), network.labels[t][k]
    for letter, matrix in gauges.items():
        value = names.contract(f"{label},{BATCH}{letter}->{label.replace(letter, BATCH)}", value, matrix)
    return names.reshape(value, (value.shape[0], network.terms[t].widths[k]))
