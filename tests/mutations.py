# ruff: noqa: T201
"""Mutations: small errors put into the code one at a time, to see whether a test fails: `python -m tests.mutations`.

    python -m tests.mutations stability --count 20 --seed 0
    python -m tests.mutations models solvers --list

A mutation turns a comparison round or makes it strict or not, exchanges + and - or * and /, moves a number, exchanges
True and False or `and` and `or`, or drops a statement.  They are drawn at random, with a seed, from the functions of a
package.  Each is written into a copy of the tree, where the tests of that package run until the first failure.  A
mutation that no test notices *survives*: it is printed with its line, to write a test for, or to see that it changes
nothing (a faster branch that is not taken, a tolerance).

Not part of `make test`: a mutation costs as much as the tests of its package.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "stability": ("tests/stability", "tests/test_gauge.py", "tensorchain/stability"),
    "models": (
        "tests/test_models.py", "tests/test_arrays.py", "tests/test_rounding.py", "tests/test_normal_forms.py",
        "tests/test_core_terms.py", "tests/test_core_systems.py", "tests/test_cp_newton.py", "tests/test_tables.py",
        "tests/test_model_files.py", "tests/test_row_counts.py", "tests/test_growth.py", "tests/test_fit_files.py",
        "tensorchain/models",
    ),
    "solvers": (
        "tests/test_solvers.py", "tests/test_constraints.py", "tests/test_stop_reasons.py", "tests/test_sweeps.py",
        "tests/test_reduction.py", "tests/test_starts.py", "tests/test_path_rules.py", "tests/test_diverges.py",
        "tests/test_auto.py", "tests/test_rank_search.py", "tests/test_checkpoint.py", "tests/test_truth.py",
    ),
}  # fmt: skip
"""What runs for a mutation in each package."""
TIMEOUT = 900
"""Seconds after which a mutation counts as noticed: it has made an endless loop."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """A file with one change in it."""

    path: Path
    line: int
    what: str
    code: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def changed(node: ast.AST) -> ast.AST | None:
    """A copy of a node with one error in it, or None."""
    other = copy.deepcopy(node)
    if isinstance(other, ast.Compare) and type(other.ops[0]) in COMPARISONS:
        other.ops[0] = COMPARISONS[type(other.ops[0])]()
    elif isinstance(other, ast.BinOp | ast.AugAssign) and type(other.op) in OPERATIONS:
        other.op = OPERATIONS[type(other.op)]()
    elif isinstance(other, ast.BoolOp):
        other.op = ast.Or() if isinstance(other.op, ast.And) else ast.And()
    elif isinstance(other, ast.Constant) and isinstance(other.value, bool):
        other.value = not other.value
    elif isinstance(other, ast.Constant) and isinstance(other.value, int | float):
        other.value = 2 * other.value if other.value else 1
    elif isinstance(other, ast.Expr) and isinstance(other.value, ast.Call):
        return ast.Pass()
    else:
        return None
    return other


class Replacer(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def mutations(path: Path) -> Iterator[Mutation]:
    """All mutations of the functions in a file; annotations and error messages are left alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        skipped = {
            id(part) for raised in ast.walk(function) if isinstance(raised, ast.Raise) for part in ast.walk(raised)
        }
        for statement in function.body:
            for node in ast.walk(statement):
                new = None if id(node) in skipped else changed(node)
                if new is None:
                    continue
                mutated = Replacer(node, ast.copy_location(new, node)).visit(tree)
                code = ast.unparse(ast.fix_missing_locations(mutated))
                Replacer(new, node).visit(tree)
                before, after = (ast.unparse(ast.fix_missing_locations(part)) for part in (node, new))
                where = getattr(node, "lineno", 0)
                yield Mutation(path.relative_to(ROOT), where, f"{before[:60]} -> {after[:60]}", code)


def drawn(package: str, count: int, seed: int) -> list[Mutation]:
    """Some mutations of a package, each line at most once."""
    every = [found for path in sorted((ROOT / "tensorchain" / package).rglob("*.py")) for found in mutations(path)]
    random.Random(seed).shuffle(every)
    chosen: dict[tuple[Path, int], Mutation] = {}
    for mutation in every:
        if len(chosen) < count:
            chosen.setdefault((mutation.path, mutation.line), mutation)
    return list(chosen.values())


def survives(mutation: Mutation, package: str) -> bool:
    """Whether all tests of the package pass with the mutation."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        for name in ("tensorchain", "tests", "benchmarks", "docs"):
            shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        shutil.copy(ROOT / "pyproject.toml", copied)
        (copied / mutation.path).write_text(mutation.code, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS[package]]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"{', '.join(TESTS)}; all by default")
    parser.add_argument("--count", type=int, default=20, help="mutations of each package (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    options = parser.parse_args(arguments)
    unknown = set(options.packages) - set(TESTS)
    if unknown:
        parser.error(f"no package {min(unknown)!r}; there are {', '.join(TESTS)}")
    for package in options.packages or TESTS:
        chosen, alive, began = drawn(package, options.count, options.seed), [], time.monotonic()
        for mutation in chosen:
            if options.list:
                print(mutation)
            elif survives(mutation, package):
                alive.append(mutation)
                print(f"survives: {mutation}", flush=True)
        if not options.list:
            spent = time.monotonic() - began
            print(f"{package}: {len(chosen) - len(alive)} of {len(chosen)} noticed, {spent:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
