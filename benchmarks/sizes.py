"""How many numbers a model needs for a relative error: `decompose(T, model, error=e)` beside textbooks and TensorLy.

Data with known ranks (a CP, a Tucker model, two block terms, a train, a loop, each with 0.1 % of noise), a photograph
as it is (rows, columns, colours) and folded to order 4, and a sampled function.  For e = 0.05 and 0.02

    ours          decompose(T, "tt" | "tucker" | "tc" | "cp" | "btd", error=e), `--seconds` at most
    TT-SVD        every unfolding cut at e ||T|| / sqrt(N - 1) (Oseledets 2011): within e by its theorem
    HOSVD         every mode cut at e ||T|| / sqrt(N) (De Lathauwer, De Moor, Vandewalle 2000): the same
    TensorLy      tensor_train and tucker take ranks and no error: the least uniform rank that meets e, by trial;
                  parafac likewise, from its SVD start, up to the rank that is given by `--most`

Counted are the numbers in the blocks, "planted" those of the model that the data were made of.  Every error is measured
on the reconstruction.  Seconds are processor time of our search, one thread; those of the others are not compared.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tensorchain as tc
from benchmarks.timing import parser, save, table

Array = Any
ERRORS = (0.05, 0.02)
MODELS = ("tt", "tucker", "tc", "cp", "btd")


def noisy(model: Any, rng: np.random.Generator) -> tuple[Array, int]:
    """The tensor of a model with 0.1 % of noise, and the number of its parameters."""
    T = model.full()
    noise = rng.standard_normal(T.shape)
    return T + 1e-3 * np.linalg.norm(T) / np.linalg.norm(noise) * noise, model.n_parameters


def planted(kind: str) -> Callable[[np.random.Generator], tuple[Array, int]]:
    """Data of known ranks."""
    makers: dict[str, Callable[[np.random.Generator], Any]] = {
        "cp": lambda rng: tc.CP.random((14, 15, 16), 4, rng),
        "tucker": lambda rng: tc.Tucker.random((14, 15, 16), (2, 3, 4), rng),
        "btd": lambda rng: tc.BlockTerm.random((14, 15, 16), [(2, 2, 2), (2, 2, 2)], rng),
        "tt": lambda rng: tc.TensorChain.random((8, 9, 10, 7), (1, 3, 4, 2), rng),
        "tc": lambda rng: tc.TensorChain.random((10, 11, 12), (2, 3, 2), rng),
    }
    return lambda rng: noisy(makers[kind](rng), rng)


def photograph(digits: Sequence[int] | None) -> Callable[[np.random.Generator], tuple[Array, None]]:
    """A photograph: 64 x 64 x 3, or folded."""

    def make(rng: np.random.Generator) -> tuple[Array, None]:
        folded = tc.datasets.photograph("china", digits or (4, 4, 4))
        return folded if digits else tc.datasets.unfold_image(folded, (4, 4, 4)), None

    return make


PROBLEMS: dict[str, Callable[[np.random.Generator], tuple[Array, int | None]]] = {
    "planted cp 14x15x16": planted("cp"),
    "planted tucker 14x15x16": planted("tucker"),
    "planted btd 14x15x16": planted("btd"),
    "planted tt 8x9x10x7": planted("tt"),
    "planted tc 10x11x12": planted("tc"),
    "photograph 64x64x3": photograph(None),
    "photograph 16x16x16x3": photograph((4, 4, 4)),
    "1/radius 12x12x12x12": lambda rng: (tc.datasets.inverse_radius(order=4, size=12), None),
}


def tt_svd(T: Array, error: float) -> tuple[int, Array]:
    """Parameters of the train by TT-SVD with its budget, and the tensor that it stands for."""
    budget = error * np.linalg.norm(T) / math.sqrt(T.ndim - 1)
    cores, rest, rank = [], T.reshape(T.shape[0], -1), 1
    for size in T.shape[:-1]:
        u, s, vh = np.linalg.svd(rest.reshape(rank * size, -1), full_matrices=False)
        width = cut(s, budget)
        cores.append(u[:, :width].reshape(rank, size, width))
        rest, rank = s[:width, None] * vh[:width], width
    cores.append(rest.reshape(rank, T.shape[-1], 1))
    whole = cores[0]
    for core in cores[1:]:
        whole = np.tensordot(whole, core, axes=(-1, 0))
    return sum(core.size for core in cores), whole.reshape(T.shape)


def hosvd(T: Array, error: float) -> tuple[int, Array]:
    """Parameters of the Tucker model by a truncated HOSVD with its budget, and its tensor."""
    budget = error * np.linalg.norm(T) / math.sqrt(T.ndim)
    core, whole, count = T, T, 0
    for mode, size in enumerate(T.shape):
        u, s, _ = np.linalg.svd(np.moveaxis(T, mode, 0).reshape(size, -1), full_matrices=False)
        basis = u[:, : cut(s, budget)]
        count += basis.size
        core = np.moveaxis(np.tensordot(basis.T, core, axes=(1, mode)), 0, mode)
        whole = np.moveaxis(np.tensordot(basis @ basis.T, whole, axes=(1, mode)), 0, mode)
    return count + core.size, whole


def cut(values: Array, budget: float) -> int:
    """Least number of singular values whose rest has a norm within the budget."""
    tails = np.sqrt(np.cumsum(values[::-1] ** 2))[::-1]
    return max(1, int(np.count_nonzero(tails > budget)))


def tensorly(name: str, T: Array, error: float, most: int) -> tuple[int | None, float]:
    """Parameters of TensorLy's model of the least uniform rank within the error, and that error."""
    import tensorly as tl
    from tensorly import decomposition

    makers: dict[str, Callable[[int], tuple[int, Array]]] = {
        "tensor_train": lambda r: train_of(decomposition.tensor_train(T, rank=[1, *[r] * (T.ndim - 1), 1])),
        "tucker": lambda r: tucker_of(decomposition.tucker(T, rank=[min(r, size) for size in T.shape], tol=1e-8)),
        "parafac": lambda r: cp_of(decomposition.parafac(T, r, init="svd", n_iter_max=300, tol=1e-9, random_state=0)),
    }

    def train_of(found: Any) -> tuple[int, Array]:
        return sum(core.size for core in found.factors), tl.tt_to_tensor(found)

    def tucker_of(found: Any) -> tuple[int, Array]:
        return found[0].size + sum(factor.size for factor in found[1]), tl.tucker_to_tensor(found)

    def cp_of(found: Any) -> tuple[int, Array]:
        return sum(factor.size for factor in found[1]), tl.cp_to_tensor(found)

    for rank in range(1, most + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            count, whole = makers[name](rank)
        reached = relative(T, whole)
        if reached <= error:
            return count, reached
    return None, math.nan


def relative(T: Array, whole: Array) -> float:
    """||T - X|| / ||T||."""
    return float(np.linalg.norm(T - whole) / np.linalg.norm(T))


PEERS = {"tt": "tensor_train", "tucker": "tucker", "cp": "parafac"}
TEXTBOOKS = {"tt": ("TT-SVD", tt_svd), "tucker": ("HOSVD", hosvd)}


def compare(name: str, error: float, models: Sequence[str], most: int, limit: float) -> list[dict[str, Any]]:
    """One problem at one error: a row for each model."""
    T, truth = PROBLEMS[name](np.random.default_rng(0))
    rows = []
    for model in models:
        began = time.process_time()
        fit = tc.decompose(T, model, error=error, rng=0, max_seconds=limit)
        seconds = time.process_time() - began
        row: dict[str, Any] = {
            "problem": name, "error": error, "model": model, "ours": fit.model.n_parameters,
            "rank": str(fit.model.rank), "reached": relative(T, fit.model.full()), "reason": fit.reason.name,
            "seconds": seconds, "planted": truth if name.startswith(f"planted {model} ") else None, "entries": T.size,
        }  # fmt: skip
        if model in TEXTBOOKS:
            row["textbook"], whole = TEXTBOOKS[model][1](T, error)
            row["textbook_error"] = relative(T, whole)
        if model in PEERS:
            row["tensorly"], row["tensorly_error"] = tensorly(PEERS[model], T, error, most)
        rows.append(row)
    return rows


HEADER = ["data", "error", "model", "ours", "rank", "planted", "textbook", "TensorLy", "s"]


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    missed = "" if row["reached"] <= row["error"] * (1.0 + 1e-9) else f" ({row['reason']}, {row['reached']:.3f})"

    def shown(key: str) -> str:
        return "" if key not in row else ("none" if row[key] is None and key == "tensorly" else str(row[key] or ""))

    return [
        row["problem"], f"{row['error']:g}", row["model"], f"{row['ours']}{missed}", row["rank"], shown("planted"),
        shown("textbook"), shown("tensorly"), f"{row['seconds']:.1f}",
    ]  # fmt: skip


def written(folder: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run."""
    path = folder / "sizes.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which models")
    options.add_argument("--most", type=int, default=40, help="largest uniform rank that is tried for TensorLy")
    options.add_argument("--seconds", type=float, default=120.0, help="time limit of each of our searches")
    options.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="data whose names hold one of these words"
    )
    arguments = options.parse_args()
    problems = list(PROBLEMS)[:2] if arguments.quick else list(PROBLEMS)
    problems = [name for name in problems if not arguments.only or any(word in name for word in arguments.only)]
    # Of a run over some of the data, or models, the other rows of the file stay.
    rows = [
        row
        for row in written(arguments.results)
        if not arguments.quick and (row["problem"] not in problems or row["model"] not in arguments.models)
    ]
    with threadpool_limits(arguments.threads):
        for name in problems:
            for error in ERRORS[:1] if arguments.quick else ERRORS:
                found = compare(name, error, arguments.models, arguments.most, arguments.seconds)
                rows += found
                print(table(HEADER, [line(row) for row in found]), flush=True)
    rows.sort(key=lambda row: (list(PROBLEMS).index(row["problem"]), -row["error"], MODELS.index(row["model"])))
    save(arguments.results, "sizes", {"rows": rows}, quick=arguments.quick)


if __name__ == "__main__":
    main()
