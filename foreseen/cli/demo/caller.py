"""One of the demo's producer processes: it asks when it is told to, and tells what it got.

Its pipe is its leash: when the other end closes, because the command ended or was killed, it ends at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from foreseen.errors import ForeseenError
from foreseen.settings import Settings
from producer import Producer, Source

__all__ = ["MODEL", "Answers", "AskAll", "Crowd", "Progress", "Ready", "run_caller"]

MODEL = "file-type"

#: Threads that ask at once in each process: enough to keep two workers busy, and few, so that latencies are theirs.
_THREADS = 4
#: How often a pass tells how far it is, and looks whether anybody is left to tell.
_TELL_S = 0.1
#: No answer takes this long, not even where a machine is slow and busy.
_TIMEOUT_S = 60.0


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
        answered: of each request, how it was answered and how long that took, in seconds.
        outputs: the different answers, as JSON; only a crowd's are collected.
        errors: what went wrong, in words.
    """

    answered: list[tuple[Source | None, float]] = field(default_factory=list[tuple[Source | None, float]])
    outputs: set[str] = field(default_factory=set[str])
    errors: list[str] = field(default_factory=list[str])


def run_caller(pipe: Connection, settings: Settings, paths: Sequence[Path], crowd: int) -> None:
    """Serve the command at the other end of the pipe; the process's main function.

    Args:
        pipe: to the command.
        settings: of the demo's deployment.
        paths: this process's share of the files.
        crowd: the largest crowd that it will have to be.
    """
    # If the server goes first, since the command was killed, nobody wants to read about it.
    logging.getLogger("foreseen").addHandler(logging.NullHandler())
    try:
        contents = [path.read_bytes() for path in paths]
        with Producer(settings) as producer, ThreadPoolExecutor(max(_THREADS, crowd)) as threads:
            _serve(pipe, producer, threads, contents)
    except (ForeseenError, OSError) as error:
        with suppress(OSError):  # killed, the command cannot hear that its server is gone, too
            pipe.send(Answers(errors=[_words(error)]))


def _serve(pipe: Connection, producer: Producer, threads: ThreadPoolExecutor, contents: Sequence[bytes]) -> None:
    """Do what the command says until it says None."""
    try:
        pipe.send(Ready(frozenset(hashlib.sha256(content).digest() for content in contents)))
        while (order := pipe.recv()) is not None:
            answers = Answers()
            match order:
                case Crowd():
                    calls = [partial(_join_in, producer, order, answers)] * order.size
                case _:
                    calls = [partial(_ask, producer, contents[n::_THREADS], answers) for n in range(_THREADS)]
            _tell(pipe, [threads.submit(call) for call in calls], answers)
    except (EOFError, OSError):
        os._exit(1)  # nobody is there to tell, and threads that wait for an answer would hold up any other exit


def _ask(producer: Producer, contents: Sequence[bytes], answers: Answers) -> Any:
    """Ask for one content after the other; return the last answer."""
    output = None
    try:
        for content in contents:
            began = time.perf_counter()
            pending = producer.submit(MODEL, content)  # `predict` would do; this also tells the source
            output = pending.result(timeout=_TIMEOUT_S)
            answers.answered.append((pending.source, time.perf_counter() - began))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        answers.errors.append(_words(error))
    return output


def _join_in(producer: Producer, crowd: Crowd, answers: Answers) -> None:
    time.sleep(max(0.0, crowd.starts_at - time.time()))
    answers.outputs.add(json.dumps(_ask(producer, [crowd.content], answers), sort_keys=True))


def _tell(pipe: Connection, asking: Sequence[Future[Any]], answers: Answers) -> None:
    """Tell how far the pass is until it is done, then tell what it brought."""
    told = 0
    open_ = set(asking)
    while open_:
        open_ = wait(open_, _TELL_S).not_done
        if pipe.poll():
            raise EOFError("nobody speaks during a pass: the other end is closed")
        before, told = told, len(answers.answered)
        pipe.send(Progress(told - before))
    pipe.send(answers)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
