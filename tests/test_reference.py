"""The reference: whatever is public is documented in numpydoc, as its signature has it, and has a place on the pages.

All public names are walked: those of `tensorchain.__all__` and of its subpackages, and the public attributes of every
class among them.  Doctests, which run with the other tests, hold the examples.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorchain as tc

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SECTIONS = (
    "Parameters", "Attributes", "Returns", "Yields", "Raises", "See Also", "Notes", "References", "Examples",
)  # fmt: skip
"""In the order of numpydoc."""
FOR_IMPLEMENTERS = frozenset({
    "steps", "stage",
    "along_path", "crossed", "gap", "measured", "merit", "normalised", "value", "with_room",
    "apply_gram", "computed", "contract_all_but", "gram", "mode_gram", "mode_grams", "system",
    "bare", "from_matrices", "from_state", "renderer", "svd_matrices", "register", "wiring", "with_matrices",
    "design_rows", "gauss_newton", "gauss_newton_matvec", "all_grams", "gram_at", "damped_solver", "damped_inverse",
    "packed_newton",
    "absorbed", "deferred", "near", "observed_entries", "reduced", "array_for", "residual_of", "scaled_norm",
        "squared_residual", "gram_factors", "gram_derivatives", "operands", "rejoined",
    "residual", "best_bias", "merge", "methods_of", "refusal", "report",
})  # fmt: skip
"""Methods that need no example: whoever adds a model, a solver or a constraint writes them, users do not call them."""


@dataclass(frozen=True)
class Entry:
    """A public name and what it stands for."""

    name: str
    thing: Any
    kind: str
    owner: type | None = None

    @property
    def doc(self) -> str:
        if self.kind == "property":
            function = getattr(self.thing, "fget", None) or getattr(self.thing, "func", None)
            return inspect.getdoc(self.thing) or inspect.getdoc(function) or ""
        return inspect.getdoc(self.thing) or ""

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]


def entries() -> Iterator[Entry]:
    """Every public name once, where it is defined first."""
    seen: set[int] = set()
    modules: list[tuple[str, ModuleType]] = [("tc", tc)]
    while modules:
        prefix, module = modules.pop(0)
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, ModuleType):
                modules.append((f"{prefix}.{name}", thing))
            elif callable(thing) and id(thing) not in seen:
                seen.add(id(thing))
                kind = "class" if inspect.isclass(thing) else "function"
                yield Entry(f"{prefix}.{name}", thing, kind)
                if kind == "class":
                    yield from members(f"{prefix}.{name}", thing, seen)


def members(prefix: str, owner: type, seen: set[int]) -> Iterator[Entry]:
    """Public attributes of a class that this package defines."""
    # Hooks of implementers too, which `dir` leaves out.
    for name in sorted({name for base in owner.__mro__ for name in vars(base)}):
        home = next((base for base in owner.__mro__ if name in vars(base)), object)
        if name.startswith("_") or not home.__module__.startswith("tensorchain"):
            continue
        raw = vars(home)[name]
        if isinstance(raw, enum.Enum) or id(raw) in seen:
            continue
        if isinstance(raw, property | cached_property):
            seen.add(id(raw))
            yield Entry(f"{prefix}.{name}", raw, "property", owner)
        elif isinstance(raw, classmethod | staticmethod) or inspect.isfunction(raw):
            seen.add(id(raw))
            yield Entry(f"{prefix}.{name}", getattr(owner, name), "method", owner)


def sections(doc: str) -> dict[str, list[str]]:
    """The lines of each section, in the order in which they stand; those before the first under no name."""
    lines = doc.splitlines()
    found: dict[str, list[str]] = {"": []}
    name, skip = "", False
    for line, below in zip(lines, (*lines, "")[1:], strict=True):
        if skip:
            skip = False
        elif line and re.fullmatch(r"-{3,}", below) and len(below) == len(line):
            name, skip = line, True
            assert name not in found, f"two sections {name}"
            found[name] = []
        else:
            found[name].append(line)
    return found


def heads(body: list[str]) -> list[str]:
    """The lines that are not indented."""
    return [line for line in body if line and not line.startswith(" ")]


def documented(body: list[str]) -> list[str]:
    """Names of parameters; each has a type."""
    names = []
    for head in heads(body):
        parts = re.fullmatch(r"([*\w]+(?:, [*\w]+)*) : (\S.*)", head)
        assert parts, f"{head!r} is no `name : type`"
        names += [name.strip().lstrip("*") for name in parts[1].split(",")]
    return names


def arguments(entry: Entry) -> list[str]:
    """Names in the signature, without self."""
    return [name for name in inspect.signature(entry.thing).parameters if name not in ("self", "cls")]


ALL = list(entries())
CALLABLE = [entry for entry in ALL if entry.kind in ("function", "method")]
CLASSES = [entry for entry in ALL if entry.kind == "class"]


def hold(check: Callable[[Entry], None], entries: Iterable[Entry]) -> None:
    """A check of every entry; all that fail are named at once."""
    wrong = []
    for entry in entries:
        try:
            check(entry)
        except AssertionError as error:  # noqa: PERF203
            wrong.append(f"{entry.name}: {str(error).splitlines()[0] if str(error) else error!r}")
    assert not wrong, "\n".join(["", *wrong])


def test_the_walk_reaches_what_users_call() -> None:
    names = {entry.name for entry in ALL}
    assert {
        "tc.decompose", "tc.CP.full", "tc.CP.norm", "tc.CP.sensitivity", "tc.Fit.at", "tc.Fit.plot", "tc.ALS",
        "tc.Masked", "tc.SensitivityBound", "tc.datasets.matmul", "tc.plotting.plot_factors", "tc.compression.compress",
    } <= names  # fmt: skip
    assert len(ALL) > 300


def test_it_says_what_it_is_in_sections_of_numpydoc() -> None:
    def check(entry: Entry) -> None:
        found = sections(entry.doc)
        assert found[""], "no summary"
        assert found[""][0].strip(), "no summary"
        names = [name for name in found if name]
        assert set(names) <= set(SECTIONS), names
        assert names == sorted(names, key=SECTIONS.index), names
        assert all(any(line.strip() for line in body) for name, body in found.items() if name)

    hold(check, ALL)


def test_its_parameters_are_those_of_the_signature() -> None:
    def check(entry: Entry) -> None:
        # Several that are as elsewhere may stand together, so the order is free.
        assert sorted(documented(sections(entry.doc).get("Parameters", []))) == sorted(arguments(entry))

    hold(check, CALLABLE)


def test_it_says_what_it_returns() -> None:
    def check(entry: Entry) -> None:
        found = sections(entry.doc)
        nothing = inspect.signature(entry.thing).return_annotation in (None, "None")
        assert nothing != ("Returns" in found or "Yields" in found)
        for head in heads(found.get("Returns", [])):
            assert len(head) < 90, "a type in one line, what it is below"
            assert not head.endswith("."), "a type in one line, what it is below"

    hold(check, CALLABLE)


def test_errors_stand_one_by_one() -> None:
    def check(entry: Entry) -> None:
        for head in heads(sections(entry.doc).get("Raises", [])):
            assert re.fullmatch(r"[\w.]+", head), head

    hold(check, ALL)


def test_what_a_class_holds_is_documented() -> None:
    def check(entry: Entry) -> None:
        found = sections(entry.doc)
        said = documented(found.get("Parameters", [])) + documented(found.get("Attributes", []))
        if is_dataclass(entry.thing) or issubclass(entry.thing, tuple):
            fields = [name for name in entry.thing.__annotations__ if not name.startswith("_")]
            assert set(fields) <= set(said), set(fields) - set(said)
        elif "__init__" in vars(entry.thing):
            assert set(arguments(entry)) <= set(said), set(arguments(entry)) - set(said)

    hold(check, CLASSES)


def test_an_example_shows_how() -> None:
    def check(entry: Entry) -> None:
        bases = entry.owner.__mro__ if entry.owner is not None else ()
        docs = [entry.doc, *(inspect.getdoc(vars(base).get(entry.attribute)) or "" for base in bases)]
        assert any(">>> " in "\n".join(sections(doc).get("Examples", [])) for doc in docs)

    hold(check, [entry for entry in ALL if entry.kind != "property" and entry.attribute not in FOR_IMPLEMENTERS])


def test_dir_lists_public_names() -> None:
    listed = {name for name in dir(tc) if not name.startswith("__")}
    assert listed == {name for name in tc.__all__ if not name.startswith("__")}
    assert {"plotting", "compression", "decompose"} <= listed
    for name in listed:
        assert getattr(tc, name) is not None


def test_help_shows_what_users_call() -> None:
    shown = pydoc.plain(pydoc.render_doc(tc.CP))
    for name in ("full", "entries", "sensitivity", "random", "factors"):
        assert f"\n |  {name}" in shown, name
    for name in ("absorbed", "gram", "gauss_newton", "with_matrices"):
        assert f"\n |  {name}" not in shown, name
        assert name not in dir(tc.CP.random((2, 2), 1))
        assert callable(getattr(tc.CP, name))
    for constraint in (tc.NonNegative, tc.Penalty, tc.ErrorBound, tc.SensitivityBound):
        listed = {name for name in dir(constraint) if not name.startswith("_")}
        fields = {field.name for field in dataclasses.fields(constraint)}
        # A field without a default is no attribute of the class.
        assert listed <= fields

    class Added(tc.CP):
        def norm_of_rows(self) -> float:
            return 0.0

    assert "norm_of_rows" in dir(Added)


def rendered() -> set[str]:
    """Full names on the pages of the reference: what the directives of autodoc expand to."""
    found: set[str] = set()
    for page in sorted(PAGES.glob("*.md")):
        if page.stem == "inside":
            continue
        text = page.read_text(encoding="utf-8")
        for kind, path, options in re.findall(r"\.\. auto(\w+):: ([\w.]+)\n((?:   .*\n)*)", text):
            # What `dir` of a model leaves out is left out there, and stands on the page for implementers.
            shown = expanded(kind, path, options)
            hooks = tc.Model._hooks if page.stem in ("models", "cp", "tucker", "block_term", "tensor_chain") else set()
            found |= {name for name in shown if name.rpartition(".")[2] not in hooks}
    return found


def expanded(kind: str, path: str, options: str) -> set[str]:
    if kind == "module":
        module = importlib.import_module(path)
        names = [name for name in module.__all__ if ":members:" in options]
        classes = [name for name in names if inspect.isclass(getattr(module, name))]
        return {*names, *(f"{name}.{member}" for name in classes for member in vars(getattr(module, name)))}
    name = path.rpartition(".")[2]
    if kind in ("function", "data"):
        return {name}
    owner, _, last = path.rpartition(".")
    if kind in ("method", "attribute", "property"):
        return {f"{owner.rpartition('.')[2]}.{last}"}
    members = re.search(r":members:([^:]*)", options)
    if members is None:
        return {name}
    listed = [word.strip() for word in members[1].split(",") if word.strip()]
    left_out = re.search(r":exclude-members:([^:]*)", options)
    excluded = {word.strip() for word in left_out[1].split(",")} if left_out else set()
    thing = getattr(importlib.import_module(owner), name)
    every = vars(thing)
    if ":inherited-members:" in options:
        every = {member for base in thing.__mro__ for member in vars(base)}
    return {name} | {f"{name}.{member}" for member in listed or every if member not in excluded}


def test_everything_has_a_place_on_the_pages() -> None:
    there = rendered()
    missing = []
    for entry in ALL:
        if entry.owner is None:
            found = entry.attribute in there
        elif entry.name.count(".") == 2:
            found = any(f"{base.__name__}.{entry.attribute}" in there for base in entry.owner.__mro__)
        else:
            # Members in subpackages are rendered with their class.
            found = True
        if not found:
            missing.append(entry.name)
    assert not missing
