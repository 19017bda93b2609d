"""The documentation: its Python runs, its commands exist, its links lead somewhere, and the reference is complete.

`make docs` builds the pages with warnings as errors; here is what it does not see.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pytest
from docutils import nodes

import tensorchain as tc
from benchmarks.__main__ import NAMES as BENCHMARKS
from tensorchain.cli import make_parser
from tensorchain.models import Model
from tests.cases import LONG

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts}
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An extension of the documentation, by name."""
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    return importlib.import_module


@pytest.fixture
def registry() -> Iterator[None]:
    """Models that a page adds are forgotten."""
    before = dict(Model.registry)
    yield
    Model.registry.clear()
    Model.registry.update(before)


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


WITH_PYTHON = [page for page in PAGES if "```python" in text_of(page)]


@pytest.mark.skipif(not LONG, reason="`make docs` runs it, and an error stops the build; here `make test-long` does")
@pytest.mark.parametrize("page", WITH_PYTHON)
@pytest.mark.usefixtures("registry")
def test_python_runs_as_written(page: str, extension: Any) -> None:
    plt.switch_backend("Agg")
    printed = extension("examples").run_page(text_of(page), page)
    assert any(printed)
    plt.close("all")


def test_there_is_no_other_python() -> None:
    kinds = {kind for page in PAGES for kind, _ in FENCE.findall(text_of(page))}
    assert kinds <= {"python", "sh", "text", "{toctree}", "{eval-rst}", "{command-help}", "{gallery}", "{measured}"}
    assert {"quickstart.md", "choosing.md", "mathematics.md", "comparison.md", "extending.md"} <= set(WITH_PYTHON)


def commands() -> list[list[str]]:
    lines = [
        line
        for page in PAGES
        for kind, code in FENCE.findall(text_of(page))
        if kind == "sh"
        for line in code.splitlines()
    ]
    inline = [
        words for page in PAGES for words in re.findall(r"`((?:tensorchain|make|python -m) [^`]+)`", text_of(page))
    ]
    words = [shlex.split(line, comments=True) for line in lines + inline]
    # What is behind a pipe is the shell's.
    return [some[: some.index("|")] if "|" in some else some for some in words]


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = set()
    for words in commands():
        program, *rest = words
        seen.add(program)
        if program == "tensorchain" and "--help" not in rest:
            assert make_parser().parse_args(rest).command == rest[0]
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", makefile, flags=re.MULTILINE), rest[0]
        elif program == "python" and rest[1] == "benchmarks":
            assert len(rest) == 2 or rest[2] in BENCHMARKS
        elif program == "python":
            assert (ROOT / rest[1].replace(".", "/")).with_suffix(".py").exists(), rest[1]
    assert {"tensorchain", "make", "python", "pip"} <= seen


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    prose = FENCE.sub("", text_of(page))
    for link in re.findall(r"\]\(([^)#]+)\)", prose):
        if "://" not in link:
            assert (PAGES[page].parent / link).exists(), link
    for word in re.findall(r"`((?:tests|tensorchain|benchmarks|notebooks)/[\w/.]+)`", prose):
        assert (ROOT / word).exists(), word


def test_the_reference_is_complete() -> None:
    text = "\n".join(text_of(page) for page in PAGES if page.startswith("reference/"))
    packages = re.findall(r"automodule:: ([\w.]+)\n   :members:", text)
    named = set(re.findall(r"auto(?:class|function):: tensorchain\.(?:\w+\.)*(\w+)", text))
    for package in packages:
        named |= set(importlib.import_module(package).__all__)
    modules = {name for name in tc.__all__ if isinstance(getattr(tc, name), ModuleType)}
    assert set(tc.__all__) - modules - {"__version__"} <= named
    assert {f"tensorchain.{name}" for name in modules} <= set(packages)


