"""Flower shows what the cache did beside what the workers did, and nothing of any input."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from acceptance.flower import Flower, flower_over
from acceptance.harness import Deployment, wait_until
from prometheus_client.parser import text_string_to_metric_families

from foreseen.client.events import Events
from foreseen.client.submission import Source
from foreseen.keys import Key
from producer import AsyncProducer, Producer

pytestmark = pytest.mark.acceptance

CANARY = "a secret of the customer's"


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy(events_share=1.0)


@pytest.fixture
def flower(deployment: Deployment) -> Iterator[Flower]:
    deployment.start_worker("threads", 2)
    with flower_over(deployment) as flower:
        producer, numbers = deployment.producer(), itertools.count()
        wait_until(flower.answers, "Flower answers and knows the worker")

        def is_heard() -> bool:
            producer.predict("slow", {"value": next(numbers)})
            return bool(flower.tasks(state="SUCCESS"))

        wait_until(is_heard, "Flower has turned the worker's events on")
        yield flower


def short_keys(flower: Flower, state: str) -> set[str]:
    # Of a task that ran when Flower turned the worker's events on it has only heard the end.
    shown = [each for each in flower.tasks(state=state) if each["args"]]
    assert all(each["name"] == "slow@1" for each in shown)
    found = [re.fullmatch(r"items: \d+, keys: ([0-9a-f]{8})\S*.*, source: (\w+)", each["args"]) for each in shown]
    return {f"{match[1]} {match[2]}" for match in found if match}


def digits(producer: Producer, request: dict[str, object]) -> str:
    return producer.submit("slow", request).key.partition(":")[2][:8]


def counted(flower: Flower, event: str) -> float:
    """Return what `flower_events_total` says of the model."""
    families = text_string_to_metric_families(flower.read("/metrics", login=False))
    samples = [sample for family in families for sample in family.samples if sample.name == "flower_events_total"]
    return sum(each.value for each in samples if each.labels["type"] == event and each.labels["task"] == "slow@1")


@pytest.mark.timeout(180)
def test_every_way_to_be_answered_is_a_state(deployment: Deployment, flower: Flower) -> None:
    producer, other = deployment.producer(), deployment.producer()
    near = deployment.producer(near_cache_bytes=2**20)

    gate = str(deployment.gate("go"))
    request = {"value": CANARY, "wait_for": gate}
    leading = producer.submit("slow", request)
    deployment.wait_for_computations(CANARY)
    joined = other.submit("slow", request)
    deployment.open_gate("go")
    assert (leading.source, joined.source) == ("computed", "coalesced")
    assert leading.result(20) == joined.result(20)
    joined_digits = leading.key.partition(":")[2][:8]

    assert producer.predict("slow", request)["value"] == CANARY  # by the script
    texts = {"value": "read"}
    for _ in range(100):  # from then on by plain reads
        producer.predict("slow", texts)
    wait_until(lambda: near.predict("slow", texts) and near.near_cache().hits, "the near cache has it")
    many = [{"value": f"many {number}"} for number in range(3)]
    for _ in range(2):
        pendings = producer.submit_many("slow", [*many, *many])
        assert [each.result(20)["value"] for each in pendings[:3]] == [each["value"] for each in many]

    async def on_a_loop() -> None:
        async with AsyncProducer(deployment.settings) as awaited:
            for _ in range(2):
                await awaited.predict("slow", {"value": "awaited"})

    asyncio.run(on_a_loop())

    expected = {digits(producer, each) for each in (request, texts, *many, {"value": "awaited"})}
    wait_until(lambda: {f"{each} hit" for each in expected} <= short_keys(flower, "CACHED"), "hits are CACHED", 60)
    wait_until(lambda: f"{joined_digits} coalesced" in short_keys(flower, "COALESCED"), "joins are COALESCED")
    assert f"{joined_digits} computed" in short_keys(flower, "SUCCESS")
    (shown,) = [each for each in flower.tasks(state="COALESCED") if joined_digits in each["args"]]
    assert shown["runtime"] > 0
    assert shown["worker"].startswith("cache@")
    assert CANARY not in json.dumps(flower.ask("/api/tasks?limit=10000"))
    assert counted(flower, "task-cached") >= len(expected)
    assert counted(flower, "task-coalesced") >= 1


def test_what_a_person_asks_at_the_command_line_is_shown_though_the_process_ends_at_once(
    deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = deploy()  # with nothing set
    deployment.start_worker("threads", 1)
    asked = tmp_path / "asked"
    asked.write_bytes(b"at the command line")
    command = [sys.executable, "-m", "foreseen.cli", "predict", "echo", str(asked)]
    with flower_over(deployment) as flower:
        wait_until(flower.answers, "Flower answers and knows the worker")

        def is_shown() -> bool:
            subprocess.run(command, env=deployment.environment, check=True, capture_output=True)
            return bool(flower.tasks(state="CACHED"))

        wait_until(is_shown, "a hit is CACHED")
        assert {each["name"] for each in flower.tasks(state="CACHED")} == {"echo@1"}


class Recorder(Events):
    """Keeps what is noted of each source."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.counts: Counter[str] = Counter()

    def note(self, key: Key | str, source: Source, began: float) -> None:
        assert began > 0
        assert re.search(r"(slow|echo)@1.*:[0-9a-f]{40}$", str(key))
        self.counts[source] += 1


