"""A producer that asks without a pause, for `run.py`: on this machine, and the same text as `python -c` in a container.

It asks for the files of Python's own library, and for some of them again; after all of them, for the same with a line
more, so that there is always something to compute. Where it is told that a server is away, it asks again, as the docs
say. Four times a second it tells its counts so far, as a line of JSON. When its input closes it asks for nothing more
and waits for what is still open. Then it computes each of its answers itself, without foreseen, and compares.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producer import ForeseenError, PredictionTimeout, Producer
from workers.models.file_type import FileType

_MODEL = "file-type"
_THREADS = 4
_TELL_S = 0.25
#: Of one try.
_TIMEOUT_S = 60.0
#: Of one request, with all its tries: servers are away for seconds.
_PATIENCE_S = 90.0
_AGAIN_S = 0.25
_MAX_BYTES = 256 * 1024


@dataclass(frozen=True)
class Asked:
    """What is asked: a file, with as many lines more as the turn says."""

    path: Path
    turn: int

    def content(self) -> bytes:
        """Return it."""
        return self.path.read_bytes() + (f"\n# {self.turn}\n".encode() if self.turn else b"")


@dataclass
class Counts:
    """What was asked so far; threads change it under its lock."""

    asked: int = 0
    answered: int = 0
    failed: int = 0
    slowest_s: float = 0.0  # since it was last told
    checked: int | None = None
    errors: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    answers: dict[Asked, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, what: str) -> None:
        """Count a failure."""
        self.failed += 1
        self.errors.append(what)

    def tell(self) -> None:
        """Print the counts."""
        names = ("asked", "answered", "failed", "refused", "sources", "checked")
        with self.lock:
            counts = {name: getattr(self, name) for name in names}
            counts |= {"slowest_s": round(self.slowest_s, 3), "errors": self.errors[:3]}
            self.slowest_s = 0.0
            told = json.dumps(counts)
        print(told, flush=True)


def requests(files: list[Path], thread: int) -> Iterator[Asked]:
    """Yield a thread's share of the files, over and over, a little different each time; every third twice."""
    for turn in itertools.count():
        for index, path in enumerate(files[thread::_THREADS]):
            yield Asked(path, turn)
            if index % 3 == 0:
                yield Asked(path, turn)


def ask(producer: Producer, way: str, content: bytes) -> tuple[str | None, Any]:
    """Ask in one of the two ways; return the source, where that way tells it, and the answer."""
    if way == "predict":
        return None, producer.predict(_MODEL, content, timeout=_TIMEOUT_S)
    pending = producer.submit(_MODEL, content)
    return str(pending.source), pending.result(timeout=_TIMEOUT_S)


def ask_until_answered(producer: Producer, way: str, content: bytes, counts: Counts) -> tuple[str | None, Any]:
    """Ask, and again where the error says that this helps; but for a timeout, which would hide that nobody answers."""
    gives_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask(producer, way, content)
        except ForeseenError as error:
            if not error.retryable or isinstance(error, PredictionTimeout) or time.monotonic() > gives_up:
                raise
            with counts.lock:
                counts.refused[type(error).__name__] += 1
            time.sleep(_AGAIN_S)


def go_on_asking(producer: Producer, way: str, mine: Iterator[Asked], counts: Counts, closed: threading.Event) -> None:
    """Ask for one content after the other until the input is closed; what goes wrong is counted."""
    while not closed.is_set():
        asked, began = next(mine), time.monotonic()
        with counts.lock:
            counts.asked += 1
        try:
            source, answer = ask_until_answered(producer, way, asked.content(), counts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            with counts.lock:
                counts.fail(f"{type(error).__name__}: {error}")
            continue
        with counts.lock:
            counts.slowest_s = max(counts.slowest_s, time.monotonic() - began)
            if counts.answers.setdefault(asked, answer) == answer:
                counts.answered += 1
            else:
                counts.fail(f"two answers for one content: {counts.answers[asked]} and {answer}")
            if source is not None:
                counts.sources[source] += 1


def check(counts: Counts) -> None:
    """Compare each answer with what the model itself says, here."""
    model = FileType()
    model.load()
    for checked, (asked, answer) in enumerate(counts.answers.items(), 1):
        (truth,) = model.predict([asked.content()])
        with counts.lock:
            counts.checked = checked
            if truth.model_dump() != answer:
                counts.fail(f"{asked.path}, {asked.turn}: {answer}, which is {truth.model_dump()}")


def main() -> None:
    """Ask until the input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("predict", "submit"))
    way = parser.parse_args().way
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    files = [path for path in files if path.stat().st_size <= _MAX_BYTES]
    random.Random(0).shuffle(files)  # the same order in both, so that they ask for the same at about the same time
    counts, closed, ended = Counts(), threading.Event(), threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        closed.set()

    def tell() -> None:
        while not ended.wait(_TELL_S):
            counts.tell()

    with Producer() as producer:
        asking = [
            threading.Thread(target=go_on_asking, args=(producer, way, requests(files, number), counts, closed))
            for number in range(_THREADS)
        ]
        telling = threading.Thread(target=tell)
        for thread in (*asking, telling, threading.Thread(target=wait_for_the_end, daemon=True)):
            thread.start()
        for thread in asking:
            thread.join()
    try:
        check(counts)
    finally:
        ended.set()
        telling.join()
        counts.tell()


main()
