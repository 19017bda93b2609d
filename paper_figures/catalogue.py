"""The figures, by name."""

from __future__ import annotations

from types import ModuleType

from paper_figures import (
    accuracy,
    bits,
    border,
    fine_tuning,
    halves,
    instability,
    kernels,
    known_bits,
    known_files,
    known_methods,
    known_stages,
    latency,
    other_models,
    perturbation,
    replicability,
    shared_core,
    success,
    trade_off,
)

FIGURES: dict[str, ModuleType] = {
    "instability": instability,
    "perturbation": perturbation,
    "trade_off": trade_off,
    "shared_core": shared_core,
    "success": success,
    "kernels": kernels,
    "fine_tuning": fine_tuning,
    "known_stages": known_stages,
    "accuracy": accuracy,
    "known_methods": known_methods,
    "bits": bits,
    "known_bits": known_bits,
    "latency": latency,
    "known_files": known_files,
    "border": border,
    "replicability": replicability,
    "halves": halves,
    "other_models": other_models,
}


def summary(module: ModuleType) -> str:
    """The first line of what a figure says of itself."""
    return (module.__doc__ or "").strip().splitlines()[0]
