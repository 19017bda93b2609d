"""HTML for notebooks: well formed, escaped, without scripts, in the colours of the page; and the geometry it draws."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import xarray

import tensorchain as tc
from tensorchain.diagram import MOST_TERMS, Diagram, layout
from tensorchain.html import model_html, report, table
from tensorchain.labels import labels_of
from tensorchain.models import Model, Network
from tensorchain.models.network import Term
from tests.cases import SMALL, Case, four_models, gaussian

HOSTILE = '<script>alert("x")</script>&'


def parsed(html: str) -> Any:
    """The tree, if the HTML is well formed."""
    return ET.fromstring(f"<body>{html}</body>")


def texts(html: str) -> list[str]:
    return [text for text in parsed(html).itertext() if text.strip()]


def all_orders() -> list[Case]:
    return [case for order in (2, 3, 5) for case in four_models(order)]


def assert_harmless(html: str) -> None:
    """Nothing is run, nothing is loaded, and no colour is chosen that a theme could hide."""
    tree = parsed(html)
    assert not {element.tag for element in tree.iter()} & {"script", "style", "link", "img", "iframe", "object", "a"}
    for element in tree.iter():
        assert not any(name.startswith("on") or name in ("href", "src") for name in element.attrib)
        for name in ("fill", "stroke"):
            assert element.attrib.get(name, "none") in ("none", "currentColor")
        assert "color" not in element.attrib.get("style", "")


@pytest.fixture(scope="module")
def fit() -> Any:
    data = xarray.DataArray(gaussian((4, 3, 5), float, np.random.default_rng(0)), dims=("time", HOSTILE, "band"))
    return tc.decompose(data, "tc", 2, solver=tc.ALS(max_iter=3), rng=0)


@pytest.mark.parametrize("case", [*SMALL, *four_models(5)], ids=str)
def test_a_model(case: Case) -> None:
    model = case.model()
    html = model_html(model)
    assert_harmless(html)
    shown = texts(html)
    assert f"{model.sensitivity():.4g}" in shown
    assert set(model.block_names) <= set(shown)
    shares = [int(text.strip(" %")) for text in shown if re.fullmatch(r" *\d+ %", text)]
    expected = 100.0 * model.block_sensitivities() / model.sensitivity()
    assert shares == [round(share) for share in expected]
    assert len(html) < 20_000


def test_a_fit_shows_its_report_and_its_network(fit: Any) -> None:
    html = fit._repr_html_()
    assert_harmless(html)
    shown = texts(html)
    for name, value in fit.report():
        assert name in shown
        assert value in shown
    assert {"time", "band", HOSTILE} <= set(shown)
    assert "Network of a TensorChain" in html
    assert "<script" not in html


def test_a_diagnosis(fit: Any) -> None:
    diagnosis = tc.diagnose(fit)
    html = diagnosis._repr_html_()
    assert_harmless(html)
    assert diagnosis.verdict.name in html
    assert set(diagnosis.evidence) <= set(texts(html))
    assert_harmless(replace(diagnosis, cure=HOSTILE)._repr_html_())


def test_text_is_escaped() -> None:
    html = table([(HOSTILE, HOSTILE)])
    assert texts(html) == [HOSTILE, HOSTILE]
    assert_harmless(html)


@pytest.mark.parametrize(
    "blocks",
    [[np.zeros((3, 2)), np.ones((4, 2))], [np.full((3, 2), 1e200), np.full((4, 2), 1e200)]],
    ids=["zero", "huge"],
)
def test_extreme_models_have_html(blocks: Any) -> None:
    model = tc.CP(blocks)
    assert_harmless(model_html(model))
    assert_harmless(report([("a", "b")], model))


def test_models_with_overflown_blocks_have_html() -> None:
    model = tc.CP.random((3, 4), 2, 0).with_matrices([np.full((3, 2), np.inf), np.ones((4, 2))])
    html = model_html(model)
    assert_harmless(html)
    assert "the blocks hold NaN or infinity" in texts(html)


class TestNames:
    def test_of_a_model_and_of_a_fit(self, fit: Any) -> None:
        labels = labels_of(fit)
        assert labels.modes == ("time", HOSTILE, "band")
        assert labels.blocks == ("core 1 (time)", f"core 2 ({HOSTILE})", "core 3 (band)")
        plain = labels_of(fit.model)
        assert plain.modes == ("mode 1", "mode 2", "mode 3")
        assert plain.blocks == fit.model.block_names

    def test_a_core_has_no_dimension(self) -> None:
        data = xarray.DataArray(gaussian((4, 3), float, np.random.default_rng(0)), dims=("time", "band"))
        fit = tc.decompose(data, "tucker", 2, solver=tc.ALS(max_iter=3), rng=0)
        assert labels_of(fit).blocks == ("core", "factor 1 (time)", "factor 2 (band)")
        assert "time 4 x band 3" in repr(fit)

    def test_a_diagnosis_keeps_them(self, fit: Any) -> None:
        assert "core 1 (time) " in repr(tc.diagnose(fit))
        data = xarray.DataArray(fit.model.full(), dims=("when", "where", "what"))
        assert "core 3 (what) " in repr(tc.diagnose(fit.model, data, starts=0))
        assert "core 1 " in repr(tc.diagnose(fit.model))

    def test_anything_else_is_refused(self) -> None:
        with pytest.raises(TypeError, match="a fit or a model is needed, and a ndarray was given"):
            labels_of(np.ones((2, 2)))  # type: ignore[arg-type]


def drawn(model: Any) -> Diagram:
    return layout(model.network, model.block_names, labels_of(model).modes)


def crossing(diagram: Diagram) -> list[tuple[Any, Any]]:
    """Pairs of a line and a block that it does not belong to and runs through."""
    found = []
    for line in diagram.lines:
        for t in np.linspace(0.0, 1.0, 101):
            x, y = (
                (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
                for a, b, c in zip(line.start, line.control, line.end, strict=True)
            )
            for node in diagram.nodes:
                if node.at not in (line.start, line.end) and math.dist((x, y), node.at) < 0.95 * diagram.radius:
                    found.append((line, node))  # noqa: PERF401
    return found


class TestLayout:
    @pytest.mark.parametrize("case", all_orders(), ids=str)
    def test_nothing_overlaps(self, case: Case) -> None:
        diagram = drawn(case.model())
        places = [node.at for node in diagram.nodes]
        gaps = [math.dist(a, b) for n, a in enumerate(places) for b in places[:n]]
        assert min(gaps) > 2.0 * diagram.radius
        assert not crossing(diagram)

    @pytest.mark.parametrize("case", all_orders(), ids=str)
    def test_all_is_there(self, case: Case) -> None:
        model = case.model()
        diagram = drawn(model)
        network = model.network
        assert [node.block for node in diagram.nodes if node.block is not None] == [*range(len(model.blocks))] * len(
            network.terms
        )
        assert len(diagram.legs) == model.order * len(network.terms)
        bonds = sorted(line.size for line in diagram.lines if line.label is not None)
        assert bonds == sorted(term.size_of[letter] for term in network.terms for letter, *_ in term.gauge_bonds)
        hubs = [int(node.label) for node in diagram.nodes if node.kind == "hub"]
        assert hubs == [term.size_of[letter] for term in network.terms for letter, _ in term.hyperedges]
        left, right, bottom, top = diagram.box
        for x, y in [*(node.at for node in diagram.nodes), *(leg.label for leg in diagram.legs)]:
            assert left < x < right
            assert bottom < y < top

    def test_a_chain_is_a_ring_and_order_ten_has_room(self) -> None:
        diagram = drawn(tc.TensorChain.random((2,) * 10, 2, 0))
        assert all(math.hypot(*node.at) == pytest.approx(1.0) for node in diagram.nodes)
        assert [node.label for node in diagram.nodes] == [str(n + 1) for n in range(10)]

    def test_two_bonds_between_two_blocks_are_apart(self) -> None:
        diagram = drawn(tc.TensorChain.random((4, 5), (1, 3), 0))
        one, other = (line.control for line in diagram.lines)
        assert math.dist(one, other) > 0.5

    def test_many_terms_are_counted(self) -> None:
        model = tc.BlockTerm.random((8, 9, 7), [(1, 1, 1)] * (MOST_TERMS + 2), 0)
        diagram = drawn(model)
        assert diagram.omitted == 2
        assert len(diagram.signs) == MOST_TERMS - 1
        assert "and 2 more terms" in model_html(model)

    def test_any_wiring(self) -> None:
        # Two cores, a hyperedge of four blocks beside a bond between the cores, and a chord.
        network = Network(
            (Term(("kl", "klm", "kn", "kno", "mo"), (("k", 2), ("l", 3), ("m", 2), ("n", 4), ("o", 2))),),
            (None, 0, None, 1, 2),
        )
        blocks = [np.ones((1 if mode is None else 3, width)) for mode, width in zip(network.modes, network.widths)]  # noqa: B905
        model = Model.from_matrices(network, blocks)
        diagram = drawn(model)
        assert sorted(node.kind for node in diagram.nodes) == ["block"] * 3 + ["core"] * 2 + ["hub"]
        places = [node.at for node in diagram.nodes]
        assert min(math.dist(a, b) for n, a in enumerate(places) for b in places[:n]) > 0.3
        assert_harmless(model_html(model))
