"""Networks that others trained: accuracy with weights of few bits, stabilised and not.

Shown: the ResNet-20 and ResNet-56 of the figure before, compressed by chains (TC) and CPDs of order 3 with control of
the sensitivity (solid) and without (dashed), restored, then with the weights of all layers rounded to 8, 6 and 4 bits,
one step a layer, and activations of 8 bits.  Nothing is trained after the rounding.

Paper: "CNN acceleration by low-rank approximation with quantized factors", on quantization; "How to train your unstable
looped tensor network".
What differs: the weights are those of others, and the images are CIFAR-10 written as JPEG.  The rows are shipped in
benchmarks/networks/results; `python -m benchmarks.networks.study_gpu --rate 0` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from paper_figures import known_rows
from paper_figures.known_rows import BITS
from paper_figures.known_stages import METHODS, curves, panels_of
from paper_figures.results import Job, Row, Settings
from paper_figures.style import legend_above, new_figure

STAGES = ("restored", *BITS)
SHIPPED = True


def parameters(settings: Settings) -> dict[str, Any]:
    """What is run, in full."""
    return {"methods": METHODS, "stages": STAGES, **known_rows.parameters((known_rows.FILES["own"],))}


def jobs(settings: Settings) -> Iterator[Job]:
    """One network, method, fit and budget."""
    return known_rows.jobs(STAGES, ("own",), methods=METHODS)


def describe(rows: list[Row]) -> str:
    """The caption."""
    return (
        f"{known_rows.data_text(rows)}. Restored in 3 epochs at {known_rows.rate_text(rows)}, then rounded: weights "
        "with one step a layer, activations with 8 bits. Solid lines, filled marks: sensitivity controlled; dashed "
        "lines, open marks: plain least squares at equal ranks. Dotted: the dense network, rounded in the same way. "
        f"{known_rows.seed_text(rows)} {known_rows.device_text(rows)} What is missing was not measured."
    )


def draw(rows: list[Row]) -> Figure:
    """A row of panels for each budget, a column for each network."""
    figure = new_figure(4.6)
    panels = panels_of(figure, rows)
    for (network, times), panel in panels.items():
        curves(panel, [row for row in rows if row["network"] == network and row["times"] == times], STAGES)
        whole = known_rows.dense(rows, network)
        panel.plot(
            range(len(STAGES)), [float(whole[name]) for name in ("dense", *BITS)], color="black", linewidth=0.9,
            linestyle=(0, (1, 2)), label="dense",
        )  # fmt: skip
        panel.set_xticks(range(len(STAGES)), ["float32", "8", "6", "4"])
        panel.set(ylim=(0, 100), yticks=range(0, 101, 20))
    for panel in figure.axes[-2:]:
        panel.set_xlabel("bits of the weights")
    legend_above(figure, next(iter(panels.values())))
    return figure
