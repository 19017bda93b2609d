"""When growth of the sensitivity counts as divergence, on histories that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tensorchain.fit import History
from tensorchain.solvers.reasons import diverges


def history(power: float, *, fall: float = 100.0, steps: int = 200, penalty: float = 0.0) -> History:
    """The error falls by `fall` over the run, as a power of the steps, and SS grows as a power of 1 / error."""
    times = np.linspace(1.0, 10.0, steps)
    error = times ** -np.log10(fall)
    return History(error, 100.0 * error**-power, np.full(steps, penalty), times)


@pytest.mark.parametrize(
    ("power", "grows"), [(0.67, True), (2.0, True), (0.3, True), (0.1, False), (0.0, False), (-1.0, False)]
)
def test_growth_with_the_fall_of_the_error(power: float, grows: bool) -> None:
    assert diverges(history(power)) is grows


def test_growth_while_the_error_stalls() -> None:
    slow = history(100.0, fall=1.01)
    assert diverges(slow)
    flat = History(slow.error, np.full(200, 7.0), slow.penalty, slow.seconds)
    assert not diverges(flat)


def test_growth_that_has_ended() -> None:
    grown = history(0.67)
    levelled = np.minimum(grown.sensitivity, grown.sensitivity[140])
    assert not diverges(History(grown.error, levelled, grown.penalty, grown.seconds))


def test_steps_under_a_penalty_do_not_count() -> None:
    assert not diverges(history(0.67, penalty=1e-6))
    grown = history(0.67)
    penalty = np.where(np.arange(200) < 100, 1e-6, 0.0)
    assert diverges(History(grown.error, grown.sensitivity, penalty, grown.seconds))
    assert not diverges(history(0.67, steps=12))
