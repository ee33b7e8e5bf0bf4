"""The course of `foreseen up`: start everything, keep it running, end it in good order."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from foreseen.cache import Cache
from foreseen.cli.interrupt import impatience
from foreseen.cli.up.flower import LOGIN_VARIABLE, Flower
from foreseen.cli.up.log_lines import LogLines
from foreseen.cli.up.options import Options
from foreseen.cli.up.pointers import Pointers
from foreseen.cli.up.report import Report
from foreseen.cli.up.served import BadModels, Inspected, inspect
from foreseen.cli.up.server import Place, server_for
from foreseen.cli.up.service import Kept, Service, ServiceFailed
from foreseen.cli.up.worker import Serving, start_worker
from foreseen.errors import Misconfigured
from foreseen.flights import Flights
from foreseen.modules import Given, environment_of, expand
from foreseen.settings import Settings

if TYPE_CHECKING:
    from foreseen.cli.up.changes import Changes

__all__ = ["run"]

#: Between looks at the processes.
_TICK_S: Final = 0.1
#: Between tries to make the version that is served here the current one.
_POINTER_S: Final = 2.0
#: After this somebody wonders. A model that loads its weights can take longer.
_PATIENCE_S: Final = 30.0
#: Flower has nothing to finish.
_FLOWER_STOP_S: Final = 3.0
_WARNINGS: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})
#: Flower warns whenever a worker does not answer one of its questions, as none does that has just ended.
_ERRORS: Final = frozenset({"ERROR", "CRITICAL"})


def run(options: Options, settings: Settings, report: Report) -> None:
    """Run everything, until `Interrupted` is raised.

    Raises:
        BadModels: a module cannot be served.
        ServiceFailed: the worker or Flower does not come up.
        Misconfigured, BrokerUnavailable, CacheUnavailable: there is no server, or it ended.
    """
    urls = {"FORESEEN_BROKER_URL": settings.broker_url, "FORESEEN_CACHE_URL": settings.cache_url}
    environment = {**os.environ, **urls}
    environment.pop(LOGIN_VARIABLE, None)  # Flower's alone
    modules = _expanded(options.named)  # what cannot be meant is told in any case
    with ExitStack() as stack:
        stack.callback(report.settled)
        report.starting("looking at the models")
        # What cannot be served is told before anything is started; where a change may mend it, that is waited for.
        first = None if options.reload else inspect(modules, _environment_for(modules, environment))
        report.starting("starting the server, the worker and Flower")
        place = stack.enter_context(server_for(settings))
        cache = Cache(settings)
        stack.callback(cache.close)
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="foreseen-", ignore_cleanup_errors=True)))
        pointers = Pointers(cache, Flights(settings))
        up = _Up(options, environment, first, temporary, place, pointers, report)
        stack.callback(up.close)
        up.run()


def _expanded(named: Sequence[str]) -> list[Given]:
    return [given for each in named for given in expand(each)]


def _environment_for(modules: Sequence[Given], base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of what looks at these modules or serves them."""
    return environment_of(modules, base) | {"FORESEEN_MODELS": ",".join(each.name for each in modules)}


