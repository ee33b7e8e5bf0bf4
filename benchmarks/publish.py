"""Sending one task to the broker; nobody takes it while this runs."""

from __future__ import annotations

from contextlib import closing

import redis

from benchmarks.harness import Comparison, Tell, calls, interleave
from benchmarks.stage import MODEL, Stage, fresh_text
from foreseen.broker import Publisher
from foreseen.canonical import canonicalize
from foreseen.keys import key_of
from foreseen.message import Item, Message

__all__ = ["publish"]


def publish(stage: Stage, tell: Tell) -> list[Comparison]:
    """`Publisher.publish` of one message, beside `task.delay()`.

    Fair: the same server, 200 bytes in each, over connections that are held; both messages are Celery's, for a task by
    name. No worker runs, which would take them up.
    """
    stage.have()
    text = fresh_text()
    canonical = canonicalize(text)
    item = Item(key_of(MODEL, "1", canonical), "0" * 16, 1, 0, canonical)
    with closing(Publisher(stage.settings)) as publisher:
        count = stage.size.of(10, 100, 100)
        sides = {
            "publish one message": calls(lambda: publisher.publish([Message(f"{MODEL}@1", (item,), 1, 4)]), count),
            "bare Celery delay()": calls(lambda: stage.bare.echo.delay(text), count),
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 20, 60), tell=tell)
    for database in (0, 2):  # later workers would compute what was sent for nobody
        with redis.Redis.from_url(stage.server.url(database)) as broker:
            for queue in broker.scan_iter(_type="list"):
                broker.delete(queue)
    return [rounds.time(*sides)]
