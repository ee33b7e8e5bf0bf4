"""A producer process that asks steadily until its standard input ends: `python -m soak.load FACE PER_SECOND SEED`.

Half of its inputs were never asked for before and the other half are popular. At its end it says what it did, as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from producer import AsyncProducer, ForeseenError, Producer

#: At once; each waits for its turn, so that the load is the same however fast answers come.
CALLERS: Final = 8
POPULAR: Final = 100
TIMEOUT_S: Final = 30.0
MODEL: Final = "stamped@1"


class Caller:
    """What one caller asks, and when.

    Args:
        chance: draws it.
        pace_s: between two requests, on average.
    """

    def __init__(self, chance: random.Random, pace_s: float) -> None:
        self._chance = chance
        self._pace_s = pace_s
        self.done: Counter[str] = Counter()

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before each request, so that their number does not depend on how fast answers come.

        All callers ask at the same moments: so pools of connections soon are as large as they ever get.
        """
        while True:
            yield self._pace_s - time.monotonic() % self._pace_s

    def call(self) -> tuple[str, str, tuple[Any, ...], dict[str, Any]]:
        """Return a kind, the producer's method, and what it is called with."""
        kinds = {"predict": 70, "submit": 12, "detached": 10, "hasty": 4, "refresh": 2, "invalidate": 2}
        kind = self._chance.choices(list(kinds), list(kinds.values()))[0]
        # Of what is invalidated a mark stays for a day: of ever new inputs, ever more marks.
        is_popular = kind == "invalidate" or self._chance.random() < 0.5
        number = self._chance.randrange(POPULAR) if is_popular else self._chance.randrange(10**12)
        request = {"number": number, "sleep_s": 0.002}
        options = {"timeout": 0.001 if kind == "hasty" else TIMEOUT_S, "refresh": kind == "refresh"}
        match kind:
            case "submit" | "detached":
                return kind, "submit", (MODEL, request), {}
            case "invalidate":
                return kind, "invalidate", (MODEL, request), {}
            case _:
                return kind, "predict", (MODEL, request), options

    def note(self, kind: str, name: str) -> None:
        """Count an outcome; who gives up in haste gets what he asked for."""
        self.done["gave up" if (kind, name) == ("hasty", "PredictionTimeout") else name] += 1


def sync(callers: list[Caller]) -> None:
    """Ask from threads, over one producer."""
    stopping = threading.Event()

    def ask(producer: Producer, caller: Caller) -> None:
        for pause_s in caller.pauses():
            if stopping.wait(pause_s):
                return
            kind, method, arguments, options = caller.call()
            outcome = "answered"
            try:
                value = getattr(producer, method)(*arguments, **options)
                if kind == "submit":
                    value.result(TIMEOUT_S)
            except ForeseenError as error:
                outcome = type(error).__name__  # not the error: kept, it and this frame would keep each other
            caller.note(kind, outcome)

    with Producer() as producer:
        threads = [threading.Thread(target=ask, args=(producer, caller)) for caller in callers]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopping.set()
        for thread in threads:
            thread.join()


async def on_a_loop(callers: list[Caller]) -> None:
    """Ask from tasks, over one producer."""
    stopping = asyncio.Event()

    async def ask(producer: AsyncProducer, caller: Caller) -> None:
        for pause_s in itertools.takewhile(lambda _: not stopping.is_set(), caller.pauses()):
            await asyncio.sleep(pause_s)
            kind, method, arguments, options = caller.call()
            outcome = "answered"
            try:
                value = await getattr(producer, method)(*arguments, **options)
                if kind == "submit":
                    await value.result(TIMEOUT_S)
            except ForeseenError as error:
                outcome = type(error).__name__  # not the error: kept, it and this frame would keep each other
            caller.note(kind, outcome)

    async with AsyncProducer() as producer:
        asking = [asyncio.create_task(ask(producer, caller)) for caller in callers]
        await asyncio.to_thread(sys.stdin.read)
        stopping.set()
        await asyncio.gather(*asking)


def main() -> None:
    """Ask until told to stop; say what was done."""
    _, face, per_second, seed = sys.argv
    began = time.monotonic()
    pace_s = CALLERS / float(per_second)
    callers = [Caller(random.Random(f"{seed} {n}"), pace_s) for n in range(CALLERS)]
    if face == "sync":
        sync(callers)
    else:
        asyncio.run(on_a_loop(callers))
    done: Counter[str] = sum((caller.done for caller in callers), Counter())
    print(json.dumps({"seconds": time.monotonic() - began, "done": done}))


if __name__ == "__main__":
    main()
