"""How often a submission goes to the servers, by the servers' own account.

Broker and cache are servers of their own here. Their command statistics say how often a script ran; their monitor says
what came from a client, which the statistics do not tell from what a script calls inside.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest
import redis

from foreseen import cards
from foreseen.cards import Card
from foreseen.client.sync import SyncClient
from foreseen.embedded import EmbeddedServer
from foreseen.entry import result_body
from foreseen.holding import Alone, Begin, HolderFlights
from foreseen.keys import Key
from foreseen.scripts import load
from foreseen.settings import Settings
from producer import Producer, Source

MODEL = "counted"
BATCH = 32
MANY = 100
_SCRIPTS = {load(name).sha: name for name in ("join", "published", "look", "leave")}


@dataclass(frozen=True)
class Bench:
    """A producer whose connections are the only ones, once it is open."""

    broker: EmbeddedServer
    cache: EmbeddedServer
    producer: Producer
    client: SyncClient

    def sent(self, action: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
        """Run `action`; return what was sent to the cache, scripts by name, and what was sent to the broker."""
        with _Account(self.cache) as cache, _Account(self.broker) as broker:
            action()
        return cache.sent, broker.sent

    def trips(self, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[int]:
        """Run `action`; return how many commands went in each of its round trips to the cache."""
        sizes: list[int] = []
        mine, send = threading.get_ident(), self.client._cache._send

        def counted(commands: Sequence[Any]) -> list[Any]:
            if threading.get_ident() == mine:
                sizes.append(len(commands))
            return send(commands)

        with monkeypatch.context() as patch:
            patch.setattr(self.client._cache, "_send", counted)
            action()
        return sizes

    def compute(self, value: object) -> None:
        """Put an entry there, as a worker does: the value itself."""
        self.producer.submit(MODEL, value)
        key: Key = self.producer._key(self.client, MODEL, value)
        flights, cache = HolderFlights(self.client.engine.settings), self.client._cache
        (begun,) = cache.run([flights.begin(key, "0" * 16, 0, 0, 4, "f" * 16, "delivery", alone=Alone.IN_PROCESS)])
        assert begun.code is Begin.RUN
        cache.run(
            [
                flights.finish(
                    key, begun, "f" * 16, "delivery",
                    success=True, body=result_body(value), expiry_ms=600_000, cost_us=1,
                )
            ]
        )  # fmt: skip


class _Account:
    """What clients send to a server while it is open, but for its own connections."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._control = redis.Redis.from_url(server.url())
        self._watcher = redis.Redis.from_url(server.url())
        self.sent: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._control.config_resetstat()  # opens the connection too, before it would be seen
        self._monitor = self._watcher.monitor().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.echo("that is all")
        for seen in self._monitor.listen():
            verb, *words = seen["command"].split()
            if verb == "ECHO":
                break
            if seen["client_type"] != "lua":
                self.sent[_SCRIPTS[words[0]] if verb == "EVALSHA" else verb] += 1
        self._monitor.__exit__(None, None, None)
        counted = self._control.info("commandstats")
        for name, verbs in (("evalsha", set(_SCRIPTS.values())), ("lpush", {"LPUSH"})):
            calls = counted.get(f"cmdstat_{name}", {"calls": 0})["calls"]
            assert calls == sum(self.sent[verb] for verb in verbs), f"statistics and monitor differ on {name}"
        self._control.close()
        self._watcher.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with EmbeddedServer() as broker, EmbeddedServer() as cache:
        yield broker, cache


