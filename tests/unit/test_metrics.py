from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from foreseen.cli.metrics.families import METRICS, families
from foreseen.cli.metrics.gather import Broker, CacheServer, Facts, ModelFacts
from foreseen.measures import ANSWER, HISTOGRAMS, ITEMS, Measured
from foreseen.statistics import Counts, ServerMemory

ROOT = Path(__file__).resolve().parents[2]
MEMORY = ServerMemory(used_bytes=11, max_bytes=12, policy="allkeys-lfu", evicted=13)
COUNTS = Counts(*range(101, 101 + len(fields(Counts))))
MEASURED = {
    (histogram, "hit" if histogram is ANSWER else ""): Measured([1] * (len(histogram.bounds) + 1), 2.5)
    for histogram in HISTOGRAMS.values()
}
FACTS = Facts(
    CacheServer({"model@1.0": ModelFacts(is_served=True, counts=COUNTS, measured=MEASURED)}, 2, 3, MEMORY, 10_000),
    Broker({"model@1.0": 4}, {"model@1.0": 7_500}, 5, 6, 7.5, MEMORY),
)


class Collector:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def collect(self) -> Any:
        return families(self.facts)


def told(facts: Facts, generate: Any = generate_latest) -> str:
    registry = CollectorRegistry()
    registry.register(Collector(facts))  # type: ignore[arg-type]
    return str(generate(registry).decode())


def samples(facts: Facts) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(told(facts)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_everything_in_the_table_is_told_and_nothing_else() -> None:
    parsed = list(text_string_to_metric_families(told(FACTS)))
    assert {family.name for family in parsed} == set(METRICS)
    for family in parsed:
        metric = METRICS[family.name]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples), family.name


def test_it_is_open_metrics_too() -> None:
    assert {family.name for family in parse_openmetrics(told(FACTS, generate_openmetrics))} == set(METRICS)


def test_each_count_is_told_under_its_name() -> None:
    found = samples(FACTS)
    values = set(found.values())
    lost = [each.name for each in fields(Counts) if getattr(COUNTS, each.name) not in values]
    assert lost == ["spent_us", "saved_us"], "these are told in seconds"
    assert found["foreseen_submissions_total{model=model,source=coalesced,version=1.0}"] == COUNTS.joined
    assert found["foreseen_compute_seconds_total{model=model,version=1.0}"] == COUNTS.spent_us / 1e6
    assert found["foreseen_queue_oldest_age_seconds{model=model,version=1.0}"] == 2.5
    assert found["foreseen_cache_memory_used_bytes{}"] == 11


def test_buckets_are_cumulative() -> None:
    found = samples(FACTS)
    assert found["foreseen_model_call_items_bucket{le=1.0,model=model,version=1.0}"] == 1
    assert found["foreseen_model_call_items_bucket{le=+Inf,model=model,version=1.0}"] == len(ITEMS.bounds) + 1
    assert found["foreseen_model_call_items_sum{model=model,version=1.0}"] == 2.5


def test_a_server_that_does_not_answer_is_told_and_nothing_is_made_up_for_it() -> None:
    nothing = samples(Facts(None, None))
    assert nothing == {"foreseen_server_up{server=cache}": 0, "foreseen_server_up{server=broker}": 0}
    no_cache = samples(Facts(None, FACTS.broker))
    assert no_cache["foreseen_queue_messages{model=model,version=1.0}"] == 4
    assert not [name for name in no_cache if "oldest_age_seconds{model" in name], "its clock is the cache's"
    rabbit = samples(Facts(FACTS.cache, Broker({"model@1.0": 4})))
    assert not [name for name in rabbit if "unacked" in name or "broker_memory" in name]


def test_labels_that_nobody_of_ours_has_written_are_left_out() -> None:
    strange = {(ANSWER, "made up"): Measured([1] * 17, 1.0), (ITEMS, "odd"): Measured([1] * 10, 1.0)}
    assert FACTS.cache is not None
    model = ModelFacts(is_served=False, counts=Counts(), measured=strange)
    text = told(Facts(CacheServer({"model@1.0": model}, 0, 0, MEMORY, 0), None))
    assert "made up" not in text
    assert "foreseen_model_call_items" not in text


NAMED = re.compile(r"\bforeseen_[a-z_]+")
#: What Prometheus puts behind a metric's name.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {metric.name + suffix for metric in METRICS.values() for suffix in SUFFIXES[metric.kind]}


def board_queries() -> list[str]:
    board = json.loads((ROOT / "monitoring/grafana/dashboards/foreseen.json").read_text(encoding="utf-8"))
    assert all(panel["targets"] for panel in board["panels"])
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*queries, *(each["query"] for each in board["templating"]["list"])]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_board_and_alerts_name_only_what_is_told() -> None:
    for query in [*board_queries(), *(rule["expr"] for rule in rules())]:
        named = set(NAMED.findall(query))
        assert named <= SERIES, f"{named - SERIES} in {query}"


def test_the_board_shows_every_metric_that_an_alert_looks_at() -> None:
    shown = {name for query in board_queries() for name in NAMED.findall(query)}
    watched = {name for rule in rules() for name in NAMED.findall(rule["expr"])}
    assert watched - shown <= {"foreseen_model_served", "foreseen_broker_evicted_keys_total"}


def test_each_alert_says_what_it_means() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Foreseen")
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_labels_in_queries_are_labels_of_the_metric() -> None:
    for query in [*board_queries(), *(rule["expr"] for rule in rules())]:
        for name, selector in re.findall(r"\b(foreseen_[a-z_]+)\{([^}]*)\}", query):
            (metric,) = (m for m in METRICS.values() if name in {m.name + suffix for suffix in SUFFIXES[m.kind]})
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", selector)) <= set(metric.labels), query


def test_the_page_has_each_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    alerts = re.findall(r"^\| `(Foreseen\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert alerts == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_prometheus_itself_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here; on Debian: apt install prometheus")
    rules_file = ROOT / "monitoring/prometheus/rules.yml"
    subprocess.run([promtool, "check", "rules", str(rules_file)], check=True, capture_output=True)
    done = subprocess.run([promtool, "check", "metrics"], input=told(FACTS).encode(), check=True, capture_output=True)
    assert done.stderr == b""


def test_names_keep_to_the_conventions() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"foreseen_[a-z_]+", metric.name), metric.name
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket")), metric.name
        assert metric.meaning.endswith("."), metric.name
