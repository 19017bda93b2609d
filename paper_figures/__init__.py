"""Figures, each drawn from numbers that this code measures: `python -m paper_figures`.

One module draws one figure.  It names its settings (`parameters`), splits the measurement into jobs (`jobs`), and
draws the numbers (`draw`); everything else is shared:

    run        compute the jobs that are not on disk yet, then draw
    results    numbers as CSV, and the settings that they belong to as JSON
    style      fonts, sizes, and how a picture is saved
    trace      the way of a run, over its iterations
    data       the tensors that several figures share
    agreement  fits of two halves of the samples
    equal      ranks of different models for one budget of parameters
    catalogue  the figures by name

A new figure is one module and one line in the catalogue.
"""

import os

# One BLAS thread: the matrices are small.  It has to be set before NumPy is imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
