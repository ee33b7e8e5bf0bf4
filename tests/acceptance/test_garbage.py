"""What anybody can push into a queue: it is dropped, the worker is none the worse, and nothing of it is run."""

from __future__ import annotations

import base64
import json
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kombu
import msgpack
import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until
from acceptance.probes import keys_without_expiry, push_raw, queued

from foreseen.canonical import canonicalize
from foreseen.keys import key_of
from foreseen.message import CONTENT_TYPE, LAYOUT, TASK_NAME

pytestmark = pytest.mark.acceptance


def envelope(body: bytes, *, content_type: str = CONTENT_TYPE, **headers: Any) -> dict[str, Any]:
    """Return a message as kombu's Redis transport keeps it; `headers` differ from a good one's."""
    task_id = str(uuid.uuid4())
    given = {
        "lang": "py",
        "task": TASK_NAME,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "garbage",
        "kwargsrepr": "",
        "ignore_result": True,
        **headers,
    }
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary",
        "content-type": content_type,
        "headers": given,
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "foreseen.slow@1"},
            "priority": 5,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def packed(*arguments: Any) -> bytes:
    """Return a task's body."""
    return bytes(msgpack.packb([list(arguments), {}, {}]))


def item(value: Any, **changes: Any) -> list[Any]:
    """Return a message's item; `changes` are what is wrong with it."""
    canonical = canonicalize(value)
    good = {
        "digest": key_of("slow", "1", canonical).digest,
        "token": "0" * 16,
        "opened": 1,
        "deadline_ms": 0,
        "text": canonical.text,
        "blobs": list(canonical.blobs),
    }
    assert changes.keys() <= good.keys()
    return list((good | changes).values())


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def garbage(boom: Path) -> dict[str, dict[str, Any]]:
    """Return what is pushed, by what it is."""
    bomb = pickle.dumps([[Bomb(boom)], {}, {}])
    pickled = "application/x-python-serialize"
    good = item({"value": "garbage"})
    forged, crooked = (item({"value": "forged"}, digest=digest) for digest in ("0" * 40, "../../x"))
    json_items = json.dumps([[LAYOUT, "slow@1", 1, 4, [[1]], 0], {}, {}]).encode()
    return {
        "random bytes as body": envelope(os.urandom(200)),
        "an empty body": envelope(b""),
        "a body that ends early": envelope(packed(LAYOUT, "slow@1", 1, 4, [good], 0)[:-10]),
        "no triple": envelope(bytes(msgpack.packb(7))),
        "a text for arguments": envelope(bytes(msgpack.packb(["text", {}, {}]))),
        "no arguments": envelope(packed()),
        "another layout": envelope(packed(99, "slow@1", 1, 4, [good], 0)),
        "no items": envelope(packed(LAYOUT, "slow@1", 1, 4, [], 0)),
        "items of the wrong form": envelope(packed(LAYOUT, "slow@1", 1, 4, [[1, 2, 3]], 0)),
        "wrong types": envelope(packed(LAYOUT, "slow@1", "now", None, [good], 0)),
        "a digest of another input": envelope(packed(LAYOUT, "slow@1", 1, 4, [forged], 0)),
        "a digest that is none": envelope(packed(LAYOUT, "slow@1", 1, 4, [crooked], 0)),
        "a model that is none": envelope(packed(LAYOUT, "slow@1}:x{", 1, 4, [good], 0)),
        "blobs that are missing": envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": b"blob"}, blobs=[])], 0)),
        "numbers beyond all bounds": envelope(
            packed(LAYOUT, "slow@1", 2**63, 4, [item({"value": "huge"}, opened=2**63, deadline_ms=2**63)], 0)
        ),
        "negative numbers": envelope(
            packed(LAYOUT, "slow@1", -(2**63), -1, [item({"value": "low"}, opened=-(2**63), deadline_ms=-1)], 0)
        ),
        "keyword arguments": envelope(bytes(msgpack.packb([[], {"message": 1}, {}]))),
        "a pickle": envelope(bomb, content_type=pickled),
        "a pickle called msgpack": envelope(bomb),
        "yaml": envelope(b"!!python/object/apply:os.system ['true']", content_type="application/x-yaml"),
        "no such content type": envelope(b"x", content_type="application/x-nothing"),
        "another task": envelope(packed(), task="os.system"),
        "an eta that is none": envelope(packed(LAYOUT, "slow@1", 1, 4, [good]), eta="tomorrow"),
        "json": envelope(json_items, content_type="application/json"),
        "protocol 1": envelope(json.dumps({"task": TASK_NAME, "id": "x", "args": [1], "kwargs": {}}).encode(),
                               content_type="application/json"),
    }  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
def test_garbage_in_the_queue_is_dropped(deploy: Callable[..., Deployment], tmp_path: Path, pool: Pool) -> None:
    deployment = deploy(lease_s=2.0)
    worker = deployment.start_worker(pool, 2)
    producer = deployment.producer()
    boom = tmp_path / "boom"
    for step, (name, message) in enumerate(garbage(boom).items()):
        push_raw(deployment, message)
        wait_until(lambda: queued(deployment) == 0, f"the worker has taken: {name}")
        answer = producer.predict("slow", {"value": step}, timeout=20)
        assert answer["value"] == step, f"after {name}"
        assert worker.is_running, f"ended by {name}"
    with deployment.redis(0) as broker:
        wait_until(lambda: broker.hlen("unacked") == 0, "nothing is left unacked")
    assert not boom.exists()
    assert deployment.computations("forged") == []
    assert queued(deployment) == 0
    assert keys_without_expiry(deployment) == []
    worker.terminate()
    assert worker.wait() == 0


def test_who_takes_one_message_gets_the_first_that_is_one(deploy: Callable[..., Deployment]) -> None:
    """Such as a command that looks into a queue."""
    deployment = deploy()
    good = envelope(b"the one")
    for raw in (b"not even JSON", b"[" * 100_000, b"null", b'{"body": 1}', good):
        with deployment.redis(0) as broker:
            broker.lpush("foreseen.looked-at", raw if isinstance(raw, bytes) else json.dumps(raw))
    with kombu.Connection(deployment.server.url(0), transport="foreseen.transport:Transport") as connection:
        queue = kombu.Queue("foreseen.looked-at", channel=connection.channel())
        message = queue.get(no_ack=True)
        assert message is not None
        assert message.body == b"the one"
        assert queue.get(no_ack=True) is None


def test_bytes_that_are_no_message_are_dropped(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    worker = deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    raws = [
        b"\x80\x04\xff not even JSON", b"", b"{}", b"[1, 2]", b'"text"', b"null", b'{"body": "", "headers": {}}',
        b"[" * 100_000, b'{"__type__": "decimal", "__value__": "none"}', b'{"__type__": "datetime", "__value__": 1}',
        b'{"body": 1, "properties": {"delivery_tag": [], "delivery_info": 1}, "headers": []}',
    ]  # fmt: skip
    for step, raw in enumerate(raws):
        push_raw(deployment, raw)
        wait_until(lambda: queued(deployment) == 0, f"the worker has taken {raw!r}")
        assert producer.predict("slow", {"value": step}, timeout=30)["value"] == step, f"after {raw!r}"
        assert worker.is_running, f"ended by {raw!r}"
