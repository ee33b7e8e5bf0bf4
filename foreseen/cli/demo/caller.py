"""One of the demo's producer processes: it asks when it is told to, and tells what it got.

Its pipe is its leash: when the other end closes, because the command ended or was killed, it ends at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from foreseen.settings import Settings
from producer import Producer, Source

__all__ = ["MODEL", "Answers", "AskAll", "Crowd", "Progress", "Ready", "run_caller"]

MODEL = "file-type"

#: Threads that ask at once in each process: enough to keep two workers busy, few enough for latencies to mean something.
_THREADS = 4
#: How often a pass tells how far it is, and looks whether anybody is left to tell.
_TELL_S = 0.1


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected, with its files read.

    Attributes:
        digests: SHA-256 of each content it is going to ask for: taken here, and of nothing that foreseen computed.
    """

    digests: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class AskAll:
    """Ask for every file of the share, a few at a time."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Ask for one content, all at the same moment.

    Attributes:
        content: what nobody has asked for before.
        size: how many ask.
        starts_at: when, by the clock that processes share (seconds since the epoch).
    """

    content: bytes
    size: int
    starts_at: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How many more requests have their answer."""

    count: int


@dataclass(slots=True)
class Answers:
    """What a pass brought.

    Attributes:
        sources: requests by how they were answered.
        latencies_s: from each call to its answer.
        outputs: the different answers, as JSON; only a crowd's are collected.
        errors: what went wrong, in words.
    """

    sources: Counter[Source] = field(default_factory=Counter[Source])
    latencies_s: list[float] = field(default_factory=list[float])
    outputs: set[str] = field(default_factory=set[str])
    errors: list[str] = field(default_factory=list[str])


def run_caller(pipe: Connection, settings: Settings, paths: Sequence[Path], crowd: int) -> None:
    """Serve the command at the other end of the pipe; the process's main function.

    Args:
        pipe: to the command.
        settings: of the demo's deployment.
        paths: this process's share of the files.
        crowd: the largest crowd that it will have to be a part of.
    """
    # If the server goes first, since the command was killed, nobody wants to read about it.
    logging.getLogger("foreseen").addHandler(logging.NullHandler())
    contents = [path.read_bytes() for path in paths]
    try:
        with Producer(settings) as producer, ThreadPoolExecutor(max(_THREADS, crowd)) as threads:
            pipe.send(Ready(frozenset(hashlib.sha256(content).digest() for content in contents)))
            while (order := pipe.recv()) is not None:
                answers = Answers()
                match order:
                    case Crowd(content, size, starts_at):
                        calls = [_asker(producer, [content], answers, starts_at, answers.outputs) for _ in range(size)]
                    case _:
                        calls = [_asker(producer, contents[start::_THREADS], answers) for start in range(_THREADS)]
                _tell(pipe, [threads.submit(call) for call in calls], answers)
    except (EOFError, OSError):  # the pipe; the producer's errors are foreseen's
        os._exit(1)  # threads that wait for an answer would hold up any other exit


def _asker(
    producer: Producer,
    contents: Sequence[bytes],
    answers: Answers,
    starts_at: float = 0.0,
    outputs: set[str] | None = None,
) -> Callable[[], None]:
    """Return what one thread does: ask for one content after the other, and note what comes."""

    def ask() -> None:
        time.sleep(max(0.0, starts_at - time.time()))
        for content in contents:
            began = time.perf_counter()
            try:
                pending = producer.submit(MODEL, content)  # `predict` would do; this also tells the source
                output = pending.result(timeout=60)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                answers.errors.append(f"{type(error).__name__}: {error}")
                return
            answers.latencies_s.append(time.perf_counter() - began)
            if outputs is not None:
                outputs.add(json.dumps(output, sort_keys=True))
            if pending.source is not None:
                counted.append(pending.source)

    counted: list[Source] = []
    sources.append(counted)
    return ask


def _tell(pipe: Connection, asking: Sequence[Future[None]], answers: Answers) -> None:
    """Tell how far the pass is until it is done, then tell what it brought."""
    told = 0
    open_ = set(asking)
    while open_:
        open_ = wait(open_, _TELL_S).not_done
        told, before = len(answers.latencies_s), told
        pipe.send(Progress(told - before))
        if pipe.poll():
            raise EOFError("nobody speaks during a pass: the other end is closed")
    for each in asking:
        each.result()
    pipe.send(answers)
