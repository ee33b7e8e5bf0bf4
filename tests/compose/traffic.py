"""A producer that asks without a pause, for `run.py`: on this machine, and the same text as `python -c` in a container.

It asks for the files of Python's own library, and for some of them again; after all of them, for the same with a line
more, so that there is always something to compute. Four times a second it tells its counts so far, as a line of JSON.
When its input closes it asks for nothing more, waits for what is still open, and ends.
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

from producer import Producer

_MODEL = "file-type"
_THREADS = 4
_TELL_S = 0.25
_TIMEOUT_S = 60.0
_MAX_BYTES = 256 * 1024


@dataclass
class Counts:
    """What was asked so far; threads change it under its lock."""

    answered: int = 0
    failed: int = 0
    slowest_s: float = 0.0  # since it was last told
    errors: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self) -> None:
        """Print the counts."""
        with self.lock:
            counts = (self.answered, self.failed, round(self.slowest_s, 3), self.errors[:3], dict(self.sources))
            self.slowest_s = 0.0
        names = ("answered", "failed", "slowest_s", "errors", "sources")
        print(json.dumps(dict(zip(names, counts, strict=True))), flush=True)


def contents(files: list[Path], thread: int) -> Iterator[bytes]:
    """Yield a thread's share of the files, over and over, a little different each time; every third twice."""
    for turn in itertools.count():
        for index, path in enumerate(files[thread::_THREADS]):
            content = path.read_bytes() + (f"\n# {turn}\n".encode() if turn else b"")
            yield content
            if index % 3 == 0:
                yield content


def ask(producer: Producer, way: str, content: bytes) -> tuple[str | None, object]:
    """Ask in one of the two ways; return the source, where that way tells it, and the label."""
    if way == "predict":
        return None, producer.predict(_MODEL, content, timeout=_TIMEOUT_S)["label"]
    pending = producer.submit(_MODEL, content)
    return str(pending.source), pending.result(timeout=_TIMEOUT_S)["label"]


def go_on_asking(producer: Producer, way: str, mine: Iterator[bytes], counts: Counts, closed: threading.Event) -> None:
    """Ask for one content after the other until the input is closed; what goes wrong is counted."""
    last: tuple[bytes, object] | None = None
    while not closed.is_set():
        content, began = next(mine), time.monotonic()
        source: str | None = None
        wrong = ""
        try:
            source, label = ask(producer, way, content)
            if last is not None and last[0] == content and last[1] != label:
                wrong = f"two answers for one content: {last[1]} and {label}"
            last = content, label
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            wrong = f"{type(error).__name__}: {error}"
        with counts.lock:
            counts.answered += not wrong
            counts.failed += bool(wrong)
            counts.errors += [wrong] if wrong else []
            counts.slowest_s = max(counts.slowest_s, time.monotonic() - began)
            if source is not None:
                counts.sources[source] += 1


def wait_for_the_end(closed: threading.Event) -> None:
    """Tell when the input is closed."""
    sys.stdin.read()
    closed.set()


def main() -> None:
    """Ask until the input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("predict", "submit"))
    way = parser.parse_args().way
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    files = [path for path in files if path.stat().st_size <= _MAX_BYTES]
    random.Random(0).shuffle(files)  # the same order in both, so that they ask for the same at about the same time
    counts, closed = Counts(), threading.Event()
    with Producer() as producer:
        threads = [
            threading.Thread(target=go_on_asking, args=(producer, way, contents(files, number), counts, closed))
            for number in range(_THREADS)
        ]
        watcher = threading.Thread(target=wait_for_the_end, args=(closed,), daemon=True)
        for thread in (*threads, watcher):
            thread.start()
        while any(thread.is_alive() for thread in threads):
            counts.tell()
            time.sleep(_TELL_S)
    counts.tell()


main()
