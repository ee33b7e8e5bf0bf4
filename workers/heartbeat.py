"""The worker's heartbeat: publishes the cards of its models, again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from foreseen import cards, worker_cards
from foreseen.cache import Cache
from foreseen.cards import Card
from foreseen.errors import CacheUnavailable
from foreseen.flights import Flights
from foreseen.worker_cards import ModelLife, WorkerCard
from workers.registry import ModelClass
from workers.rejections import rejections
from workers.serving import Serving
from workers.succession import Succession

__all__ = ["Heartbeat", "card_of", "card_of_worker"]

log = logging.getLogger("foreseen.worker")

#: For how long a worker that ends waits for a cache that does not answer.
_LAST_WORD_S: Final = 1.0


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
        },
    )


def card_of_worker(name: str, host: str, pool: Any, serving: Serving, succession: Succession) -> WorkerCard:
    """Return what a worker says of itself.

    Args:
        name: a nonce of its run.
        host: its name in Celery.
        pool: Celery's.
        serving: of its models.
        succession: of others'.
    """
    return WorkerCard(
        name=name,
        host=host,
        pool=type(pool).__module__.rpartition(".")[2],
        concurrency=pool.num_processes,
        models={
            model_id: ModelLife(state=life.state, error=life.error, load_s=life.load_s, processes=life.processes)
            for model_id, life in list(serving.lives.items())
        },
        takes_over=sorted(succession.taken),
    )


class Heartbeat:
    """A thread that publishes cards; a producer finds the models within one beat of a cache that lost them.

    Args:
        cache: of this process.
        flights: knows the keys.
        serving: says which models are served.
        cards_: of all models that are to be.
        succession: hears of each beat; it takes over queues of versions that have no workers left.
        name: of the worker's run.
        worker: says what the worker is.
        heartbeat_s: between beats.
        promote: make the versions the current ones, with the first beat that the cache hears once they are served.
    """

    def __init__(
        self,
        cache: Cache,
        flights: Flights,
        serving: Serving,
        cards_: list[Card],
        succession: Succession,
        name: str,
        worker: Callable[[], WorkerCard],
        heartbeat_s: float,
        *,
        promote: bool = False,
    ) -> None:
        self._cache = cache
        self._flights = flights
        self._space = flights.space
        self._serving = serving
        self._cards = cards_
        self._succession = succession
        self._name = name
        self._worker = worker
        self._heartbeat_s = heartbeat_s
        self._to_promote = {card.model_id for card in cards_} if promote else set[str]()
        self._successors: dict[str, str] = {}
        self._current: dict[str, str] = {}
        self._stopping = False
        self._next = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-heartbeat", daemon=True)

    def start(self) -> None:
        """Publish now, and go on."""
        self._thread.start()

    def serve(self, cards_: list[Card], successors: dict[str, str]) -> None:
        """Publish these cards from now on.

        Args:
            cards_: of all models that are to be served.
            successors: for some `name@version`, the version in whose place it becomes current, if that is current.
        """
        self._successors = successors
        self._cards = cards_

    def hurry(self) -> None:
        """Publish now: something has changed."""
        self._next.set()

    def stop(self) -> None:
        """Stop; the models' cards expire unless another worker serves them, and its own goes."""
        self._stopping = True
        self._next.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_WORD_S)

    def beat(self) -> None:
        """Publish once, and note which versions are current."""
        self._serving.look()
        served = [card for card in self._cards if self._serving.is_served(card.model_id)]
        if promoted := [card for card in served if card.model_id in self._to_promote]:
            self._cache.run([self._flights.promote(card.name, card.version) for card in promoted])
            self._to_promote -= {card.model_id for card in promoted}
        self._succeed(served)
        own = worker_cards.publish(self._space, self._worker(), self._heartbeat_s)
        commands = cards.publish(self._space, served, self._current, self._heartbeat_s)
        replies = self._cache.commands([*own, *commands])[len(own) :]
        if counts := rejections.commands(self._space, [card.model_id for card in self._cards]):
            self._cache.commands(counts)
        for card, reply in zip(served, replies[cards.PER_CARD - 1 :: cards.PER_CARD], strict=True):
            version = cards.version_in(reply)
            if version is not None:
                self._current[card.name] = version
        self._succession.look([card.name for card in served if self._current.get(card.name) == card.version])

    def _succeed(self, served: list[Card]) -> None:
        """Make versions current in whose place others were, of which this worker has let go."""
        due = [card for card in served if self._current.get(card.name) == self._successors.get(card.model_id, "")]
        if due:
            self._cache.run([self._flights.promote(card.name, card.version) for card in due])
        for card in served:
            self._successors.pop(card.model_id, None)

    def forget_dead(self) -> None:
        """Forget workers whose own cards have lapsed: those that were killed could not say so."""
        (known,) = self._cache.commands(worker_cards.known(self._space))
        if names := worker_cards.names_in(known):
            found = self._cache.commands(worker_cards.read(self._space, names))
            if dead := [name for name, card in zip(names, found, strict=True) if card is None]:
                self._cache.commands(worker_cards.forget(self._space, dead))

    def _run(self) -> None:
        is_first = True
        while not self._stopping:
            self._next.clear()
            try:
                if is_first:
                    self.forget_dead()
                    is_first = False
                self.beat()
            except CacheUnavailable:
                log.debug("cards not published, trying again")  # that the cache is away is said once, and not here
            except Exception:
                log.exception("heartbeat failed, trying again")
            self._next.wait(self._heartbeat_s)
        with suppress(CacheUnavailable):
            self._cache.commands(worker_cards.forget(self._space, [self._name]))
