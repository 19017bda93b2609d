r"""Outputs that a function behind a layer cuts, such as a ReLU, and what is asked of a fit where they are.

**The problem.**  Where relu(u) is all that is seen of u, an error of a negative u that stays negative does no harm.  A
least-squares fit of the outputs y of a layer spends rank on it all the same.  So the fit asks only for what is seen:
for each output and position

    u = s y + c,      s > 0 or < 0 for each channel, c what is added (a normalisation's shift, a shortcut),

and u is *cut* where it is at most `low`, or at least `high`.  Where u of the original and u of the fit are cut on the
same side, the target is what the fit gives already; elsewhere it is y of the original.  Each step of this is a
least-squares problem with a new target, whose squared error over the entries that are asked for cannot rise
(majorisation).

Where cuts lie is found in :mod:`tensorchain.compression.torch_cuts` and :mod:`tensorchain.compression.onnx_cuts`.

References: Zhang, Zou, He, Sun, "Accelerating very deep convolutional networks for classification and detection"
(2016), for fits to what a ReLU lets through.
"""

from __future__ import annotations

from dataclasses import dataclass

FITS = 3
"""Fits of a layer whose outputs are cut: the first to all outputs, the others to those that are seen."""


@dataclass(frozen=True)
class Cut:
    """Where a function is constant: at and below `low`, at and above `high`."""

    low: float
    high: float
