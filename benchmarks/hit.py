"""A hit on one thread, beside a plain GET of the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from benchmarks.harness import Comparison, Distribution, Side, Tell, calls, compared, interleave, whole
from benchmarks.raw import RawConnection, command, tapped
from benchmarks.stage import DEADLINE_S, ECHO, MODEL, Stage, fresh_texts, settings_for
from producer import Producer

__all__ = ["many_hits", "near_hit", "shown_hit", "single_hit"]

#: Of the measure of many; its pipeline has one round trip for all.
_MANY = 1000


def single_hit(stage: Stage, tell: Tell) -> list[Comparison | Distribution]:
    """`predict` of what is cached, beside redis-py's GET of 200 bytes, and beside what a round trip costs at least.

    Fair: one thread, the same server and database; redis-py with its defaults and hiredis; the entry is 46 bytes longer
    than what GET fetches, the near cache is off, and every answer is compared. Over the raw socket go, besides a GET,
    the very bytes that `predict` sends for this hit: what that takes more is the server's, what `predict` takes beyond
    is Python's.
    """
    stage.have(ECHO)
    text, producer, client = stage.known(), stage.producer, stage.client
    client.set("bench:value", text)
    get = command("GET", "bench:value")
    look_up, _ = _sent(stage, lambda through: through.predict(MODEL, text))
    expected = text.encode()

    def hit() -> None:
        assert producer.predict(MODEL, text) == text

    def plain() -> None:
        assert client.get("bench:value") == expected

    with closing(RawConnection(stage.server, 1)) as raw:

        def raw_get() -> None:
            assert raw.ask(get) == expected

        def raw_look_up() -> None:
            assert raw.ask(look_up).endswith(expected)

        count = stage.size.of(20, 200, 300)
        sides = {
            "hit": hit, "redis-py GET": plain, "raw socket, GET": raw_get, "raw socket, a hit's look-up": raw_look_up,
        }  # fmt: skip
        rounds = interleave(
            {name: calls(side, count) for name, side in sides.items()},
            size=stage.size, rounds=stage.size.of(2, 60, 200), tell=tell,
        )  # fmt: skip
    return [
        rounds.time("hit", "redis-py GET", target=1.10),
        rounds.time("hit", "raw socket, GET"),
        rounds.time("raw socket, a hit's look-up", "raw socket, GET"),
        *rounds.distributions(*sides),
    ]


def near_hit(stage: Stage, tell: Tell) -> list[Comparison | Distribution]:
    """`predict` of what this process has seen before, with a near cache, beside redis-py's GET of the same 200 bytes.

    Fair: as for `single_hit`; the near cache has room, and what it answers is compared each time.
    """
    stage.have(ECHO)
    text, client = stage.known(), stage.client
    client.set("bench:value", text)
    expected = text.encode()
    with Producer(settings_for(stage.server, near_cache_bytes=64 * 2**20)) as producer:
        while not producer.near_cache().hits:  # it is on once the server has confirmed
            producer.predict(MODEL, text)

        def hit() -> None:
            assert producer.predict(MODEL, text) == text

        def plain() -> None:
            assert client.get("bench:value") == expected

        count = stage.size.of(20, 200, 300)
        sides = {"near hit": calls(hit, count), "redis-py GET, beside it": calls(plain, count)}
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 40, 100), tell=tell)
    return [
        rounds.time("near hit", "redis-py GET, beside it", target=0.05),
        *rounds.distributions("near hit"),
    ]


def shown_hit(stage: Stage, tell: Tell) -> list[Comparison]:
    """`predict` of what is cached by a producer that shows Flower all that it can, beside one that shows nothing.

    Fair: one thread, the same server and entry. Both are taken over a second, which is the beat of the thread that
    sends the events, and the processor time is that of the whole process, so of that thread too.
    """
    stage.have(ECHO)
    text = stage.known()
    with ExitStack() as stack:
        quiet = stack.enter_context(Producer(settings_for(stage.server)))
        shows = stack.enter_context(Producer(settings_for(stage.server, events_share=1.0)))
        near_bytes = 64 * 2**20
        near = stack.enter_context(Producer(settings_for(stage.server, near_cache_bytes=near_bytes)))
        near_shows = stack.enter_context(
            Producer(settings_for(stage.server, near_cache_bytes=near_bytes, events_share=1.0))
        )
        for producer in (near, near_shows):
            while not producer.near_cache().hits:
                producer.predict(MODEL, text)

        def hit(producer: Producer) -> Callable[[], None]:
            def one() -> None:
                assert producer.predict(MODEL, text) == text

            return one

        worked: dict[str, list[float]] = {}
        seconds = stage.size.of(0.1, 1.0, 1.0)
        shown = " shown to Flower"
        sides = {
            name: _repeated(hit(producer), seconds, worked.setdefault(name, []))
            for name, producer in (
                ("hit", quiet),
                (f"hit{shown}", shows),
                ("near hit", near),
                (f"near hit{shown}", near_shows),
            )
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 10, 20), tell=tell, warm_up=False)
    found: list[Comparison] = []
    for plain in ("hit", "near hit"):
        found.append(rounds.time(f"{plain}{shown}", plain, target=1.05))
        both, what = (worked[f"{plain}{shown}"], worked[plain]), "processor time"
        found.append(compared(f"{plain}{shown}, {what}", f"{plain}, {what}", *both, target=1.05))
    return found


def _repeated(operation: Callable[[], object], seconds: float, worked: list[float]) -> Side:
    """Return a side that repeats an operation for so long; the processor time of one goes to `worked`."""

    def side() -> tuple[float]:
        began, worked_before, count = time.perf_counter(), time.process_time(), 0
        while (elapsed := time.perf_counter() - began) < seconds:
            operation()
            count += 1
        worked.append((time.process_time() - worked_before) / count)
        return (elapsed / count,)

    return side


def many_hits(stage: Stage, tell: Tell) -> list[Comparison]:
    """`submit_many` of 1,000 that are cached, beside one pipeline of 1,000 GETs; per item.

    Fair: one thread, the same server and database, redis-py's pipeline without a transaction. All answers are compared.
    The very bytes that `submit_many` sends go over a raw socket too: what that takes is the server's.
    """
    stage.have(ECHO)
    known = fresh_texts(_MANY)
    producer, client = stage.producer, stage.client
    for pending in producer.submit_many(MODEL, known):
        pending.result(DEADLINE_S)
    client.mset({f"bench:{text}": text for text in known})
    expected = [text.encode() for text in known]
    requests, replies = _sent(stage, lambda through: [each.result() for each in through.submit_many(MODEL, known)])

    def hits(texts: list[str]) -> None:
        assert [pending.result() for pending in producer.submit_many(MODEL, texts)] == texts

    def gets(texts: list[str]) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for text in texts:
                pipeline.get(f"bench:{text}")
            assert pipeline.execute() == expected

    with closing(RawConnection(stage.server, 1)) as raw:

        def look_ups(texts: list[str]) -> None:
            del texts
            assert raw.exchange(requests, len(replies)) == replies

        sides = {
            "submit_many of 1,000 hits, per item": whole(hits, lambda: known),
            "redis-py pipeline of 1,000 GETs": whole(gets, lambda: known),
            "raw socket, their look-ups": whole(look_ups, lambda: known),
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 40, 150), tell=tell)
    ours, gets_name, raw_name = sides
    return [rounds.time(ours, gets_name, target=1.5), rounds.time(raw_name, gets_name)]


def _sent(stage: Stage, work: Callable[[Producer], object]) -> tuple[bytes, bytes]:
    """Return what a producer sends for its work, and what comes back."""
    with tapped(stage.server) as tap:
        through = settings_for(stage.server, cache_url=f"redis://{stage.server.host}:{tap.port}/1")
        with Producer(through) as producer:
            work(producer)  # opens connections, and asks which version is current
            tap.requests.clear()
            tap.replies.clear()
            work(producer)
            return b"".join(tap.requests), b"".join(tap.replies)
