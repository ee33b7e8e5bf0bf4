"""The protocol's steps on a real server, for one key, as short calls; and an ear at the inboxes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from foreseen.cache import Cache
from foreseen.embedded import EmbeddedServer
from foreseen.entry import CODEC, Entry, result_body
from foreseen.flights import Call, Joined, Kind, Reply, Ticket, Watermark, nonce
from foreseen.holding import Alone, Begun, Finished, HolderFlights
from foreseen.keys import Key
from foreseen.settings import Settings

# So long that nothing lapses by itself while a test runs: tests lapse leases by hand.
LEASE_S = 60.0
# A reply on loopback takes well under a millisecond; reached only when the test fails.
PUSH_S = 10.0
# Of a queue in which nothing has begun yet.
EMPTY = Watermark()


@dataclass(frozen=True)
class Item:
    """What a message says of one key: the flight it was sent for."""

    key: Key
    token: str
    opened: int
    deadline_ms: int = 0
    priority: int = 4


@dataclass(frozen=True)
class Push:
    """A message of an inbox, taken apart; `entry` is empty if only the name travelled."""

    inbox: str
    key: str
    tokens: tuple[str, ...]
    entry: bytes


class Inbox:
    """Subscribed channels, on one connection; `pushes` returns what came since the last call."""

    def __init__(self, client: redis.Redis, *channels: str) -> None:
        self._client = client
        self._mark = f"mark:{nonce()}"
        self._pubsub = client.pubsub()
        self._pubsub.subscribe(self._mark, *channels)
        for _ in range(len(channels) + 1):
            self._next()  # the server's confirmation

    def pushes(self) -> list[Push]:
        """Return all pushes published before this call: a mark published now comes after them."""
        self._client.publish(self._mark, b"")
        pushes: list[Push] = []
        while (message := self._next())[0] != self._mark:
            channel, content = message
            head, newline, entry = content.partition(b"\n")
            assert newline, content
            key, tokens = head.decode().split(" ")
            pushes.append(Push(channel, key, tuple(tokens.split(",")), entry))
        return pushes

    def push(self) -> Push:
        """Return the one push that came."""
        (push,) = self.pushes()
        return push

    def close(self) -> None:
        self._pubsub.close()

    def _next(self) -> tuple[str, bytes]:
        message = self._pubsub.get_message(timeout=PUSH_S)
        assert message is not None, f"nothing arrived within {PUSH_S:g} s"
        return message["channel"].decode(), message["data"] if message["type"] == "message" else b""


class Steps:
    """The protocol's steps for the key `key`, each one round trip; arguments default to the ordinary case.

    Args:
        url: of the server, with the database.
        namespace: of the test.
        lease_s: long by default, so that a lease lapses only by `lapse`.
    """

    def __init__(self, url: str, namespace: str, lease_s: float = LEASE_S) -> None:
        self.settings = Settings(cache_url=url, namespace=namespace, lease_s=lease_s)  # type: ignore[call-arg]
        self.flights = HolderFlights(self.settings)
        self.space = self.flights.space
        self.cache = Cache(self.settings)
        self.redis = redis.Redis.from_url(url)
        self.key = Key("model", "1", os.urandom(20).hex())
        self._serials = itertools.count(1)
        self._inboxes: list[Inbox] = []

    def run(self, call: Call[Any]) -> Any:
        """Run one call."""
        return self.cache.run([call])[0]

    # --- producers ----------------------------------------------------------------------------------------------------

    def ticket(self, inbox: str = "a", kind: Kind = Kind.WAITER, **options: Any) -> Ticket:
        serial = options.pop("serial", None) or next(self._serials)
        token = options.pop("token", None) or nonce()
        return Ticket(options.pop("key", self.key), inbox, serial, kind, token, **options)

    def join(self, inbox: str = "a", kind: Kind = Kind.WAITER, **options: Any) -> Reply:
        reply: Reply = self.run(self.flights.join(self.ticket(inbox, kind, **options)))
        return reply

    def joined(self, inbox: str = "a", kind: Kind = Kind.WAITER, **options: Any) -> Joined:
        """Join, where that is known to end in a flight."""
        reply = self.join(inbox, kind, **options)
        assert isinstance(reply, Joined), reply
        return reply

    def look(
        self,
        tokens: str,
        inbox: str = "a",
        kind: Kind = Kind.WAITER,
        not_before: int = 0,
        watermark: Watermark = EMPTY,
        **options: Any,
    ) -> Reply:
        reply: Reply = self.run(self.flights.look(self.ticket(inbox, kind, **options), tokens, not_before, watermark))
        return reply

    def leave(self, inbox: str, serial: int, kind: Kind = Kind.WAITER) -> bool:
        return bool(self.run(self.flights.leave(self.key, inbox, serial, kind)))

    # --- workers ------------------------------------------------------------------------------------------------------

    def item(self, joined: Joined) -> Item:
        """Return what the message of a flight's leader says."""
        return Item(self.key, joined.token, joined.order, joined.deadline_ms, joined.priority)

    def begin_call(
        self, work: Joined | Item, holder: str = "h1", delivery: str = "m1", *, alone: Alone = Alone.IN_PROCESS,
        copies: int = 0, worker: str = "",
    ) -> Call[Begun]:  # fmt: skip
        item = self.item(work) if isinstance(work, Joined) else work
        return self.flights.begin(
            item.key, item.token, item.opened, item.deadline_ms, item.priority, holder, delivery,
            alone=alone, copies=copies, worker=worker,
        )  # fmt: skip

    def begin(
        self, work: Joined | Item, holder: str = "h1", delivery: str = "m1", **options: Any
    ) -> Begun:  # fmt: skip
        begun: Begun = self.run(self.begin_call(work, holder, delivery, **options))
        return begun

    def finish_call(
        self,
        begun: Begun,
        holder: str = "h1",
        delivery: str = "m1",
        *,
        success: bool = True,
        body: bytes | None = None,
        value: Any = None,
        expiry_ms: int = 3_600_000,
        cost_us: int = 7,
        copies: int = 0,
        stale_ms: int = 0,
        early_ms: int = 0,
        codec: int = CODEC,
    ) -> Call[Finished]:
        body = result_body(value or f"by {holder}") if body is None else body
        return self.flights.finish(
            self.key, begun, holder, delivery,
            success=success, body=body, expiry_ms=expiry_ms, cost_us=cost_us, copies=copies,
            stale_ms=stale_ms, early_ms=early_ms, codec=codec,
        )  # fmt: skip

    def finish(self, begun: Begun, holder: str = "h1", delivery: str = "m1", **options: Any) -> Finished:
        finished: Finished = self.run(self.finish_call(begun, holder, delivery, **options))
        return finished

    def give_up(self, holder: str = "h1", *, died: bool = True) -> bool:
        return bool(self.run(self.flights.give_up(self.key, holder, died="signal 9" if died else None)))

    def compute(self, inbox: str = "z", value: Any = "first") -> Entry:
        """Go the whole way once, so that there is an entry; return it."""
        joined = self.joined(inbox)
        self.finish(self.begin(joined), value=value)
        entry = self.entry()
        assert entry is not None
        return entry

    # --- entries ------------------------------------------------------------------------------------------------------

    def entry(self) -> Entry | None:
        data = self.run(self.flights.peek(self.key))
        return None if data is None else Entry.decode(data)

    def invalidate(self) -> bool:
        return bool(self.run(self.flights.invalidate(self.key)))

    def purge(self) -> int:
        return int(self.run(self.flights.purge(self.key.model_id, self.key.bucket)))

    # --- what the server holds ----------------------------------------------------------------------------------------

    def flight(self) -> dict[str, str]:
        """Return the fields of the key's flight; empty if there is none."""
        fields: Any = self.redis.hgetall(self.space.flight(self.key))
        return {name.decode(): value.decode("latin-1") for name, value in fields.items()}  # a generation is any 8 bytes

    def write(self, **fields: str | int) -> None:
        """Overwrite fields of the flight by hand."""
        assert self.flight(), "there is no flight to write to"
        self.redis.hset(self.space.flight(self.key), mapping=dict(fields))

    def lapse(self) -> None:
        """Let the flight's lease end in the past."""
        self.write(lease=1)

    def marked(self, token: str) -> bool:
        """Whether the token has an end mark."""
        return bool(self.redis.hexists(self.space.ends(self.key), token))

    def statistic(self, event: str) -> int:
        return int(self.redis.hget(self.space.statistics(self.key), event) or 0)  # type: ignore[arg-type]

    def now_ms(self) -> int:
        """The server's clock."""
        seconds, micros = self.redis.time()  # type: ignore[misc]
        return int(seconds) * 1000 + int(micros) // 1000

    def inbox(self, *names: str) -> Inbox:
        """Listen to inboxes."""
        inbox = Inbox(self.redis, *names)
        self._inboxes.append(inbox)
        return inbox

    def without_expiry(self) -> list[str]:
        """Return the keys of this namespace that would stay for ever."""
        names = list(self.redis.scan_iter(f"{self.space.namespace}:*", count=10_000))
        return [name.decode() for name in names if self.redis.pttl(name) == -1]

    def close(self) -> None:
        for inbox in self._inboxes:
            inbox.close()
        self.cache.close()
        self.redis.close()


@pytest.fixture
def steps_on(namespace: str) -> Iterator[Callable[..., Steps]]:
    """Return a maker of `Steps` on a URL; in the end, every key that they left must have an expiry."""
    made: list[Steps] = []

    def make(url: str, **options: Any) -> Steps:
        made.append(Steps(url, namespace, **options))
        return made[-1]

    yield make
    forever = [name for steps in made for name in steps.without_expiry()]
    for steps in made:
        steps.close()
    assert not forever, f"keys without an expiry: {forever}"


@pytest.fixture
def steps(server: EmbeddedServer, steps_on: Callable[..., Steps]) -> Steps:
    """Return the steps on the session's server."""
    return steps_on(server.url(1))


@pytest.fixture
def passes() -> Callable[[Steps, int], None]:
    """Wait until the server's clock has passed a time (ms)."""

    def wait(steps: Steps, until_ms: int) -> None:
        deadline = time.monotonic() + PUSH_S
        while steps.now_ms() <= until_ms:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait
