"""Audits: what hits were answered with is computed again and compared, and told to nobody.

Nothing is begun in the cache and no entry changes, so that an audit cannot spoil what it looks at, holds no flight that
somebody might join, and may be lost anywhere. A difference counts only if the entry was there when the computation
began and still is when it has ended: a purge, an invalidation or a refresh meanwhile is no difference.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from foreseen.entry import LARGEST_HEADER_BYTES, Entry, Kind
from foreseen.errors import CacheUnavailable, MalformedEntry, Misconfigured, PredictionFailed, UnsupportedLayout
from foreseen.flights import KEEP_MS
from foreseen.holding import Begin, Begun
from foreseen.keys import BUCKETS, Key
from foreseen.message import Item
from foreseen.parcels import Command
from foreseen.payload import pack, unpack
from workers.deviation import deviation
from workers.run import Run
from workers.runtime import Runtime

__all__ = ["begin", "compare"]

log = logging.getLogger("foreseen.worker")


def begin(runtime: Runtime, items: Sequence[Item]) -> list[Begun]:
    """Say of each item whether it is to be computed: there is a result to compare with, and the model allows it."""
    model = runtime.models.get(items[0].key.model_id)
    if model is None or model.cache.audit_tolerance is None:
        return [Begun(Begin.SETTLED)] * len(items)
    return [
        Begun(Begin.SETTLED) if entry is None else Begun(Begin.RUN, item.token, entry.generation, entry.order)
        for item, entry in zip(items, _results(runtime, [item.key for item in items]), strict=True)
    ]


def compare(runtime: Runtime, runs: Sequence[Run]) -> None:
    """Compare outcomes of one model with entries that have stayed the same; count, and log what differs."""
    model_id = runs[0].item.key.model_id
    audited = differed = 0
    for run, entry in zip(runs, _results(runtime, [run.item.key for run in runs]), strict=True):
        if entry is None or (entry.generation, entry.order) != (run.begun.generation, run.begun.order):
            continue
        apart = _apart(run, entry)
        if apart is None:
            continue
        audited += 1
        if apart > (runtime.models[model_id].cache.audit_tolerance or 0.0):
            differed += 1
            what = f"its numbers by up to {apart:.3g}" if apart < float("inf") else "more than its numbers"
            log.warning("audit: %s was computed again, and its entry is another: %s", run.item.key.short, what)
    if audited:
        key = runtime.flights.space.statistics_of(model_id, BUCKETS[0])
        counts: list[Command] = [
            ("HINCRBY", key, "audited", audited), ("HINCRBY", key, "differed", differed), ("PEXPIRE", key, KEEP_MS),
        ]  # fmt: skip
        try:
            runtime.cache.commands(counts)
        except (CacheUnavailable, UnsupportedLayout) as error:
            log.info("audits of %s could not be counted: %s", model_id, error)


def _results(runtime: Runtime, keys: Sequence[Key]) -> list[Entry | None]:
    """Return the keys' current entries as far as they are results; none while the cache is away."""
    try:
        found = runtime.cache.run([runtime.flights.peek(key) for key in keys])
    except (CacheUnavailable, UnsupportedLayout):
        return [None] * len(keys)
    return [None if data is None else _result(runtime, key, data) for key, data in zip(keys, found, strict=True)]


def _result(runtime: Runtime, key: Key, data: bytes) -> Entry | None:
    keyring = runtime.settings.keyring()
    if len(data) > runtime.settings.max_entry_bytes + LARGEST_HEADER_BYTES:
        return None
    try:
        entry = Entry.decode(data)
        entry = (keyring.open(key, entry) if keyring else entry).plain(runtime.settings.max_entry_bytes)
    except (MalformedEntry, Misconfigured):
        return None
    return entry if entry.kind is Kind.RESULT else None


def _apart(run: Run, entry: Entry) -> float | None:
    """Return how far an outcome is from its entry; None if it cannot be told."""
    if isinstance(run.outcome, PredictionFailed):  # of memory, time, a server: it says nothing of the entry
        log.info("audit: %s was not computed: %s", run.item.key.short, type(run.outcome).__name__)
        return None
    try:
        payload = pack(run.outcome)
        return 0.0 if payload == entry.payload else deviation(unpack(entry.payload), unpack(payload))
    except (TypeError, ValueError, OverflowError, MalformedEntry, Misconfigured) as error:
        log.info("audit: %s could not be compared: %s", run.item.key.short, type(error).__name__)
        return None
