"""The alert rules of deploy/prometheus name what /metrics answers, and docs/how-to explains them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
GROUPS = yaml.safe_load((ROOT / "deploy/prometheus/surgeon-alerts.yml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for each in GROUPS for rule in each["rules"]
}
METRIC = re.compile(r"\b(surgeon_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~?)"([^"]*)"')
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
STATUS_CLASS = "5.."  # of answers, of which there are none in this test


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The numbers of a service that has answered a request of each method."""
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("data"), offline=True))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        api.get("/v1/jobs")
        api.post("/v1/rankings", json={})
        text = api.get("/metrics").text
    return [each for family in text_string_to_metric_families(text) for each in family.samples]


@pytest.mark.parametrize("name", RULES)
def test_every_metric_and_label_of_a_rule_exists(name: str, samples: list[Sample]) -> None:
    expression = RULES[name]["expr"]
    named = METRIC.findall(expression)
    assert named or expression.startswith("up{")  # which Prometheus itself makes
    for metric, matchers in named:
        known = [sample for sample in samples if sample.name == metric]
        assert known, f"no metric is called {metric}"
        for label, _, pattern in MATCHER.findall(matchers):
            values = {sample.labels[label] for sample in known}
            for value in pattern.split("|"):
                assert value in values or value == STATUS_CLASS, (metric, label, value)


@pytest.mark.parametrize("name", RULES)
def test_an_expression_is_promql_that_says_yes_or_no(name: str) -> None:
    """It is parsed and its types are checked; an alert compares, else it would always fire."""
    found = promql_parser.parse(RULES[name]["expr"])
    assert isinstance(found, promql_parser.BinaryExpr)
    assert str(found.op) in COMPARISONS, found.op


@pytest.mark.parametrize("wrong", ["sum(max by (x)", "rate(surgeon_workers) > 1", "sum by le (x)"])
def test_an_expression_that_prometheus_would_refuse_is_told(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse(wrong)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_how_bad_it_is_and_the_page_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    page = (ROOT / "docs/how-to/alerts.md").read_text()
    assert f"| `{name}` |" in page
