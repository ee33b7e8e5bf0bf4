"""The demo's producer processes, seen from the command."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from foreseen.cli.demo.caller import Answers, AskAll, Crowd, Progress, Ready, run_caller
from foreseen.cli.interrupt import out_of_reach
from foreseen.errors import ForeseenError
from foreseen.settings import Settings

__all__ = ["CallerFailed", "Callers"]

#: How often whoever waits looks after other things.
_TICK_S = 0.2
#: From the order to the moment at which a crowd asks: all have heard of it by then.
_HERALD_S = 0.03
#: A process that was told to end, or killed, is gone within this.
_END_S = 3.0


class CallerFailed(ForeseenError):
    """A producer process ended, or a request of its failed. The message says which."""


class Callers:
    """Several processes that ask. They start as `with` begins and are gone when it ends.

    Args:
        settings: of the demo's deployment.
        shares: of files, one for each process.
        crowd: how many ask at once in the largest crowd.
        check: called now and then while answers are awaited; raises if something else went wrong.
    """

    def __init__(
        self, settings: Settings, shares: Sequence[Sequence[Path]], crowd: int, check: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._shares = shares
        self._crowd = crowd
        self._check = check
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        context = get_context("spawn")  # a process of its own each, as applications are
        largest = math.ceil(self._crowd / len(self._shares))
        try:
            with out_of_reach():
                for share in self._shares:
                    here, there = context.Pipe()
                    arguments = (there, self._settings, share, largest)
                    process = context.Process(target=run_caller, args=arguments, daemon=True)
                    process.start()
                    there.close()
                    self._processes.append(process)
                    self._pipes.append(here)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for pipe in self._pipes:
                with suppress(OSError):
                    pipe.send(None)
            self._join()
        self._end()

    def ready(self) -> int:
        """Wait until all are connected; return how many different contents they are going to ask for."""
        told = self._gather(lambda _: None)
        return len(frozenset[bytes]().union(*(each.digests for each in told if isinstance(each, Ready))))

    def ask_all(self, progress: Callable[[int], None]) -> list[Answers]:
        """Have everybody ask for the whole share, at once; `progress` hears how many more were answered."""
        for pipe in self._pipes:
            pipe.send(AskAll())
        return self._answers(progress)

    def crowd(self, content: bytes, progress: Callable[[int], None]) -> tuple[list[Answers], float]:
        """Have a crowd, spread over all processes, ask for one content; return also when it began (`time.time`)."""
        starts_at = time.time() + _HERALD_S
        size, more = divmod(self._crowd, len(self._pipes))
        for index, pipe in enumerate(self._pipes):
            pipe.send(Crowd(content, size + (index < more), starts_at))
        return self._answers(progress), starts_at

    def _answers(self, progress: Callable[[int], None]) -> list[Answers]:
        return [each for each in self._gather(progress) if isinstance(each, Answers)]

    def _gather(self, progress: Callable[[int], None]) -> list[Ready | Answers]:
        """Wait until each process has told one thing other than progress.

        Raises:
            CallerFailed: one ended, or a request of its failed.
        """
        told: list[Ready | Answers] = []
        waiting = set(self._pipes)
        while waiting:
            self._check()
            for pipe in wait(list(waiting), _TICK_S):
                assert isinstance(pipe, Connection)  # noqa: S101 - for the type checker: nothing else is waited for
                try:
                    said: Progress | Ready | Answers = pipe.recv()
                except EOFError:
                    raise CallerFailed("a producer process ended by itself") from None
                if isinstance(said, Progress):
                    progress(said.count)
                    continue
                if isinstance(said, Answers) and said.errors:
                    raise CallerFailed(f"{len(said.errors)} requests failed; the first with {said.errors[0]}")
                told.append(said)
                waiting.discard(pipe)
        return told

    def _join(self) -> None:
        deadline = time.monotonic() + _END_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))

    def _end(self) -> None:
        """Kill what still runs: nothing of theirs is worth keeping."""
        for process in self._processes:
            process.kill()
        self._join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
