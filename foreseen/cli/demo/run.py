"""The demo's course: a server, a worker, callers, three passes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from foreseen.cache import Cache
from foreseen.cli.demo.caller import MODEL, Answers
from foreseen.cli.demo.callers import Callers
from foreseen.cli.demo.figures import Figures, Pass, computations, summarize
from foreseen.cli.demo.files import find_input, shares
from foreseen.cli.demo.report import Report
from foreseen.cli.demo.worker import Worker
from foreseen.embedded import EmbeddedServer
from foreseen.keys import KeySpace
from foreseen.settings import Settings

__all__ = ["run"]

_WORKER_PROCESSES = 2
_ROUNDS = 10
_CROWD = 100


def run(files: int, processes: int, report: Report) -> Figures:
    """Run the demo.

    Args:
        files: how many to ask for.
        processes: how many ask.
        report: hears how far it is.

    Raises:
        WorkerFailed, CallerFailed: a process of the demo ended, or a request failed.
        Misconfigured, CacheUnavailable: the server did not start.
    """
    with ExitStack() as stack:
        # Its directory holds the worker's log, too: it goes with the server, even if this process is killed.
        server = stack.enter_context(EmbeddedServer())
        settings = Settings(broker_url=server.url(0), cache_url=server.url(1), models=("workers.models.file_type",))
        worker = stack.enter_context(Worker(settings, _WORKER_PROCESSES, server.directory))
        report.server(server.url(0), _WORKER_PROCESSES)
        chosen = find_input(files, Path.cwd())
        report.input(chosen, processes)
        dealt = shares(chosen.paths, processes)
        with report.starting():
            callers = stack.enter_context(Callers(settings, dealt, _CROWD, worker.check))
            model_id = f"{MODEL}@{worker.ready(MODEL)}"
            distinct = callers.ready()
        cache = Cache(settings)
        stack.callback(cache.close)
        course = _Course(callers, cache, KeySpace(settings.namespace), model_id, report)
        with report.passes():
            requests = sum(map(len, dealt))
            cold = course.everything("cold", requests, distinct, expected=distinct)
            warm = course.everything("warm", requests, distinct, expected=0)
            herd, disagreeing = course.herd(chosen.paths[0].read_bytes())
    return Figures([cold, warm, herd], _ROUNDS, disagreeing)


class _Course:
    """The passes, each with what workers noted meanwhile."""

    def __init__(self, callers: Callers, cache: Cache, space: KeySpace, model_id: str, report: Report) -> None:
        self._callers = callers
        self._cache = cache
        self._space = space
        self._model_id = model_id
        self._report = report

    def everything(self, name: str, requests: int, distinct: int, *, expected: int) -> Pass:
        """Have all callers ask for all their files."""
        before = self._computations()
        with self._report.one_pass(name, requests) as progress:
            began = time.perf_counter()
            told = self._callers.ask_all(progress)
            wall_s = time.perf_counter() - began
        computed = self._computations() - before
        return summarize(name, told, distinct=distinct, expected=expected, computed=computed, wall_s=wall_s)

    def herd(self, content: bytes) -> tuple[Pass, int]:
        """Have a crowd ask for one new content, round after round; return also in how many the answers differed."""
        before, wall_s, disagreeing = self._computations(), 0.0, 0
        told: list[Answers] = []
        with self._report.one_pass("herd", _ROUNDS * _CROWD) as progress:
            for _ in range(_ROUNDS):
                never_asked = content + f"\n# {uuid.uuid4()}\n".encode()
                answers, began = self._callers.crowd(never_asked, progress)
                wall_s += time.time() - began
                disagreeing += _differ(answers)
                told += answers
        computed = self._computations() - before
        herd = summarize("herd", told, distinct=_ROUNDS, expected=_ROUNDS, computed=computed, wall_s=wall_s)
        return herd, disagreeing

    def _computations(self) -> int:
        return computations(self._cache, self._space, self._model_id)


def _differ(answers: Sequence[Answers]) -> bool:
    return len(set[str]().union(*(each.outputs for each in answers))) != 1
