"""Tucker ranks from the data: planted ones under noise, and as variational Bayes says of every unfolding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorchain as tc
from tensorchain.cli import main
from tensorchain.kernels.evbmf import evbmf
from tensorchain.solvers.automatic_rank import tucker_rank


def planted(shape: tuple[int, ...], rank: tuple[int, ...], noise: float, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    clean = tc.Tucker.random(shape, rank, rng).full()
    other = rng.standard_normal(shape)
    return clean + noise * np.linalg.norm(clean) / np.linalg.norm(other) * other


@pytest.mark.parametrize(
    ("shape", "rank"), [((20, 21, 22), (2, 3, 4)), ((12, 10, 8, 9), (2, 2, 3, 2)), ((60, 12, 11), (4, 2, 3))]
)
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_ranks(shape: tuple[int, ...], rank: tuple[int, ...], noise: float, seed: int) -> None:
    T = planted(shape, rank, noise, seed)
    fit = tc.decompose(T, "tucker", "evbmf", rng=0)
    assert fit.model.rank == rank
    assert fit.error <= noise + 1e-10


def test_it_is_that_of_every_unfolding() -> None:
    T = tc.datasets.photograph("china", (4, 4, 3)).astype(np.float64)[:, :, :, 0]
    by_svd = [evbmf(np.moveaxis(T, n, 0).reshape(size, -1)).rank for n, size in enumerate(T.shape)]
    assert tucker_rank(tc.Dense(T)) == tuple(by_svd)
    assert tucker_rank(tc.Dense(1e-90 * T)) == tuple(by_svd)


@pytest.mark.parametrize("make", [tc.Lazy, lambda T: tc.Sparse(np.argwhere(T != 0), T[T != 0], T.shape)])
def test_other_data_classes(make: Any) -> None:
    T = planted((20, 21, 22), (2, 3, 4), 0.1, 0)
    assert tucker_rank(make(T)) == (2, 3, 4)


def test_a_mode_longer_than_all_others_together() -> None:
    T = planted((300, 5, 6), (3, 2, 2), 0.05, 0)
    assert tucker_rank(tc.Dense(T)) == (3, 2, 2)
    noise = np.random.default_rng(0).standard_normal((30, 30, 30))
    assert tc.decompose(noise, "tucker", "EVBMF", rng=0).model.rank == (1, 1, 1)


def test_what_it_is_not_for(tmp_path: Path) -> None:
    T = planted((8, 9, 10), (2, 2, 2), 0.1, 0)
    with pytest.raises(ValueError, match="real data"):
        tc.decompose(T * 1j, "tucker", "evbmf")
    with pytest.raises(ValueError, match="some are missing"):
        tc.decompose(tc.Masked(np.where(T > 0, T, np.nan)), "tucker", "evbmf")
    with pytest.raises((TypeError, ValueError), match="evbmf"):
        tc.decompose(T, "cp", "evbmf")
    np.save(tmp_path / "T.npy", T)
    words = [
        str(tmp_path / "T.npy"),
        "--model",
        "tucker",
        "--rank",
        "evbmf",
        "--out",
        str(tmp_path / "fit.npz"),
        "--quiet",
    ]
    assert main(["decompose", *words]) == 0
    assert tc.load(tmp_path / "fit.npz").model.rank == (2, 2, 2)
