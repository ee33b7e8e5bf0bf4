"""What entries take: memory each, and time when there are a million of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import redis

from benchmarks.crowd import Crowd, key_of_text
from benchmarks.harness import Comparison, Note, Side, Tell, Unit, calls, compared, interleave
from benchmarks.stage import DEADLINE_S, ECHO, MODEL, Stage, fresh_texts
from foreseen.keys import KeySpace

__all__ = ["crowded_hit", "entry_bytes"]

_FEW: Final = 1000
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
                key = space.entry(key_of_text(text))
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
    and no worker runs: so what is compared each time can only come from the entry. Both servers are on one processor
    and the caller is on another: to wake a process on one's own takes a third of the time, and where it is is chance.
    """
    stage.have()
    many = stage.size.of(2000, 100_000, 1_000_000)
    with ExitStack() as stack:
        few_entries, many_entries = (stack.enter_context(Crowd()) for _ in range(2))
        few_entries.fill(_FEW, tell)
        used = many_entries.fill(many, tell)
        stack.enter_context(_apart(few_entries.server_pid, many_entries.server_pid))
        count = stage.size.of(20, 200, 300)
        sides: dict[str, Side] = {
            f"hit among {crowd.entries:,} entries": calls(crowd.hit, count) for crowd in (many_entries, few_entries)
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 60, 200), tell=tell)
    told = f"{many:,} entries of 200 B, with keys and all, take {used / 2**20:,.0f} MiB: {used / many:,.0f} B each."
    return [rounds.time(*sides, target=1.10), Note(told)]


@contextmanager
def _apart(*servers: int) -> Iterator[None]:
    """Keep servers on one processor and this process on another, where the system can do that and has as many."""
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    first, *others = sorted(own) or [0]
    if not others:
        yield
        return
    for pid in servers:
        os.sched_setaffinity(pid, {first})
    os.sched_setaffinity(0, {others[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _usage(client: redis.Redis, key: str) -> int:
    return int(client.memory_usage(key) or 0)