class _Up:
    """Everything that runs, but the server."""

    def __init__(
        self,
        options: Options,
        base: dict[str, str],
        inspected: Inspected | None,
        temporary: Path,
        place: Place,
        pointers: Pointers,
        report: Report,
    ) -> None:
        self._options = options
        self._base = base
        self._inspected = inspected
        self._temporary = temporary
        self._place = place
        self._pointers = pointers
        self._report = report
        self._serving = Serving((), pointers)
        self._changes: Changes | None = None
        self._was_up = False
        self._is_told = False
        self._looked_at = 0.0
        self._patient_until = time.monotonic() + _PATIENCE_S
        self._worker = Kept("the worker", self._start_worker, self._is_serving, report.problem)
        self._flower: Kept | None = None
        if (flower := options.flower) is not None:
            self._flower = Kept("Flower", partial(self._start_flower, flower), flower.answers, report.problem)

    def run(self) -> None:
        """Keep everything running."""
        while True:
            self._place.check()
            if self._flower is not None:
                self._flower.tick()
            self._reload()
            self._tick_worker()
            if self._worker.is_ready and (self._flower is None or self._flower.is_ready):
                self._tell()
            elif not self._was_up and time.monotonic() > self._patient_until:
                self._patient_until = math.inf
                self._report.note(f"not everything is ready after {_PATIENCE_S:g} s; --verbose shows all of the logs")
            time.sleep(_TICK_S)

    def close(self) -> None:
        """End the worker, which may finish what it computes, then Flower."""
        self._report.settled()
        timeout_s = self._options.stop_timeout_s
        with impatience() as impatient:
            self._report.note(
                f"\nEnding: the worker may finish what it computes, for {timeout_s:g} s (Ctrl-C: at once)"
            )
            if not self._worker.stop(timeout_s, impatient):
                self._report.note("The worker did not finish in time and was killed.")
            if self._flower is not None:
                self._flower.stop(_FLOWER_STOP_S, impatient)
            if self._changes is not None:
                self._changes.close()

    def _reload(self) -> None:
        """Start the worker anew if code has changed."""
        changed = self._changes.take() if self._changes is not None else []
        if changed:
            names = ", ".join(sorted({path.name for path in changed}))
            self._report.note(f"{names} changed: the worker finishes what it computes and starts again")
        elif self._serving.is_other_code():  # that was saved between the look at it and the worker's import
            self._report.note("code changed while the worker started: it starts again")
        else:
            return
        self._worker.renew(self._options.stop_timeout_s)

    def _tick_worker(self) -> None:
        try:
            self._worker.tick()
        except (Misconfigured, ServiceFailed) as error:
            if not self._options.reload:
                raise
            if isinstance(error, BadModels):
                self._watch(error.directories)
            self._report.settled()
            self._report.problem(str(error))
            self._report.note("waiting for a change of a .py file")

    def _start_worker(self) -> Service:
        inspected, self._inspected = self._inspected, None  # code may have changed when it is started again
        modules = _expanded(self._options.named)  # a directory may hold others by now
        environment = _environment_for(modules, self._base)
        models, directories = inspected or inspect(modules, environment)
        self._watch(directories)
        self._serving = serving = Serving(models, self._pointers)
        self._is_told = False
        process = start_worker(self._options.concurrency, environment, self._temporary)
        return self._service("worker", process, _WARNINGS, serving.hear)

    def _is_serving(self) -> bool:
        return self._serving.is_ready()

    def _start_flower(self, flower: Flower) -> Service:
        process = flower.start(self._base)
        return self._service("flower", process, _ERRORS, hear=len)  # nothing in it that matters

    def _service(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        shown: frozenset[str],
        hear: Callable[[str], object],
    ) -> Service:
        lines = LogLines(None if self._options.verbose else shown)

        def heard(line: str) -> None:
            hear(line)
            if (chosen := lines.choose(line)) is not None:
                self._report.log(name, chosen)

        return Service(process, heard)

    def _watch(self, directories: frozenset[Path]) -> None:
        """Watch these directories, if any are to be watched."""
        if not self._options.reload or (self._changes is not None and self._changes.directories == directories):
            return
        from foreseen.cli.up.changes import Changes

        if self._changes is not None:
            self._changes.close()
        self._changes = Changes(directories, self._options.watched)

    def _tell(self) -> None:
        """Tell once that it is up, and what of that has changed since."""
        if not self._is_told:
            self._is_told = True
            self._report.settled()
            if self._was_up:
                self._report.note(f"up again, with {', '.join(each.model_id for each in self._serving.models)}")
            else:
                self._was_up = True
                self._tell_all()
            for name, current in self._serving.elsewhere.items():
                self._report.note(
                    f"{name} means {name}@{current}, which another worker serves: ask for {self._serving.named(name)}"
                )
        if time.monotonic() - self._looked_at > _POINTER_S:
            self._looked_at = time.monotonic()
            for name in self._serving.moved():
                self._report.note(f"{name} means {self._serving.named(name)} now")

    def _tell_all(self) -> None:
        options, models = self._options, self._serving.models
        worker = f"Celery {version('celery')}, {options.concurrency} process{'es' * (options.concurrency > 1)}"
        if options.reload:
            watched = ", ".join([
                *sorted(map(str, self._changes.directories if self._changes is not None else ())),
                *(f"{each} and below" for each in options.watched),
            ])  # fmt: skip
            worker += f"; starts again when a .py file changes in {watched}" if watched else "; nothing to watch"
        self._report.summary(self._place.told, models, self._serving.broken, worker, options.flower)
        python = Path(sys.executable)
        shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
        self._report.how_to_ask(str(shown), options.exports, options.variables, models[0])
