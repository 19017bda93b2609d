"""Plots of what a decomposition did and of what it is.

| function | the question it answers |
|---|---|
| `plot_history` | how did one run go? |
| `plot_runs` | how does a method behave over starts? |
| `plot_trade_off` | which method gives the better models? |
| `plot_profiles` | which rank is worth its sensitivity? |
| `plot_ranks` | which rank do the data bear out? |
| `plot_sensitivity` | which block makes the model sensitive? |
| `plot_block`, `plot_blocks` | what stands in its factors and cores? |
| `plot_factor`, `plot_factors` | which spectra, time courses, loadings did it find? |
| `plot_starts` | did all starts find the same? |
| `plot_residual` | which slices of the data does it miss? |
| `plot_reconstruction` | how does the model look beside the data? |
| `plot_network` | how are its blocks connected, by bonds of which size? |

Each function takes the axes `ax` to draw on and returns them, so that plots combine; without `ax` it opens a figure.
Matplotlib is imported when the first plot is drawn.
"""

from tensorchain.plotting.blocks import plot_block, plot_blocks
from tensorchain.plotting.factors import plot_factor, plot_factors
from tensorchain.plotting.network import plot_network
from tensorchain.plotting.path import plot_path
from tensorchain.plotting.ranks import plot_ranks
from tensorchain.plotting.residuals import plot_reconstruction, plot_residual
from tensorchain.plotting.runs import plot_history, plot_runs
from tensorchain.plotting.sensitivity import plot_sensitivity
from tensorchain.plotting.starts import plot_starts
from tensorchain.plotting.style import (
    BLACK,
    BLUE,
    DASHES,
    ERROR_LABEL,
    GREEN,
    MARKERS,
    ORANGE,
    PALETTE,
    PURPLE,
    SENSITIVITY_LABEL,
    SKY,
    VERMILLION,
    YELLOW,
)
from tensorchain.plotting.trade_off import plot_profiles, plot_trade_off

__all__ = [
    "BLACK",
    "BLUE",
    "DASHES",
    "ERROR_LABEL",
    "GREEN",
    "MARKERS",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SENSITIVITY_LABEL",
    "SKY",
    "VERMILLION",
    "YELLOW",
    "plot_block",
    "plot_blocks",
    "plot_factor",
    "plot_factors",
    "plot_history",
    "plot_network",
    "plot_path",
    "plot_profiles",
    "plot_ranks",
    "plot_reconstruction",
    "plot_residual",
    "plot_runs",
    "plot_sensitivity",
    "plot_starts",
    "plot_trade_off",
]
