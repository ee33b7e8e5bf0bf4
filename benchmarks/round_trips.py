"""What a submission sends, by the server's own account. No time, and so the same on every machine.

The server's command statistics would count what scripts call inside it too; its monitor tells the two apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import redis

from benchmarks.harness import Tell
from benchmarks.stage import ECHO, MODEL, Stage, fresh_text, fresh_texts
from foreseen.scripts import load

__all__ = ["Commands", "round_trips"]

_SUBMISSIONS = 50


@dataclass(frozen=True, slots=True)
class Commands:
    """What one way of submitting sent.

    Attributes:
        name: the way.
        submissions: how many were made.
        join: look-ups, each of which can also open a flight: the one round trip of a submission.
        published: marks that a message is out, which travel with the next look-up.
        lpush: messages to the broker.
        other: anything else.
    """

    name: str
    submissions: int
    join: int
    published: int
    lpush: int
    other: int


def round_trips(stage: Stage, tell: Tell) -> list[Commands]:
    """Count what hits and misses send, with no worker: only the producer is to be counted."""
    stage.have(ECHO)
    known = stage.known()
    stage.have()
    producer, texts = stage.producer, fresh_texts(2 * _SUBMISSIONS)
    led = fresh_text()
    ways: list[tuple[str, Callable[[], object]]] = [
        ("hit", lambda: [producer.predict(MODEL, known) for _ in range(_SUBMISSIONS)]),
        ("miss", lambda: [producer.submit(MODEL, text) for text in texts[:_SUBMISSIONS]]),
        ("coalesced", lambda: [producer.submit(MODEL, led) for _ in range(_SUBMISSIONS)]),
        ("miss, in submit_many", lambda: producer.submit_many(MODEL, texts[_SUBMISSIONS:])),
    ]
    producer.submit(MODEL, led)
    producer.peek(MODEL, led)  # takes the mark of that message along
    stage.client.ping()  # it ends each account, and is not to open a connection in it
    counts: list[Commands] = []
    for done, (name, way) in enumerate(ways, start=1):
        counts.append(_count(stage.client, name, way))
        tell(done, len(ways))
    return counts


def _count(client: redis.Redis, name: str, way: Callable[[], object]) -> Commands:
    end = uuid4().hex
    sent: Counter[str] = Counter()
    where = client.connection_pool.connection_kwargs
    with redis.Redis(host=where["host"], port=where["port"]) as watcher, watcher.monitor() as monitor:
        way()
        client.echo(end)
        for seen in monitor.listen():
            if end in seen["command"]:
                break
            if seen["client_type"] != "lua":
                sent[_name(seen["command"])] += 1
    join, published, lpush = (sent.pop(known, 0) for known in ("join", "published", "LPUSH"))
    return Commands(name, _SUBMISSIONS, join, published, lpush, other=sent.total())


def _name(command: str) -> str:
    verb, *words = command.split(maxsplit=2)
    scripts = {load(script).sha: script for script in ("join", "published")}
    return scripts.get(words[0], words[0]) if verb == "EVALSHA" else verb
