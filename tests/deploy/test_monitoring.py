"""Alerts and dashboard: valid PromQL over metrics and labels that services export."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, get_args

import pytest
import yaml

from specedge.protocol.opening import Reason
from specedge_scheduler.policy.types import LossReason
from tests.deploy.exported_metrics import exported, labels_at_start
from tests.deploy.manifests import EVERYTHING, REPOSITORY, matches, render
from tests.deploy.promql import asked_by

MONITORING: Final = REPOSITORY / "deploy" / "monitoring"
DASHBOARD: Final = MONITORING / "grafana" / "dashboards" / "specedge.json"
# Prometheus's own: every target has it.
UP: Final = "up"
TARGET_LABELS: Final = {"job", "instance"}
DURATION: Final = re.compile(r"^([0-9]+(ms|[smhdwy]))+$")
LABEL_IN_TEXT: Final = re.compile(r"\$labels\.(\w+)")


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries() -> list[tuple[str, str]]:
    """(where it stands, expression)."""
    ours = [(rule["alert"], rule["expr"]) for rule in alerts()]
    return ours + [
        (panel["title"], target["expr"])
        for panel in panels()
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize(("where", "expression"), queries())
def test_every_query_asks_for_metrics_and_labels_that_services_export(
    where: str, expression: str
) -> None:
    selectors = asked_by(expression.replace("$__rate_interval", "5m"))

    assert selectors, where
    for asked in selectors:
        if asked.metric == UP:
            assert asked.labels <= TARGET_LABELS and asked.equals["job"] in exported()
            continue
        job = asked.equals.get("job")
        services = [job] if job else list(exported())
        labels = [exported()[service].get(asked.metric) for service in services]
        known = [found for found in labels if found is not None]
        assert known, f"nobody exports {asked.metric}"
        assert any(asked.labels <= found | TARGET_LABELS for found in known), asked


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations", "keep_firing_for"}
    assert re.fullmatch(r"SpecEdge[A-Z]\w+", rule["alert"])
    assert DURATION.match(rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_texts_of_alerts_use_labels_that_are_left(rule: dict[str, Any]) -> None:
    used = set(LABEL_IN_TEXT.findall(json.dumps(rule["annotations"])))

    (first, *_) = asked_by(rule["expr"])
    left = set(first.labels) if re.match(r"(sum|max|min) by", rule["expr"]) else TARGET_LABELS
    assert used <= left


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_counters_of_alerts_are_there_before_they_count(rule: dict[str, Any]) -> None:
    """What is first seen at 1 has not increased: the alert would miss the first time."""
    if not re.search(r"(increase|rate)\(", rule["expr"]):
        return
    for asked in asked_by(rule["expr"]):
        wanted = {name: value for name, value in asked.equals.items() if name != "job"}
        there = labels_at_start(asked.metric)
        assert [labels for labels in there if wanted.items() <= labels.items()], asked


@pytest.mark.parametrize(
    ("metric", "reasons"),
    [
        ("specedge_verifiers_lost_total", set(get_args(LossReason))),
        ("specedge_sessions_refused_total", {str(reason) for reason in Reason}),
    ],
)
def test_the_first_of_each_reason_is_an_increase(metric: str, reasons: set[str]) -> None:
    assert {labels["reason"] for labels in labels_at_start(metric)} == reasons


def test_alerts_and_groups_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in alerts()]

    assert len(names) == len(set(names))
    assert len({group["name"] for group in groups()}) == len(groups())


def test_clusters_have_the_alerts_that_compose_has() -> None:
    """`make k8s-alerts` writes them. kustomize folds long lines in its own way."""
    rule = render(EVERYTHING).named("PrometheusRule", "specedge")

    assert _in_one_line(rule["spec"]) == _in_one_line({"groups": groups()})


def test_clusters_have_the_dashboard_that_compose_has() -> None:
    dashboard = render(EVERYTHING).named("ConfigMap", "specedge-dashboard")

    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["specedge.json"]) == json.loads(DASHBOARD.read_text())


def test_every_panel_has_a_place_of_its_own_a_unit_and_a_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["type"] == "prometheus"
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_prometheus_in_compose_names_jobs_as_the_queries_do() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())

    jobs = {job["job_name"] for job in config["scrape_configs"]}

    assert jobs >= exported().keys()
    assert [entry.split("/")[-1] for entry in config["rule_files"]] == ["alerts.yml"]


def test_the_operator_scrapes_every_service_under_the_jobs_that_the_queries_name() -> None:
    rendered = render(EVERYTHING)
    monitor = rendered.named("PodMonitor", "specedge")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]

    picked = [w for w in rendered.workloads if matches(monitor["selector"], w.labels)]

    assert {w.labels[monitor["jobLabel"]] for w in picked} == exported().keys()
    assert all(endpoint["port"] in workload.ports for workload in picked)
    assert endpoint["path"] == "/metrics"


def test_who_is_meant_is_said_by_name_in_clusters_as_in_compose() -> None:
    (endpoint,) = render(EVERYTHING).named("PodMonitor", "specedge")["spec"]["podMetricsEndpoints"]
    composed = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]

    assert endpoint["relabelings"] == [
        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
    ]
    for job in composed:
        (rule,) = job["relabel_configs"]
        assert rule == {"source_labels": ["__meta_dns_name"], "target_label": "instance"}


def test_a_query_over_what_nobody_exports_would_be_found() -> None:
    (asked,) = asked_by('sum by (reason) (rate(specedge_no_such_total{job="edge"}[5m])) > 0')

    assert asked.metric == "specedge_no_such_total"
    assert asked.equals == {"job": "edge"}
    assert asked.labels == {"job", "reason"}
    assert all(asked.metric not in names for names in exported().values())


def _in_one_line(value: Any) -> Any:
    """With every run of white space in texts as one space."""
    match value:
        case str():
            return " ".join(value.split())
        case list():
            return [_in_one_line(item) for item in value]
        case dict():
            return {key: _in_one_line(item) for key, item in value.items()}
    return value