def test_lines_that_contributing_shows_are_in_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tensorchain").rglob("*.py")))
    lines = {line.strip() for line in code.splitlines()}
    shown = [block for kind, block in FENCE.findall(text) if kind == "python"]
    assert len(shown) == 5
    for line in "".join(shown).splitlines():
        assert line.strip() in lines, line
    for path in re.findall(r"^\| `([^|]+)` \|", text, flags=re.MULTILINE):
        for part in path.split("`, `"):
            assert (ROOT / part).exists(), part


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {tc.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version = {{{tc.__version__}}}" in text_of("index.md")


def test_the_page_of_reasons_names_all_that_ask_for_something() -> None:
    table = re.findall(r"^\| (`.*) \|", text_of("answers/reasons.md"), flags=re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`([A-Z_]+)`", row)}
    # Whoever stops a run from a callback needs no advice.
    assert named == {reason.name for reason in tc.StopReason} - {"CALLBACK"}


DOCSTRING = """Summary with ||X|| and x_.

Formula:

    a = b*c         by :mod:`tensorchain.kernels`

Parameters
----------
limit : float or a_
    Above 0, or a
    number.
size : int
    How many `Term`s.

Raises
------
ValueError
    When (*bonds) is
    wrong.

See Also
--------
other : Of the same kind.

Examples
--------
>>> 1 | 2
3
"""

CONVERTED = r"""Summary with \|\|X\|\| and x\_.

Formula:

::

    a = b*c         by tensorchain.kernels

.. rubric:: Parameters

limit : float or a\_
    Above 0, or a
    number.

size : int
    How many `Term`\ s.


.. rubric:: Raises

ValueError
    When (\*bonds) is
    wrong.


.. rubric:: See Also

other
    Of the same kind.


.. rubric:: Examples

>>> 1 | 2
3
"""


def test_docstrings_become_restructured_text(extension: Any) -> None:
    made = extension("docstrings").converted(DOCSTRING.splitlines())
    # How many empty lines there are makes no difference.
    assert [line for line in made if line.strip()] == [line for line in CONVERTED.splitlines() if line]


def test_tables_and_code_over_two_lines_become_restructured_text(extension: Any) -> None:
    text = [
        "| name | what |",
        "|---|---|",
        "| `f` | a_ |",
        "| ||X|| | of |c_rs| |",
        "| none | |",
        "",
        "Inside ``with",
        "f():`` it runs.",
        "",
        "||X|| is a norm.",
    ]
    made = [line for line in extension("docstrings").converted(text) if line.strip()]
    assert made == [
        ".. list-table::", "   :header-rows: 1", "   * - name", "     - what", "   * - `f`", "     - a\\_",
        "   * - \\|\\|X\\|\\|", "     - of \\|c_rs\\|",
        "   * - none", "     - ",
        "Inside `with f():` it runs.", "\\|\\|X\\|\\| is a norm.",
    ]  # fmt: skip


PAGE = """# Page

$a_n$

$$ b^2 $$

```{measured} table.md
make it
```

```{measured} none.md
make other
```

```python
import matplotlib.pyplot as plt
print(6 * 7)
plt.plot([1, 2])
```
"""


def build(folder: Path, page: str, *options: str) -> subprocess.CompletedProcess[str]:
    settings = (DOCS / "conf.py").read_text(encoding="utf-8").replace("Path(__file__).parent", f"Path({str(DOCS)!r})")
    (folder / "conf.py").write_text(settings, encoding="utf-8")
    (folder / "index.md").write_text(page, encoding="utf-8")
    (folder / "table.md").write_text(
        "---\norphan: true\n---\n\n| a | b |\n|---|---|\n| left | 17.5 |\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", *options, str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_extensions_show_results_tables_and_formulas(tmp_path: Path) -> None:
    (tmp_path / "_build").mkdir()
    done = build(tmp_path, PAGE)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<span></span>42" in html
    assert re.search(r"<td[^>]*><p>17.5</p></td>", html)
    shown = re.sub(r"<[^>]+>", "", html)
    assert "make other" in shown
    assert "make it" not in shown
    assert html.count('<svg role="img" aria-label=') == 2
    assert len(list((tmp_path / "out" / "_images").glob("*.png"))) == 1
    # Nothing is loaded from elsewhere.
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"https?:", html)


def test_what_fails_is_said(extension: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="broken example"):
        extension("examples").run_page("```python\nraise ValueError('broken example')\n```\n", "page")
    formulas, said = extension("formulas"), []
    monkeypatch.setattr(formulas.logger, "warning", lambda text, *rest, location: said.append(text % rest))
    for formula in (r"a \unheardof b", r"\left( \sum_j a_j \right)^T", r"\sum_j a_j^2"):
        formulas.markup(nodes.math(formula, formula), within=False)
    assert [("unknown" in text, "em high" in text) for text in said] == [(True, False), (False, True)]


@pytest.mark.slow
def test_what_fails_stops_the_build(tmp_path: Path) -> None:
    # An example, an unknown command, and brackets that grow without end.
    formulas = "$a \\unheardof b$\n\n$$ \\left( \\sum_j a_j \\right)^T $$\n"
    page = f"# Page\n\n```python\nraise ValueError('broken example')\n```\n\n{formulas}"
    done = build(tmp_path, page, "--keep-going")
    assert done.returncode != 0
    for said in ("broken example", "unheardof", "em high"):
        assert said in done.stderr
