"""Keywords that a function lacks: what is meant, by name or by spelling."""

from __future__ import annotations

import numpy as np
import pytest

import tensorchain as tc

T = np.ones((3, 4, 5))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random_state", "use rng=0"),
        ("randomstate", "use rng=0"),
        ("n_iter_max", "solver=tc.ALS"),
        ("constraints", "did you mean 'constraint'"),
        ("checkpiont", "did you mean 'checkpoint'"),
        ("fixed_modes", "init=model, fixed="),
        ("qqq", "it has callback, checkpoint, constraint"),
    ],
)
def test_what_is_meant(name: str, words: str) -> None:
    with pytest.raises(TypeError, match=f"decompose has no '{name}'; .*{words}"):
        tc.decompose(T, "cp", 1, **{name: 1})


def test_those_of_the_function_are_passed_on() -> None:
    assert tc.decompose(T, "cp", rank=1, rng=0, starts=1).error < 1e-12
