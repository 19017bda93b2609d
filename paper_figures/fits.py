"""Fits that count as measurements.

`tensorchain.decompose` turns Ctrl-C into a result, the best model so far.  In a measurement such a run would pass for
a whole one and be kept on disk, so here it ends the measurement instead.
"""

from __future__ import annotations

from typing import Any

import tensorchain as tc


def decompose(*arguments: Any, **options: Any) -> tc.Fit:
    """`tensorchain.decompose`, or KeyboardInterrupt if Ctrl-C cut it short."""
    fit = tc.decompose(*arguments, **options)
    if fit.reason is tc.StopReason.INTERRUPTED:
        raise KeyboardInterrupt
    return fit
