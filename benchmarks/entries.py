"""What entries take: memory each, and time when there are a million of them."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import Final, Self

import redis

from benchmarks.harness import Comparison, Note, Side, Tell, Unit, calls, compared, interleave
from benchmarks.stage import DEADLINE_S, ECHO, MODEL, Stage, fresh_texts, settings_for
from foreseen.canonical import canonicalize
from foreseen.cards import Card, publish
from foreseen.embedded import EmbeddedServer
from foreseen.entry import Entry, Kind
from foreseen.keys import BUCKETS, Key, KeySpace, key_of
from foreseen.payload import pack
from producer import Producer

__all__ = ["crowded_hit", "entry_bytes"]

_VERSION: Final = "1"
_EXPIRY_S: Final = 3600
_FEW: Final = 1000
_PIPELINE: Final = 2000
#: Bytes of the payload, and what its entry may take: that many times a plain SET, or that many bytes more.
_SIZES: Final = ((200, 1.0, 80), (1000, 1.15, 0), (65_536, 1.15, 0))


def entry_bytes(stage: Stage, tell: Tell) -> list[Comparison]:
    """The server's MEMORY USAGE of an entry, beside a plain SET of the same payload under the same key.

    Fair: the same server, the same expiry; the payload alone is set, without type or checksum. Below 1 kB the baseline
    is given 80 bytes, which are what is allowed.
    """
    stage.have(ECHO)
    space = KeySpace(stage.settings.namespace)
    found: list[Comparison] = []
    with redis.Redis.from_url(stage.server.url(4)) as plain:
        for payload_bytes, target, allowed_bytes in _SIZES:
            texts = [text.ljust(payload_bytes, ".") for text in fresh_texts(stage.size.of(2, 20, 100))]
            for pending in stage.producer.submit_many(MODEL, texts):
                pending.result(DEADLINE_S)
            figures: list[float] = []
            baselines: list[float] = []
            for text in texts:
                key = space.entry(_key(text))
                plain.set(key, text, px=stage.client.pttl(key))
                figures.append(_usage(stage.client, key))
                baselines.append(_usage(plain, key) + allowed_bytes)
            allowed = f", and {allowed_bytes} B" if allowed_bytes else ""
            name, baseline = f"memory of an entry of {payload_bytes:,} B", f"SET of the same payload{allowed}"
            found.append(compared(name, baseline, figures, baselines, unit=Unit.BYTES, target=target))
            tell(len(found), len(_SIZES))
    return found


def crowded_hit(stage: Stage, tell: Tell) -> list[Comparison | Note]:
    """A hit among 1,000,000 entries (100,000 in a short run), beside a hit among 1,000.

    Fair: two servers of the same kind with the same settings, entries of the same size in the exact format, each of its
    bucket's generation, and each hit another entry, drawn evenly. What is filled in is not what the model would answer,
    and no worker runs: so what is compared each time can only come from the entry.
    """
    stage.have()
    many = stage.size.of(2000, 100_000, 1_000_000)
    with ExitStack() as stack:
        few_entries, many_entries = (stack.enter_context(_Crowd()) for _ in range(2))
        few_entries.fill(_FEW, tell)
        used = many_entries.fill(many, tell)
        count = stage.size.of(20, 200, 300)
        sides: dict[str, Side] = {
            f"hit among {crowd.entries:,} entries": calls(crowd.hit, count) for crowd in (many_entries, few_entries)
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 60, 200), tell=tell)
    told = f"{many:,} entries of 200 B, with keys and all, take {used / 2**20:,.0f} MiB: {used / many:,.0f} B each."
    return [rounds.time(*sides, target=1.10), Note(told)]


class _Crowd:
    """A server of its own with entries that nobody had to compute, and a producer that hits them."""

    def __init__(self) -> None:
        self.entries = 0
        self._stack = ExitStack()
        self._random = random.Random(1)

    def __enter__(self) -> Self:
        server = self._stack.enter_context(EmbeddedServer())
        settings = settings_for(server)
        self._space = KeySpace(settings.namespace)
        self._client = self._stack.enter_context(redis.Redis.from_url(settings.cache_url))
        self._producer = self._stack.enter_context(Producer(settings))
        card = Card(name=MODEL, version=_VERSION, queue=self._space.queue(f"{MODEL}@{_VERSION}"), max_batch_size=1)
        for command in publish(self._space, [card], {}, _EXPIRY_S):
            self._client.execute_command(*command)
        self._producer.purge(f"{MODEL}@{_VERSION}")  # gives each bucket a generation
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, entries: int, tell: Tell) -> int:
        """Write so many entries; return the bytes that the server's memory grew by."""
        before = self._memory()
        names = [self._space.generation_of(f"{MODEL}@{_VERSION}", bucket) for bucket in BUCKETS]
        generations = dict(zip(BUCKETS, self._client.mget(names), strict=True))
        now_ms = round(time.time() * 1000)
        for start in range(0, entries, _PIPELINE):
            with self._client.pipeline(transaction=False) as pipeline:
                for number in range(start, min(start + _PIPELINE, entries)):
                    asked, answer = _question(number)
                    key = _key(asked)
                    entry = Entry(
                        Kind.RESULT, generations[key.bucket], 1, now_ms, now_ms + _EXPIRY_S * 1000, 1000, pack(answer)
                    )
                    pipeline.set(self._space.entry(key), entry.encode(), ex=_EXPIRY_S)
                pipeline.execute()
            tell(start, entries)
        self.entries = entries
        return self._memory() - before

    def hit(self) -> None:
        """Ask for any of them."""
        asked, answer = _question(self._random.randrange(self.entries))
        assert self._producer.predict(MODEL, asked) == answer

    def _memory(self) -> int:
        return int(self._client.info("memory")["used_memory"])


def _question(number: int) -> tuple[str, str]:
    """Return 200 bytes that are asked, and the 200 that are filled in as their answer."""
    return f"{number:<200}", f"{number:>200}"


def _key(text: str) -> Key:
    return key_of(MODEL, _VERSION, canonicalize(text))


def _usage(client: redis.Redis, key: str) -> int:
    return int(client.memory_usage(key) or 0)