@pytest.fixture
def bench(
    servers: tuple[EmbeddedServer, EmbeddedServer], namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    broker, cache = servers
    settings = Settings(
        broker_url=broker.url(0),
        cache_url=cache.url(0),
        namespace=namespace,
        # Nothing periodic falls due while a test runs.
        lease_s=60,
        card_refresh_s=3600,
    )
    with Producer(settings) as producer:
        client = producer._open()
        # The listener would send marks that no look-up has taken along for a while; here, a look-up takes them.
        monkeypatch.setattr(client.engine, "tick", lambda: iter(()))
        card = Card(name=MODEL, version="1", queue="unused", max_batch_size=BATCH)
        client._cache.commands(cards.publish(client.engine.space, [card], {}, heartbeat_s=600))
        bench = Bench(broker, cache, producer, client)
        bench.compute("warm: connections are open, scripts are loaded, the card is known")
        first, again = [producer.submit(MODEL, "and the mark goes ahead of who joins") for _ in range(2)]
        first.cancel()
        again.cancel()
        producer.peek(MODEL, "takes along that they left")
        yield bench


def test_a_hit_is_one_script_and_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.compute("known")
    assert bench.sent(lambda: bench.producer.predict(MODEL, "known")) == (Counter(join=1), Counter())
    assert bench.trips(monkeypatch, lambda: bench.producer.predict(MODEL, "known")) == [1]


def test_a_miss_is_one_script_and_one_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.sent(lambda: bench.producer.submit(MODEL, "new")) == (Counter(join=1), Counter(LPUSH=1))
    bench.producer.peek(MODEL, "new")
    assert bench.trips(monkeypatch, lambda: bench.producer.submit(MODEL, "newer")) == [1]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks do not wait for their moment."""
    monkeypatch.setattr("foreseen.client.marks._WAIT_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_the_mark_of_a_miss_travels_with_a_later_look_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.producer.submit(MODEL, "first")
    second = lambda: bench.producer.submit(MODEL, "second")  # noqa: E731 - it is what is counted
    assert bench.sent(second) == (Counter(join=1, published=1), Counter(LPUSH=1))
    assert bench.trips(monkeypatch, lambda: bench.producer.submit(MODEL, "third")) == [2]


def test_a_follower_sends_no_message_since_the_mark_goes_ahead_of_him(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreseen.client.marks._WAIT_S", 1000.0)
    bench.producer.submit(MODEL, "asked before")
    again = lambda: bench.producer.submit(MODEL, "asked before")  # noqa: E731 - it is what is counted
    assert bench.sent(again) == (Counter(join=1, published=1), Counter())
    assert bench.sent(again) == (Counter(join=1), Counter())


@pytest.mark.usefixtures("at_once")
def test_many_misses_are_one_round_trip_and_a_message_for_each_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [f"one of many, {number}" for number in range(2 * MANY)]
    cache, broker = bench.sent(lambda: bench.producer.submit_many(MODEL, values[:MANY]))
    assert cache == Counter(join=MANY)
    assert broker["LPUSH"] == math.ceil(MANY / BATCH)
    bench.producer.peek(MODEL, "takes the marks along")
    assert bench.trips(monkeypatch, lambda: bench.producer.submit_many(MODEL, values[MANY:])) == [MANY]


def test_equal_inputs_of_one_call_are_looked_up_once(bench: Bench) -> None:
    assert bench.sent(lambda: bench.producer.submit_many(MODEL, ["the same"] * MANY)) == (
        Counter(join=1),
        Counter(LPUSH=1),
    )


def test_many_hits_are_one_round_trip(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [f"known, {number}" for number in range(MANY)]
    for value in values:
        bench.compute(value)
    bench.producer.peek(MODEL, "takes the marks along")
    answered = bench.producer.submit_many
    assert bench.sent(lambda: answered(MODEL, values)) == (Counter(join=MANY), Counter())
    # From then on they are expected to hit, and are read without the script: in one command.
    assert bench.sent(lambda: answered(MODEL, values)) == (Counter(MGET=1), Counter())
    assert len(bench.trips(monkeypatch, lambda: answered(MODEL, values))) == 1
    assert {pending.source for pending in answered(MODEL, values)} == {Source.HIT}


def test_who_mostly_hits_reads_first_and_joins_only_what_is_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [f"read, {number}" for number in range(MANY)]
    for value in values:
        bench.compute(value)
    bench.producer.peek(MODEL, "takes the marks along")
    bench.producer.submit_many(MODEL, values)
    assert bench.sent(lambda: bench.producer.predict(MODEL, values[0])) == (Counter(MGET=1), Counter())
    assert bench.sent(lambda: bench.producer.submit(MODEL, "not there")) == (Counter(MGET=1, join=1), Counter(LPUSH=1))
    bench.producer.peek(MODEL, "takes the mark along")
    assert bench.trips(monkeypatch, lambda: bench.producer.submit(MODEL, "nor that")) == [1, 1]