def test_each_hit_is_noted_once_whichever_way_it_was_answered(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(events_share=1.0)
    deployment.start_worker("threads", 2)
    plain, near = deployment.producer(), deployment.producer(near_cache_bytes=2**20)
    recorders: list[Recorder] = []
    for producer in (plain, near):
        watch = producer._open().engine.watch
        assert watch is not None
        recorders.append(Recorder())
        watch.events = recorders[-1]
        if producer is near:
            kept = producer._open().engine.near
            assert kept is not None
            kept._events = recorders[-1]
    request = {"value": "told"}
    plain.predict("slow", request)
    assert recorders[0].counts == {}  # a worker tells of that
    for _ in range(200):  # by the script, then by plain reads
        plain.predict("slow", request)
    plain.submit("slow", request)
    assert plain._open().engine._habit.is_hitting
    assert recorders[0].counts == {"hit": 201}
    plain.submit_many("slow", [request] * 10)  # one look-up, and nine that repeat it
    assert recorders[0].counts == {"hit": 211}

    def is_near() -> bool:
        near.predict("slow", request)
        return near.near_cache().hits > 0

    wait_until(is_near, "the near cache has it")
    recorders[1].counts.clear()
    for _ in range(10):
        near.predict("slow", request)
    assert recorders[1].counts == {"hit": 10}
    near.predict("echo", b"exactly bytes")
    before = near.near_cache().hits
    wait_until(lambda: near.predict("echo", b"exactly bytes") and near.near_cache().hits > before, "likewise")
    recorders[1].counts.clear()
    for _ in range(10):
        near.predict("echo", b"exactly bytes")
    assert recorders[1].counts == {"hit": 10}


def test_a_broker_that_is_down_costs_hits_nothing(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(events_share=1.0, connect_timeout_s=0.5)
    deployment.start_worker("threads", 1)
    warm = deployment.producer(events_share=0.0)
    warm.predict("slow", {"value": 1})
    nobody = "redis://127.0.0.1:1/0"
    producer = deployment.producer(broker_url=nobody)
    for _ in range(3000):  # more than are ever kept
        assert producer.predict("slow", {"value": 1})["value"] == 1
    watch = producer._open().engine.watch
    assert watch is not None
    assert watch.events is not None
    wait_until(lambda: producer.predict("slow", {"value": 1}) and len(watch.events.take()) <= 256, "it is bounded")
    producer.close()
