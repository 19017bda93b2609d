"""Tensor decompositions whose sensitivity is measured and controlled.

A *model* is fitted to a *tensor* by a *solver*, giving a *Fit*; *stability* measures and tames it.
"""

from tensorchain import datasets
from tensorchain._version import __version__
from tensorchain.api import decompose
from tensorchain.fit import Fit, History, StopReason
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker, load
from tensorchain.solvers import ALS, LM, Continuation, ErrorBound, Iterate, Penalty, SensitivityBound
from tensorchain.stability import optimal_gauge, sensitivity
from tensorchain.tensors import Dense, Tensor

__all__ = [
    "ALS",
    "CP",
    "LM",
    "BlockTerm",
    "Continuation",
    "Dense",
    "ErrorBound",
    "Fit",
    "History",
    "Iterate",
    "Model",
    "Penalty",
    "SensitivityBound",
    "StopReason",
    "Tensor",
    "TensorChain",
    "Tucker",
    "__version__",
    "datasets",
    "decompose",
    "load",
    "optimal_gauge",
    "sensitivity",
]
