"""A server of its own with many entries, and a producer that asks for them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final, Self

import redis

from benchmarks.harness import Tell
from benchmarks.stage import MODEL, settings_for
from foreseen.cache import evaluate
from foreseen.canonical import canonicalize
from foreseen.cards import Card, publish
from foreseen.embedded import EmbeddedServer
from foreseen.entry import Entry, Kind
from foreseen.flights import Flights
from foreseen.keys import BUCKETS, Key, key_of
from foreseen.payload import pack
from foreseen.scripts import load
from producer import Producer

__all__ = ["TAGGED", "Crowd", "key_of_text", "question"]

#: Entries of each tag.
TAGGED: Final = 10
_VERSION: Final = "1"
_EXPIRY_S: Final = 3600
_PIPELINE: Final = 2000


class Crowd:
    """A server of its own with entries that nobody had to compute, and a producer that hits them."""

    def __init__(self) -> None:
        self.entries = 0
        self._stack = ExitStack()
        self._random = random.Random(1)

    def __enter__(self) -> Self:
        server = self._stack.enter_context(EmbeddedServer())
        self.server_pid = server.pid
        settings = settings_for(server)
        self._flights = Flights(settings)
        self._space = self._flights.space
        self._client = self._stack.enter_context(redis.Redis.from_url(settings.cache_url))
        self._producer = self._stack.enter_context(Producer(settings))
        card = Card(name=MODEL, version=_VERSION, queue=self._space.queue(f"{MODEL}@{_VERSION}"), max_batch_size=1)
        for command in publish(self._space, [card], {}, _EXPIRY_S):
            self._client.execute_command(*command)
        self._producer.purge(f"{MODEL}@{_VERSION}")  # gives each bucket a generation
        names = [self._space.generation_of(f"{MODEL}@{_VERSION}", bucket) for bucket in BUCKETS]
        self._generations = dict(zip(BUCKETS, self._client.mget(names), strict=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, entries: int, tell: Tell) -> int:
        """Write so many entries; return the bytes that the server's memory grew by."""
        before = self._memory()
        for start in range(0, entries, _PIPELINE):
            self._write(range(start, min(start + _PIPELINE, entries)))
            tell(start, entries)
        self.entries = entries
        return self._memory() - before

    def tag(self, tell: Tell) -> None:
        """Register all of them, `TAGGED` under each tag, as who submits them does."""
        self._client.script_load(load("tag").text)
        for start in range(0, self.entries, _PIPELINE):
            with self._client.pipeline(transaction=False) as pipeline:
                for first in range(start, min(start + _PIPELINE, self.entries), TAGGED):
                    call = self._flights.tag(_tag(first), [key_of_text(question(each)[0]) for each in _group(first)])
                    pipeline.execute_command(*evaluate(call))
                pipeline.execute()
            tell(start, self.entries)

    def invalidate(self) -> float:
        """Invalidate any of the tags; return the seconds that it took, without what puts its entries back."""
        first = self._random.randrange(self.entries // TAGGED) * TAGGED
        began = time.perf_counter()
        forgotten = self._producer.invalidate_tag(_tag(first))
        took_s = time.perf_counter() - began
        assert forgotten == TAGGED
        self._write(_group(first))
        return took_s

    def hit(self) -> None:
        """Ask for any of them."""
        asked, answer = question(self._random.randrange(self.entries))
        assert self._producer.predict(MODEL, asked) == answer

    def _write(self, numbers: Iterable[int]) -> None:
        now_ms = round(time.time() * 1000)
        with self._client.pipeline(transaction=False) as pipeline:
            for number in numbers:
                asked, answer = question(number)
                key = key_of_text(asked)
                entry = Entry(
                    Kind.RESULT, self._generations[key.bucket], 1, now_ms, now_ms + _EXPIRY_S * 1000, 1000, pack(answer)
                )
                pipeline.set(self._space.entry(key), entry.encode(), ex=_EXPIRY_S)
            pipeline.execute()

    def _memory(self) -> int:
        return int(self._client.info("memory")["used_memory"])


def question(number: int) -> tuple[str, str]:
    """Return 200 bytes that are asked, and the 200 that are filled in as their answer."""
    return f"{number:<200}", f"{number:>200}"


def key_of_text(text: str) -> Key:
    """Return the key of a text that is asked."""
    return key_of(MODEL, _VERSION, canonicalize(text))


def _group(first: int) -> range:
    """Return the entries that share a tag with one that is the first of them."""
    return range(first, first + TAGGED)


def _tag(first: int) -> str:
    return f"group:{first // TAGGED}"
