"""The log: quiet by default; at level DEBUG a line for each prediction, on both sides, with what ties them together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import Deployment, Pool, wait_until

pytestmark = pytest.mark.acceptance

CANARY = "a secret of the customer's"

ASKS = """
import logging
from foreseen.logs import JsonFormatter

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(JsonFormatter())
log = logging.getLogger("foreseen.client.predictions")
log.addHandler(handler)
log.setLevel(arguments["level"])
with Producer(Settings(near_cache_bytes=2**20)) as producer, correlated("request-7"):
    pending = producer.submit("slow", {"value": arguments["value"]})
    pending.result(30)
    while not producer.near_cache().hits:
        producer.predict("slow", {"value": arguments["value"]})
        producer.predict("echo", arguments["value"].encode())
    with correlated("request-8"):
        producer.predict("echo", arguments["value"].encode())
        try:
            producer.predict("slow", {"value": "bad", "raise": arguments["value"]})
        except PredictionFailed:
            pass
"""


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_each_prediction_is_one_line_on_both_sides(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(log_format="json")
    worker = deployment.start_worker(pool, 1, arguments=("--loglevel", "DEBUG"))
    said = deployment.start_producer(ASKS, value=CANARY, level="DEBUG").finish()
    computed, *others = [each for each in said if each["logger"] == "foreseen.client.predictions"]
    assert (computed["source"], computed["correlation_id"]) == ("computed", "request-7")
    assert computed["duration_s"] > 0
    assert {each["source"] for each in others} == {"hit", "computed"}
    failed = others[-1]
    assert (failed["error"], failed["correlation_id"]) == ("ModelFailed", "request-8")
    assert (others[-2]["source"], others[-2]["correlation_id"]) == ("hit", "request-8")  # of the near cache, too

    def told() -> list[dict[str, Any]]:
        found = lines(worker.log.read_text(errors="replace"))
        return [each for each in found if each["logger"] == "foreseen.worker.predictions"]

    wait_until(lambda: len(told()) == 3, "the worker has told of each computation")
    first, _, last = told()
    assert {name: first[name] for name in ("key", "task_id", "correlation_id", "source")} == {
        name: computed[name] for name in ("key", "task_id", "correlation_id", "source")
    }
    assert first["outcome"] == "kept"
    assert (last["error"], last["correlation_id"]) == ("ModelFailed", "request-8")
    assert CANARY not in worker.log.read_text(errors="replace")


def test_the_log_is_quiet_by_default(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.start_worker("threads", 1)
    assert deployment.start_producer(ASKS, value="not told", level="INFO").finish() == []
    assert worker.logged("predictions") == 0
    assert worker.logged("slow@1:") == 0
    assert lines(worker.log.read_text()) == [], "text for people"
