"""A deployment that signs: what others send is not computed, what others plant answers nobody, keys can be changed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import msgpack
import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import cache_of, push_raw, queued, statistics
from acceptance.test_garbage import envelope, item, packed
from acceptance.test_hostile_messages import forged

from foreseen.canonical import canonicalize
from foreseen.entry import Entry, Kind
from foreseen.keys import Key, KeySpace, key_of
from foreseen.message import LAYOUT
from foreseen.payload import pack
from foreseen.signing import HEADER, Keyring
from producer import AsyncProducer, Producer, Source

pytestmark = pytest.mark.acceptance

OLD: Final = "old:" + "o" * 40
NEW: Final = "new:" + "n" * 40


def key_of_value(value: Any) -> Key:
    return key_of("slow", "1", canonicalize({"value": value}))


def entry(deployment: Deployment, value: Any) -> bytes:
    with cache_of(deployment) as cache:
        found = cache.get(KeySpace().entry(key_of_value(value)))
    assert isinstance(found, bytes)
    return found


def plant(deployment: Deployment, value: Any, planted: bytes) -> None:
    with cache_of(deployment) as cache:
        cache.set(KeySpace().entry(key_of_value(value)), planted, px=60_000)


def ask(producer: Producer, value: Any) -> tuple[Any, Source | None]:
    pending = producer.submit("slow", {"value": value})
    return pending.result(timeout=20)["value"], pending.source


def test_only_what_was_signed_is_computed(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    worker = deployment.start_worker("threads", 2)
    producer = deployment.producer()
    assert ask(producer, "signed") == ("signed", Source.COMPUTED)
    body = packed(LAYOUT, "slow@1", 1, 4, [item({"value": "forged"})], 0)
    good = envelope(body)
    signature = Keyring.read(OLD).sign_message(good["headers"], body)
    another = packed(LAYOUT, "slow@1", 1, 4, [item({"value": "forged", "more": 1})], 0)
    foreign = Keyring.read(NEW).sign_message(good["headers"], body)
    unsigned: list[dict[str, Any]] = [
        envelope(body),
        envelope(body, **{HEADER: foreign}),
        envelope(body, **{HEADER: signature}),  # with another id
        {**envelope(another), "headers": {**good["headers"], HEADER: signature}},
        envelope(b"\x80\x04." * 3, **{HEADER: "old:" + "0" * 64}),
        envelope(packed(LAYOUT, "slow@1", 1, 4, [forged(b"1")], 0), **{HEADER: ["old"]}),
    ]
    for message in unsigned:
        push_raw(deployment, message)
    wait_until(lambda: statistics(deployment)["rejected"] == len(unsigned), "each is refused, and counted")
    assert deployment.computations("forged") == []
    push_raw(deployment, {**good, "headers": {**good["headers"], HEADER: signature}})
    deployment.wait_for_computations("forged")  # it was the signature that was missing
    assert worker.logged("is not signed") >= 1


def test_another_task_cannot_call_it_past_the_signature(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    worker = deployment.start_worker("threads", 1)
    arguments = [LAYOUT, "slow@1", 1, 4, [item({"value": "called"})], 0]
    task = {
        "task": "foreseen.predict",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    push_raw(
        deployment, envelope(bytes(msgpack.packb([[], {"task": task, "it": [arguments]}, {}])), task="celery.starmap")
    )
    wait_until(lambda: queued(deployment) == 0, "it is taken")
    assert ask(deployment.producer(), "after") == ("after", Source.COMPUTED)
    assert deployment.computations("called") == []
    assert statistics(deployment)["begun"] == 1
    with deployment.redis(0) as broker:
        wait_until(lambda: broker.hlen("unacked") == 0, "nor does it come back")
    assert worker.logged("no message was delivered") >= 1


def test_no_entry_that_others_plant_is_an_answer(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    deployment.start_worker("threads", 2)
    producer = deployment.producer()
    assert ask(producer, 1) == (1, Source.COMPUTED)
    assert ask(producer, 1) == (1, Source.HIT)
    good = entry(deployment, 1)
    head = Entry.decode(good)
    lie = pack({"value": "a lie"})
    foreign = Keyring.read(NEW).seal(key_of_value(1), Kind.RESULT, b"\0\0\0\0" + lie)[4:]
    assert ask(producer, 2) == (2, Source.COMPUTED)
    plants = {
        "unsigned": head._replace(payload=lie).encode(),
        "signed with a key of nobody here": head._replace(payload=foreign).encode(),
        "another's": head._replace(payload=Entry.decode(entry(deployment, 2)).payload).encode(),
        "a result as a failure": good[:1] + b"F" + good[2:],
        "half": head._replace(payload=head.payload[:-1]).encode(),
    }
    for name, planted in plants.items():
        plant(deployment, 1, planted)
        assert producer.peek("slow", {"value": 1}) is None, name
        assert ask(producer, 1)[0] == 1, name
        assert ask(producer, 1) == (1, Source.HIT), f"after {name}"

    async def ask_on_a_loop() -> None:
        async with AsyncProducer(deployment.settings) as loop_producer:
            for planted in plants.values():
                plant(deployment, 1, planted)
                assert (await loop_producer.predict("slow", {"value": 1}, timeout=20))["value"] == 1
                assert (await loop_producer.submit("slow", {"value": 1})).source is Source.HIT

    asyncio.run(ask_on_a_loop())


def test_a_push_that_others_send_is_no_answer(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    deployment.start_worker("threads", 1)
    producer = deployment.producer()
    request = {"value": "right", "wait_for": str(deployment.gate("go"))}
    pending = producer.submit("slow", request)
    deployment.wait_for_computations("right")
    key = key_of("slow", "1", canonicalize(request))
    lie = Entry(Kind.RESULT, b"generatn", 2**40, 1, 2**50, 5, pack({"value": "a lie"})).encode()
    token = deployment.flight(request)["token"]
    client = producer._client
    assert client is not None
    with cache_of(deployment) as cache:
        assert cache.publish(client.engine.inbox, f"{key} {token}\n".encode() + lie) == 1
    deployment.open_gate("go")
    assert pending.result(timeout=20)["value"] == "right"


def test_keys_are_changed_while_all_runs(deploy: Callable[..., Deployment]) -> None:
    """Each step is a restart of everything, at any pace: what either side of it wrote, the other reads."""
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    steps = [OLD, f"{OLD},{NEW}", f"{NEW},{OLD}", NEW]
    for number, (before, after) in enumerate(itertools.pairwise(steps)):
        for worker_has, producer_has in ((before, after), (after, before)):
            worker = deployment.start_worker("threads", 1, FORESEEN_SIGNING_KEYS=worker_has)
            value = f"{number}-{worker_has[:3]}-{len(worker_has)}"
            asked = Producer(
                deployment.settings.model_validate({**deployment.settings.model_dump(), "signing_keys": producer_has})
            )
            with asked as producer:
                assert ask(producer, value) == (value, Source.COMPUTED)
                assert ask(producer, value) == (value, Source.HIT)
            worker.kill()


def test_the_command_line_signs_too(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, signing_keys=OLD)
    deployment.start_worker("threads", 1)
    command = [sys.executable, "-m", "foreseen.cli", "predict", "slow", '{"value": "shell"}', "--json"]
    done = subprocess.run(command, env=deployment.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"]["value"] == "shell"
    assert ask(deployment.producer(), "shell") == ("shell", Source.HIT)
    shown = done.stdout + done.stderr + "".join(worker.log.read_text() for worker in deployment.workers)
    assert OLD.partition(":")[2] not in shown
    assert os.environ.get("FORESEEN_SIGNING_KEYS") is None
