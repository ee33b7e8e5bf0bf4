"""A real Prometheus scrapes a real deployment: each query of the board returns data, alerts fire when they should."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.test_metrics import exporter_over

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed here; on Debian: apt install prometheus"
    ),
]


class Prometheus:
    """Its API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **arguments: str) -> Any:
        url = f"{self._url}/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - http, above
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        """Return the alerts that fire, or will if it goes on so."""
        return {each["labels"]["alertname"] for each in self.ask("alerts")["alerts"]}

    def answers(self) -> bool:
        try:
            return bool(self.query("foreseen_server_up == 1"))
        except OSError:
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def watched(deploy: Callable[..., Deployment]) -> Iterator[tuple[Deployment, Prometheus]]:
    """A deployment under this repository's Prometheus configuration, which looks oftener than in production."""
    deployment, port = deploy(server_config={"maxmemory": "200mb"}), free_port()
    with ExitStack() as stack:
        exporter = stack.enter_context(exporter_over(deployment))
        folder = deployment.directory / "prometheus"
        shutil.copytree(ROOT / "monitoring" / "prometheus", folder)
        configuration = (folder / "prometheus.yml").read_text().replace("15s", "1s")
        configuration = configuration.replace("metrics:9464", f"127.0.0.1:{exporter.port}")
        (folder / "prometheus.yml").write_text(configuration)
        command = [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(running.wait)
        stack.callback(running.kill)
        prometheus = Prometheus(port)
        wait_until(prometheus.answers, "Prometheus has scraped")
        yield deployment, prometheus


@pytest.mark.timeout(180)
def test_each_panel_has_data_and_alerts_fire_only_when_they_should(watched: tuple[Deployment, Prometheus]) -> None:
    deployment, prometheus = watched
    worker = deployment.start_worker("threads", 4)
    producer, other = deployment.producer(), deployment.producer()
    board = json.loads((ROOT / "monitoring/grafana/dashboards/foreseen.json").read_text(encoding="utf-8"))
    queries = {target["expr"]: panel["title"] for panel in board["panels"] for target in panel["targets"]}

    def ask_something(number: int) -> None:
        for value in range(60):
            producer.predict("slow", {"value": value % 20})
        for pending in producer.submit_many("slow", [{"value": f"{number} {each}"} for each in range(20)]):
            pending.result(20)
        gate = deployment.gate(f"go {number}")
        request = {"value": f"joined {number}", "wait_for": str(gate)}
        pendings = [each.submit("slow", request) for each in (producer, other)]
        gate.touch()
        for pending in pendings:
            pending.result(20)

    rounds = iter(range(10_000))
    empty: dict[str, str] = {}

    def every_query_has_data() -> bool:
        ask_something(next(rounds))
        empty.clear()
        for query, title in queries.items():
            filled = query.replace("$__rate_interval", "8s").replace("$model", ".*")
            if not [each for each in prometheus.query(filled) if each["value"][1] != "NaN"]:
                empty[query] = title
        return not empty

    try:
        wait_until(every_query_has_data, "each panel has data", 60)
    except AssertionError as error:
        pytest.fail(f"{error}: {empty}")
    assert float(prometheus.query("sum(foreseen_submissions_total{source='hit'})")[0]["value"][1]) > 0
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert len(rules) >= 10
    assert {rule["health"] for rule in rules} == {"ok"}
    assert prometheus.firing() == set()

    worker.kill()
    producer.submit("slow", {"value": "for nobody"})
    wait_until(lambda: "ForeseenNoWorker" in prometheus.firing(), "it sees that nobody serves what waits")
    deployment.server.stop()
    wait_until(lambda: "ForeseenServerDown" in prometheus.firing(), "it sees that the servers are gone")
