"""Versions that have no workers left: the current one's work off their queues.

A flight's key names its version, and its answer can be no other's. So who waits in such a flight is told `VersionGone`,
with the version that is current: a producer who asked by the bare name joins a flight of that one, under that one's
key, and one who named the version is told. Who asked by the bare name and may not be there any more, detached, has the
flight of the current version opened for him here, before the old one ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foreseen import cards
from foreseen.cache import Cache
from foreseen.errors import BrokerUnavailable, VersionGone
from foreseen.flights import Call, Due, Joined, Kind, Reply, Ticket, nonce
from foreseen.keys import KeySpace, key_of
from foreseen.message import MAX_ITEMS, Item, pack_items
from foreseen.queues import depths
from foreseen.settings import Settings
from workers.patience import insist
from workers.run import Run
from workers.runtime import Runtime

__all__ = ["Succession", "pass_on", "successor"]

log = logging.getLogger("foreseen.worker")


class Succession:
    """Which queues this worker has taken over.

    Args:
        cache: of this process.
        settings: of the deployment.
        own: versions that this worker is to serve, which it never takes over.
        start: takes messages from a queue.
        stop: takes no more.
    """

    def __init__(
        self,
        cache: Cache,
        settings: Settings,
        own: Sequence[str],
        start: Callable[[str], None],
        stop: Callable[[str], None],
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._space = KeySpace(settings.namespace)
        self._own = frozenset(own)
        self._start = start
        self._stop = stop
        self._missing_since: dict[str, float] = {}
        self._retired: set[str] = set()
        self.taken: set[str] = set()

    def retire(self, own: Sequence[str], retired: Sequence[str]) -> None:
        """Note that the worker has let go of versions, which it takes over as soon as nobody else serves them."""
        self._own = frozenset(own)
        self._retired |= set(retired)

    def look(self, names: Sequence[str]) -> None:
        """Take over what has had no worker for long and has messages; let go of what is served again, or empty.

        Args:
            names: of the models whose current version this worker serves.

        Raises:
            CacheUnavailable: nothing has changed.
        """
        gone = self._gone(names) if names else []
        waiting: Mapping[str, int] = {}
        if gone:
            try:
                queues = [self._space.queue(model_id) for model_id in gone]
                waiting = dict(zip(gone, depths(self._settings, queues), strict=True))
            except BrokerUnavailable:  # which Celery says
                return
        wanted = {model_id for model_id in gone if waiting[model_id]}
        for model_id in sorted(wanted - self.taken):
            log.warning(
                "%s has had no worker for %g s: its queue is worked off here", model_id, self._settings.take_over_s
            )
            self._start(self._space.queue(model_id))
        for model_id in self.taken - wanted:
            self._stop(self._space.queue(model_id))
        self.taken = wanted

    def _gone(self, names: Sequence[str]) -> list[str]:
        """Return the versions of these models that have had no card for long enough."""
        (known,) = self._cache.commands(cards.known_models(self._space))
        others = sorted(
            model_id for model_id in cards.model_ids_in(known) - self._own if model_id.partition("@")[0] in names
        )
        found = (
            self._cache.commands([command for each in others for command in cards.read(self._space, each)])
            if others
            else []
        )
        now = time.monotonic()
        missing = [model_id for model_id, card in zip(others, found, strict=True) if card is None]
        self._missing_since = {model_id: self._missing_since.get(model_id, now) for model_id in missing}
        take_over_s = self._settings.take_over_s
        return [
            each for each, since in self._missing_since.items() if now - since >= take_over_s or each in self._retired
        ]


def successor(runtime: Runtime, model_id: str) -> VersionGone | None:
    """Return what is told of a version that nobody serves; None if somebody does, or none has taken its place.

    Raises:
        CacheUnavailable: it cannot be told now.
    """
    name, _, version = model_id.partition("@")
    space = runtime.flights.space
    card, pointer = runtime.cache.commands([*cards.read(space, model_id), *cards.resolve(space, name)])
    current = cards.version_in(pointer)
    if card is not None or current is None or current == version:
        return None
    return cards.gone(model_id, current)


def pass_on(runtime: Runtime, runs: Sequence[Run], gone: VersionGone) -> None:
    """Have the current version compute these inputs, whether or not anybody waits for them.

    When it returns, each has an entry there, or a flight whose message the broker has.

    Raises:
        CacheUnavailable, UnsupportedLayout, BrokerUnavailable: not all have.
    """
    name, version = runs[0].item.key.model, str(gone.details["current"])
    keys = [key_of(name, version, run.item.canonical) for run in runs]
    tickets = [
        Ticket(key, "", 0, Kind.DETACHED, nonce(), priority=run.priority, deadline_ms=_left_ms(run), bare=True)
        for key, run in zip(keys, runs, strict=True)
    ]
    items: list[tuple[Item, int]] = []
    marks: list[Call[Any]] = []
    sent_ms = 0
    replies: Sequence[Reply] = insist(runtime.cache, [runtime.flights.join(ticket) for ticket in tickets])
    for key, run, reply in zip(keys, runs, replies, strict=True):
        joined = reply.refresh if isinstance(reply, Due) else reply
        if not isinstance(joined, Joined) or not joined.publish:
            continue
        canonical, expiry_ms = run.item.canonical, run.item.expiry_ms
        item = Item(key, joined.token, joined.order, joined.deadline_ms, canonical, expiry_ms)
        items.append((item, joined.priority))
        marks.append(runtime.flights.published(key, joined.token))
        sent_ms = max(sent_ms, joined.now_ms)
    if items:
        model = runtime.models.get(f"{name}@{version}")
        size = model.batching.max_batch_size if model is not None else MAX_ITEMS
        messages = pack_items(f"{name}@{version}", items, sent_ms, size, runtime.settings.max_input_bytes)
        runtime.publisher.publish(messages)
        insist(runtime.cache, marks)


def _left_ms(run: Run) -> int:
    """Return how long it is until a deadline; 0 if there is none."""
    left_s = run.deadline_at - time.monotonic()
    return 0 if left_s == float("inf") else max(1, round(left_s * 1000))
