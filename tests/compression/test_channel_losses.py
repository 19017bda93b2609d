"""Losses of channels that a layer reads several times, against least squares on what is left."""

from __future__ import annotations

import numpy as np
import pytest

from tensorchain.compression.channels import Reader


@pytest.mark.parametrize("columns", [[0, 1, 2, 0, 1, -1], [0, 0, 0, 1, 1, 1], [2, -1, 1, 0, 2, 2]])
@pytest.mark.parametrize("window", [(1, 1), (2, 2)])
def test_inputs_of_one_class_go_together(columns, window):
    rng, taps, columns = np.random.default_rng(len(window)), window[0] * window[1], np.array(columns)
    patches = rng.standard_normal((400, 6 * taps)) @ rng.standard_normal((6 * taps, 6 * taps))
    # Two inputs that are nearly the same predict each other, which is of no use where both go.
    patches[:, 3 * taps : 4 * taps] = patches[:, :taps] + 0.01 * rng.standard_normal((400, taps))
    kernel = rng.standard_normal((5, 6, *window))
    own = Reader(kernel, patches.T @ patches / 400, columns, np.full(5, -1), 1.0)
    wanted = patches @ kernel.reshape(5, -1).T
    gone: list[int] = []
    base = 0.0
    for closed in (None, 1):
        if closed is not None:
            own.close(np.flatnonzero(columns == closed))
            gone = np.flatnonzero(columns == closed).tolist()
            base = lost(patches, wanted, gone, taps)
        losses = own.losses()
        for one in set(columns.tolist()) - {-1, closed}:
            both = [*gone, *np.flatnonzero(columns == one)]
            expected = (lost(patches, wanted, both, taps) - base) / np.sum(wanted**2)
            assert losses[columns == one].sum() == pytest.approx(expected, rel=1e-3)
        assert not losses[gone].any()


def lost(patches, wanted, gone, taps):
    """Squares that are left by the best weights on the other inputs."""
    left = [k * taps + t for k in range(6) if k not in gone for t in range(taps)]
    if not left:
        return np.sum(wanted**2)
    return np.sum((patches[:, left] @ np.linalg.lstsq(patches[:, left], wanted, rcond=None)[0] - wanted) ** 2)
