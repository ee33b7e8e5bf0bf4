"""The worker's heartbeat: publishes the cards of its models, again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

from foreseen import cards
from foreseen.cache import Cache
from foreseen.cards import Card
from foreseen.errors import CacheUnavailable
from foreseen.flights import Flights
from workers.ensemble import Ensemble
from workers.pinning import MEMBERS
from workers.registry import ModelClass
from workers.rejections import rejections

__all__ = ["Heartbeat", "card_of"]

log = logging.getLogger("foreseen.worker")


def card_of(model: ModelClass, flights: Flights) -> Card:
    """Return what producers need to know of a model."""
    return Card(
        name=model.name,
        version=model.version,
        queue=flights.space.queue(model.model_id()),
        max_batch_size=model.batching.max_batch_size,
        max_queued=model.limits.queued,
        input_schema=model.input_schema(),
        output_schema=model.output_schema(),
        policy={
            "expiry_s": model.cache.expiry_s,
            "failure_expiry_s": asdict(model.cache.failures),
            "compress_above_bytes": model.cache.compress_above_bytes,
            "near": model.cache.near,
            "audit": model.cache.audit_tolerance is not None,
            **({MEMBERS: [each.model_id for each in model.pinned.values()]} if issubclass(model, Ensemble) else {}),
        },
    )


class Heartbeat:
    """A thread that publishes cards; a producer finds the models within one beat of a cache that lost them.

    Args:
        cache: of this process.
        flights: knows the keys.
        cards_: of the models that are served.
        heartbeat_s: between beats.
        promote: make the versions the current ones, with the first beat that the cache hears.
        followed: versions of members that ensembles are pinned to, though they are named without one.
    """

    def __init__(
        self,
        cache: Cache,
        flights: Flights,
        cards_: list[Card],
        heartbeat_s: float,
        *,
        promote: bool = False,
        followed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._cache = cache
        self._space = flights.space
        self._cards = cards_
        self._heartbeat_s = heartbeat_s
        self._promote = promote
        self._followed = dict(followed)
        self._current: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-heartbeat", daemon=True)

    def start(self) -> None:
        """Publish now, and go on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; the cards expire unless another worker serves the same models."""
        self._stopping.set()

    def beat(self) -> None:
        """Publish once, and note which versions are current."""
        promotions = (
            [command for card in self._cards for command in cards.promote(self._space, card.name, card.version)]
            if self._promote
            else []
        )
        commands = cards.publish(self._space, self._cards, self._current, self._heartbeat_s)
        replies = self._cache.commands([*promotions, *commands])[len(promotions) :]
        if counts := rejections.commands(self._space, [card.model_id for card in self._cards]):
            self._cache.commands(counts)
        self._promote = False
        for card, reply in zip(self._cards, replies[cards.PER_CARD - 1 :: cards.PER_CARD], strict=True):
            version = cards.version_in(reply)
            if version is not None:
                self._current[card.name] = version

        self._tell_what_moved()

    def _tell_what_moved(self) -> None:
        """Say once of each member that another version of it is current now."""
        if not self._followed:
            return
        names = list(self._followed)
        replies = self._cache.commands([command for name in names for command in cards.resolve(self._space, name)])
        for name, reply in zip(names, replies, strict=True):
            version = cards.version_in(reply)
            if version is not None and version != self._followed[name]:
                log.warning(
                    "%s@%s is current now; ensembles of this worker go on with %s@%s until it is started anew",
                    name, version, name, self._followed[name],
                )  # fmt: skip
                self._followed[name] = version

    def _run(self) -> None:
        while True:
            try:
                self.beat()
            except CacheUnavailable:
                log.debug("cards not published, trying again")  # that the cache is away is said once, and not here
            except Exception:
                log.exception("heartbeat failed, trying again")
            if self._stopping.wait(self._heartbeat_s):
                return
