"""Sending one task to the broker; nobody takes it while this runs."""

from __future__ import annotations

from benchmarks.harness import Comparison, Tell, compare
from benchmarks.stage import MODEL, Stage, fresh_text
from foreseen.broker import Publisher
from foreseen.canonical import canonicalize
from foreseen.keys import key_of
from foreseen.message import Item, Message

__all__ = ["publish"]


def publish(stage: Stage, tell: Tell) -> Comparison:
    """`Publisher.publish` of one message, beside `task.delay()`. Ends the workers first, which would take them up."""
    stage.stop_workers()
    publisher = Publisher(stage.settings)
    text = fresh_text()
    canonical = canonicalize(text)
    item = Item(key_of(MODEL, "1", canonical), "0" * 16, 1, 0, canonical)

    def ours() -> None:
        publisher.publish([Message(f"{MODEL}@1", (item,), 1, 4)])

    def bare() -> None:
        stage.bare_echo.delay(text)

    try:
        return compare("publish one message", ours, "bare Celery delay()", bare, rounds=20, calls=100, tell=tell)
    finally:
        publisher.close()
