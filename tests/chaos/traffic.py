"""A producer process that asks until it is told to stop: `python -m chaos.traffic SEED FACE HISTORY`.

Every request and every outcome is a line in HISTORY, written before anything else happens, so that a process that is
killed leaves what it knew. FACE is `sync` (threads) or `async` (tasks). It stops when its standard input ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import threading
import time
from typing import Any, Final

from producer import AsyncProducer, ForeseenError, Producer

#: Callers at once in a process.
CALLERS: Final = 8
#: Distinct inputs; the popular ones are asked for by many at once.
INPUTS: Final = 300
#: Longer than any recovery may take; who is not answered by then counts as hung.
TIMEOUT_S: Final = 45.0
MODEL: Final = "stamped@1"


class History:
    """A file of JSON lines; one write for each, so that a kill leaves whole lines."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers = itertools.count(1)
        self._process = f"{os.getpid()}"

    def name(self) -> str:
        """Return a name for a request."""
        return f"{self._process}-{next(self._numbers)}"

    def note(self, what: str, name: str, **more: Any) -> None:
        """Append a line."""
        line = json.dumps({"what": what, "name": name, "at": time.monotonic(), **more})
        os.write(self._descriptor, line.encode() + b"\n")


def request_of(chance: random.Random) -> dict[str, Any]:
    """Return an input, a popular one more often."""
    number = min(int(chance.paretovariate(0.6)), INPUTS)
    return {"number": number, "sleep_s": (number % 7) / 100}


def kind_of(chance: random.Random) -> str:
    """Return what to do next."""
    return chance.choices(
        ["predict", "submit", "detached", "hasty", "refresh", "invalidate", "purge"], [60, 20, 10, 4, 4, 1.8, 0.2]
    )[0]


def call_of(kind: str, request: dict[str, Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return the producer's method, and what it is called with."""
    match kind:
        case "predict":
            return "predict", (MODEL, request), {"timeout": TIMEOUT_S}
        case "hasty":
            return "predict", (MODEL, request), {"timeout": 0.01}
        case "refresh":
            return "predict", (MODEL, request), {"timeout": TIMEOUT_S, "refresh": True}
        case "submit" | "detached":
            return "submit", (MODEL, request), {}
        case "invalidate":
            return "invalidate", (MODEL, request), {}
        case _:
            return "purge", (MODEL,), {}


def outcome_of(value: Any) -> dict[str, Any]:
    """Return what to note of what a call returned."""
    return {"answer": value["answer"], "stamp": value["stamp"]} if isinstance(value, dict) else {}


def flight_of(pending: Any) -> str | None:
    """Return the token of the one flight that a submission joined; None if it joined none, or several."""
    tokens = pending.submission.tokens if pending is not None else []
    return tokens[0] if len(tokens) == 1 else None


class Asker:
    """One caller: what it asks, one after the other, and what it is told."""

    def __init__(self, seed: str, history: History) -> None:
        self._chance = random.Random(seed)
        self._history = history

    def next(self) -> tuple[str, str, dict[str, Any]]:
        """Note the next request; return its name, its kind and the input."""
        name, kind, request = self._history.name(), kind_of(self._chance), request_of(self._chance)
        self._history.note("asked", name, kind=kind, number=request["number"])
        return name, kind, request

    def submitted(self, name: str, pending: Any) -> None:
        """Note that a submission was acknowledged, and each time that it calls back."""
        self._history.note("submitted", name, source=pending.source)
        pending.add_done_callback(lambda _: self._history.note("called", name))

    def told(self, name: str, value: Any, pending: Any = None) -> None:
        """Note an outcome, and of which flight, if it is known to be of one."""
        if isinstance(value, ForeseenError):
            self._history.note("told", name, error=type(value).__name__, message=str(value))
        else:
            self._history.note("told", name, flight=flight_of(pending), **outcome_of(value))


def sync(seed: int, history: History) -> None:
    """Ask from threads, over one producer."""
    stopping = threading.Event()
    producer = Producer()

    def ask(asker: Asker) -> None:
        while not stopping.is_set():
            name, kind, request = asker.next()
            method, arguments, options = call_of(kind, request)
            pending = None
            try:
                value = getattr(producer, method)(*arguments, **options)
                if method == "submit":
                    pending = value
                    asker.submitted(name, pending)
                    value = pending.result(TIMEOUT_S) if kind == "submit" else None
            except ForeseenError as error:
                value = error
            asker.told(name, value, pending)

    threads = [threading.Thread(target=ask, args=(Asker(f"{seed} {n}", history),)) for n in range(CALLERS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    producer.close()


async def on_a_loop(seed: int, history: History) -> None:
    """Ask from tasks, over one producer."""
    stopping = asyncio.Event()

    async def ask(producer: AsyncProducer, asker: Asker) -> None:
        while not stopping.is_set():
            name, kind, request = asker.next()
            method, arguments, options = call_of(kind, request)
            pending = None
            try:
                value = await getattr(producer, method)(*arguments, **options)
                if method == "submit":
                    pending = value
                    asker.submitted(name, pending)
                    value = await pending.result(TIMEOUT_S) if kind == "submit" else None
            except ForeseenError as error:
                value = error
            asker.told(name, value, pending)

    async with AsyncProducer() as producer:
        asking = [asyncio.create_task(ask(producer, Asker(f"{seed} {n}", history))) for n in range(CALLERS)]
        await asyncio.to_thread(sys.stdin.read)
        stopping.set()
        await asyncio.gather(*asking)


if __name__ == "__main__":
    _, seed_text, face, path = sys.argv
    if face == "sync":
        sync(int(seed_text), History(path))
    else:
        asyncio.run(on_a_loop(int(seed_text), History(path)))
