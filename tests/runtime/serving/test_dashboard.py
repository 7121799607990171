"""deploy/grafana-dashboard.json asks for nothing that /metrics has not, and shows every metric that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana-dashboard.json"
OWN = re.compile(r"\b(?:cls|process)_\w+")
# Prometheus' own labels of what it scrapes.
TARGET_LABELS = {"job", "instance"}


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads(DASHBOARD.read_text())


@pytest.fixture(scope="module")
def series(served) -> dict[str, set[str]]:
    """The labels of each series of /metrics."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(served.get("/metrics").body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(dashboard: dict) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


def test_it_asks_for_nothing_that_there_is_not(dashboard, series):
    for title, expression in expressions(dashboard):
        asked = OWN.findall(expression)
        assert asked, title
        for name in asked:
            assert name in series, f"{title}: {name}"
        for name, selector in re.findall(r"((?:cls|process)_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= series[name] | TARGET_LABELS, f"{title}: {name}"
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            wanted = {label.strip() for label in labels.split(",")}
            assert any(wanted <= series[name] for name in asked), f"{title}: by ({labels})"


def test_it_shows_every_metric_of_the_server(dashboard, series):
    own = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series if name.startswith("cls_")}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for _, expression in expressions(dashboard) for name in OWN.findall(expression)}
    assert own <= shown


def test_every_expression_is_whole_and_has_the_chosen_servers(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for opening, closing in ("()", "{}", "[]"):
                assert expression.count(opening) == expression.count(closing), expression
            selected = len(re.findall(r'\{job=~"\$job", instance=~"\$instance"', expression))
            assert selected == len(OWN.findall(expression)), expression
            if "_total" in expression or "_bucket" in expression:
                assert re.search(r"(rate|increase)\(", expression), expression


def test_it_can_be_imported(dashboard):
    """What Grafana needs: a source that is chosen there, numbers that are each panel's own, and panels that do not cover each other."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {"datasource", "job", "instance"} == {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
