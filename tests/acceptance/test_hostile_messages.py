"""Thousands of messages that nobody of ours sent, fed to a real worker: each is refused and counted; work goes on."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import push_raw, queue_keys, queued, statistics
from acceptance.test_garbage import envelope, item, packed
from hostile.mutate import Mutator

from foreseen.keys import digest_of
from foreseen.message import LAYOUT

pytestmark = pytest.mark.acceptance

SEED: Final = 20_260_102
MESSAGES: Final = 4_000
SENTENCE: Final = "a message after them"


def mutated(count: int) -> list[bytes]:
    """Return messages as kombu's Redis transport keeps them, each with something wrong, or changed at least."""
    mutate = Mutator(SEED)
    raws: list[bytes] = []
    for turn in range(count):
        body = packed(LAYOUT, "slow@1", 1, 4, [item({"value": f"hostile {turn}"})], 0)
        message = envelope(body)
        if turn % 4 == 0:
            message["body"] = base64.b64encode(mutate.raw(body)).decode()
            raw = json.dumps(message)
        elif turn % 4 == 1:
            message["headers"] = mutate.value(message["headers"])
            raw = json.dumps(message, default=str)
        elif turn % 4 == 2:
            raw = json.dumps(mutate.value(message), default=str)
        else:
            raws.append(mutate.raw(json.dumps(message).encode()))
            continue
        raws.append(raw.encode())
    return raws


def push(deployment: Deployment, raws: list[bytes]) -> None:
    with deployment.redis(0) as broker, broker.pipeline(transaction=False) as pipeline:
        for raw in raws:
            pipeline.lpush(queue_keys(deployment, "slow@1")[0], raw)
        pipeline.execute()


def rejected(deployment: Deployment) -> int:
    """Return what `foreseen stats` shows as rejected."""
    return statistics(deployment)["rejected"]


def test_thousands_of_mutated_messages_are_refused_and_counted(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    worker = deployment.start_worker("threads", 2)
    push(deployment, mutated(MESSAGES))
    wait_until(lambda: queued(deployment) == 0, "the worker has taken them all")
    assert deployment.producer().predict("slow", {"value": SENTENCE}, timeout=20)["value"] == SENTENCE
    taken = worker.logged(" received") - 1  # those whose change changed nothing that counts
    wait_until(lambda: rejected(deployment) + taken == MESSAGES, f"{MESSAGES - taken} are counted as rejected")
    assert rejected(deployment) > MESSAGES / 2
    assert worker.logged("refused a message") < 20, "a flood of messages is no flood of lines"
    assert worker.logged("Traceback") == 0
    with deployment.redis(0) as broker:
        wait_until(lambda: broker.hlen("unacked") == 0, "nothing is left unacked")


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever held."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


def bombs(limit_bytes: int) -> dict[str, dict[str, Any]]:
    """Return small messages that would become large, and large ones, by what they are."""
    good = packed(LAYOUT, "slow@1", 1, 4, [item({"value": "bomb"})], 0)
    zeros = bytes(2**26)
    return {
        "gzip": envelope(zlib.compress(zeros, 9) * 8, compression="application/x-gzip"),
        "gzip by its short name": envelope(zlib.compress(zeros), compression="gzip"),
        "bzip2": envelope(bz2.compress(zeros) * 16, compression="application/x-bz2"),
        "lzma": envelope(lzma.compress(zeros) * 16, compression="application/x-lzma"),
        "a good message, compressed": envelope(zlib.compress(good), compression="application/x-gzip"),
        "compression of no kind": envelope(good, compression="application/x-nothing"),
        "compression that is no text": envelope(good, compression=[1]),
        "lists within lists": envelope(b"\x91" * 100_000),
        "json within json": envelope(b"[" * 100_000, content_type="application/json"),
        "an array of 4 Gi that is not there": envelope(b"\xdd\xff\xff\xff\xff"),
        "bytes of 4 GiB that are not there": envelope(b"\xc6\xff\xff\xff\xff"),
        "a million empty lists": envelope(b"\xdd" + (2**20).to_bytes(4) + b"\x90" * 2**20),
        "an input above the limit": envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": "x" * limit_bytes})], 0)),
        "a blob above the limit": envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": bytes(limit_bytes)})], 0)),
        "callbacks": envelope(bytes(msgpack.packb([[], {}, {"callbacks": [{"task": "celery.backend_cleanup"}]}]))),
        "due in a year": envelope(good, due_s=3e7),
        "a task that is a list": envelope(good, task=[]),
        "a task that is a dict": envelope(good, task={"a": 1}),
        "an id that breaks lines": envelope(good, id="x\nERROR: all is lost"),
    }  # fmt: skip


def forged(text: bytes) -> list[Any]:
    """Return an item of a text that no producer of ours would send, under its right digest."""
    return [digest_of("slow", "1", text), "0" * 16, 1, 0, text, []]


def test_bombs_are_refused_before_they_go_off(deploy: Callable[..., Deployment]) -> None:
    limit_bytes = 2**20
    deployment = deploy(lease_s=2.0, max_input_bytes=limit_bytes)
    worker = deployment.start_worker("threads", 1)
    producer = deployment.producer()
    assert producer.predict("slow", {"value": 0}, timeout=20)["value"] == 0
    before = peak_bytes(worker.pid)
    sent = bombs(limit_bytes)
    for step, (name, message) in enumerate(sent.items()):
        push_raw(deployment, message)
        assert producer.predict("slow", {"value": step}, timeout=20)["value"] == step, f"after {name}"
        assert peak_bytes(worker.pid) - before < 64 * 2**20, f"it grew by {name}"
    wait_until(lambda: rejected(deployment) == len(sent), "each is counted")
    assert worker.is_running
    assert worker.logged("all is lost") == 0


def test_a_shape_beyond_memory_is_an_input_that_is_refused(deploy: Callable[..., Deployment]) -> None:
    """Its digest is right and its blob is there: only who puts the array together can tell."""
    deployment = deploy(lease_s=2.0)
    worker = deployment.start_worker("threads", 1)
    blob = b"\0" * 8
    leaf = {"$array": {"dtype": "<f8", "sha256": sha256(blob).hexdigest(), "shape": [2**31, 2**31, 2**31]}}
    text = json.dumps(leaf).encode()
    push_raw(deployment, envelope(packed(LAYOUT, "slow@1", 1, 4, [[*forged(text)[:-1], [blob]]], 0)))
    wait_until(lambda: statistics(deployment)["failed"] == 1, "it has failed")
    assert worker.is_running
