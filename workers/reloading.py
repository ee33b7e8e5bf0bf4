"""Serving what the modules with models hold now, without a restart: new versions are loaded before old ones go.

A pool of processes grows by one, which is forked from what was imported anew. Once that has loaded and warmed up the
new versions, the others end one after the other, each when it has finished what it computes, and new ones take their
place. In between, a message may come to a process that does not have its version, and goes back to the broker. A pool
of threads loads the new versions beside the old ones, and drops those once nothing computes with them.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from foreseen.errors import Misconfigured
from foreseen.modules import Given, expand
from workers.consuming import Consuming
from workers.heartbeat import Heartbeat, card_of
from workers.leases import Leases
from workers.pinning import pin
from workers.registry import Found, ModelClass, find_models
from workers.runtime import Runtime
from workers.serving import Life, Serving, State
from workers.succession import Succession

__all__ = ["Reloading", "find_anew"]

log = logging.getLogger("foreseen.worker")

#: What is never imported anew: it is at work.
_OURS: Final = frozenset({"foreseen", "producer", "workers"})


class Reloading:
    """One reload at a time; in the process that starts, on its event loop.

    Args:
        runtime: of that process.
        pool: Celery's.
        serving, heartbeat, succession, consuming, leases: of the worker.
    """

    def __init__(
        self,
        runtime: Runtime,
        pool: Any,
        serving: Serving,
        heartbeat: Heartbeat,
        succession: Succession,
        consuming: Consuming,
        leases: Leases,
    ) -> None:
        self._runtime = runtime
        self._pool: Any = pool
        self._serving = serving
        self._heartbeat = heartbeat
        self._succession = succession
        self._consuming = consuming
        self._leases = leases
        self._before: dict[str, ModelClass] = {}
        self._added: list[str] = []
        self._retired: list[str] = []
        self._old: set[int] = set()
        self._ended: set[int] = set()
        self._is_spared = False  # the collector leaves alone what was loaded, and is to leave alone what is loaded then
        self._next: Callable[[], None] | None = None

    def begin(self) -> dict[str, Any]:
        """Find models anew, and begin to serve them; return what changes, and what is wrong: then nothing does."""
        here = self._runtime
        if self._next is not None:
            return {"errors": {"": "a reload is under way: see `foreseen models`"}}
        try:
            found = pin(find_anew(here.settings.models, here.settings.serve), here.settings)
        except Misconfigured as error:
            return {"errors": {"": str(error)}}
        if found.errors:
            return {"errors": found.errors}
        self._before = dict(here.models)
        self._added = [model_id for model_id in found.models if model_id not in here.models]
        self._retired = [model_id for model_id in here.models if model_id not in found.models]
        told: dict[str, Any] = {"added": [*self._added], "retired": [*self._retired], "errors": {}}
        if not self._added and not self._retired:
            return told
        self._is_spared = gc.get_freeze_count() > 0
        gc.unfreeze()  # what has been loaded is let go of now, circles and all
        for model_id in self._added:
            self._serving.lives[model_id] = Life()
        new = {model_id: found.models[model_id] for model_id in self._added}
        if _has_processes(self._pool):
            here.models = {each: model for each, model in self._before.items() if each not in self._retired} | new
            self._old = {each.pid for each in self._processes()}
            self._ended = set()
            self._pool.grow(1)
            self._next = self._await_new
        else:
            here.models = self._before | new
            loading = threading.Thread(target=here.load, name="foreseen-reload", daemon=True)
            loading.start()
            self._next = self._await_new
        return told

    def tick(self) -> None:
        """Go on as far as possible; Celery's loop calls this again and again."""
        if self._next is not None:
            try:
                self._next()
            except Exception:
                log.exception("the reload failed; start the worker again")
                self._next = None

    def _await_new(self) -> None:
        states = [self._serving.lives[model_id].state for model_id in self._added]
        if State.FAILED in states:
            log.error("the reload is given up, and what was served stays: a new version could not be loaded, see above")
            self._give_up()
        elif State.LOADING not in states and (self._added or len(self._processes()) > len(self._old)):
            self._switch()

    def _switch(self) -> None:
        """Serve the new versions instead of the old ones, which go on for as long as something computes with them."""
        space = self._runtime.flights.space
        models = {each: model for each, model in self._runtime.models.items() if each not in self._retired}
        for model_id in self._retired:
            self._consuming.stop(space.queue(model_id))
        self._heartbeat.serve(
            [card_of(model, self._runtime.flights) for model in models.values()], self._successors(models)
        )
        self._succession.retire(list(models), self._retired)
        self._heartbeat.hurry()
        log.info(
            "reloaded: %s in the place of %s",
            ", ".join(self._added) or "nothing",
            ", ".join(self._retired) or "nothing",
        )
        if _has_processes(self._pool):
            self._end_soon(self._old)
            self._next = self._end_old
        else:
            self._next = self._unload

    def _successors(self, models: dict[str, ModelClass]) -> dict[str, str]:
        """Return for each new version the one whose place it takes as the current one, if it was that."""
        pairs = {}
        for model_id in self._added:
            name = models[model_id].name
            before = [each for each in self._retired if each.partition("@")[0] == name]
            beside = [each for each in self._added if each.partition("@")[0] == name]
            if len(before) == len(beside) == 1:
                pairs[model_id] = before[0].partition("@")[2]
        return pairs

    def _end_old(self) -> None:
        """End those that have nothing to compute, one after the other, each once the one before has its successor.

        The others end by themselves, once they have computed what they do. The first has its successor already.
        """
        pool = self._pool._pool  # noqa: SLF001 - the only way to one of its processes
        processes = self._processes()
        old = [each for each in processes if each.pid in self._old]
        if not old:
            self._finish()
            return
        new = len(processes) - len(old)
        loaded = min((self._serving.lives[each].processes for each in self._added), default=new)
        idle = [each for each in old if each.inqW_fd not in pool._busy_workers]  # noqa: SLF001 - billiard's own list
        if loaded >= new and idle and not any(each.pid in self._ended for each in old):
            idle[0].terminate_controlled()  # it waits in the system, and looks at nothing
            self._ended.add(idle[0].pid)

    def _end_soon(self, pids: set[int]) -> None:
        """Have processes end before they take another message; as many are missing then, but for one."""
        pool = self._pool._pool  # noqa: SLF001 - as above
        pool._processes -= 1  # noqa: SLF001 - the pool has its size again; of `shrink` nobody knows which it ends
        for pid in pids & {each.pid for each in self._processes()}:
            pool._poolctrl[pid].set()  # noqa: SLF001 - which it looks at before it takes the next

    def _unload(self) -> None:
        for model_id in [each for each in self._retired if not self._leases.holds(each)]:
            self._runtime.unload(model_id)
            self._retired.remove(model_id)
            self._serving.lives.pop(model_id, None)
        if not self._retired:
            self._finish()

    def _finish(self) -> None:
        for model_id in self._retired:
            self._serving.lives.pop(model_id, None)
        self._be_done()

    def _give_up(self) -> None:
        """Go on with what was served, and end the process that could not load the rest."""
        self._runtime.models = self._before
        if _has_processes(self._pool):
            new = {each.pid for each in self._processes()} - self._old
            self._end_soon(new)
            for each in self._processes():
                if each.pid in new and each.inqW_fd not in self._pool._pool._busy_workers:  # noqa: SLF001 - as above
                    each.terminate_controlled()
        for model_id in self._added:
            self._consuming.stop(self._runtime.flights.space.queue(model_id))
            self._runtime.unload(model_id)
            self._serving.lives.pop(model_id, None)
        self._be_done()

    def _be_done(self) -> None:
        self._next = None
        if self._is_spared:
            gc.collect()
            gc.freeze()
        self._heartbeat.hurry()

    def _processes(self) -> list[Any]:
        return [*self._pool._pool._pool] if _has_processes(self._pool) else []  # noqa: SLF001 - the only way to them


def find_anew(named: Sequence[str], serve: Sequence[str]) -> Found:
    """Import modules anew, with what lies beside them, and find their models; if one is wrong, all stay as they are.

    Raises:
        Misconfigured: as `find_models`.
    """
    with _without(named) as keep:
        found = find_models(named, serve)
        if not found.errors:
            keep()
    return found


@contextmanager
def _without(named: Sequence[str]) -> Generator[Callable[[], None]]:
    """Forget modules for the block; they come back after it, unless it says that the new ones are to be kept."""
    forgotten = {name: sys.modules[name] for name in _modules_beside(named)}
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    for name, module in forgotten.items():
        del sys.modules[name]
        # Bytecode stands for a source of its second and size: a change that keeps both would be served as it was.
        with suppress(OSError, TypeError):
            Path(getattr(module, "__cached__", None)).unlink()  # type: ignore[arg-type]
    importlib.invalidate_caches()
    python: Any = sys.implementation
    cache_tag, python.cache_tag = python.cache_tag, None  # which turns bytecode off, where it cannot be removed
    try:
        yield keep
    finally:
        python.cache_tag = cache_tag
        if not kept:
            for name in _modules_beside(named):
                del sys.modules[name]
            sys.modules.update(forgotten)


def _modules_beside(named: Sequence[str]) -> list[str]:
    """Return the names of the modules that are imported, of these and of the same package or directory."""
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    packages: set[str] = set()
    folders: set[Path] = set()
    names: set[str] = set()
    for given in _expanded(named):
        name = given.name.partition(":")[0]
        top, dot, _ = name.partition(".")
        if dot and top not in _OURS:
            packages.add(top)
            continue
        names.add(name)
        file = getattr(sys.modules.get(name), "__file__", None)
        if not dot and file and Path(file).parent not in installed:
            folders.add(Path(file).parent)
    return [
        name
        for name, module in list(sys.modules.items())
        if name in names
        or name.partition(".")[0] in packages
        or ("." not in name and name != "__main__" and _folder_of(module) in folders and name not in _OURS)
    ]


def _expanded(named: Sequence[str]) -> Iterator[Given]:
    for each in named:
        try:
            yield from expand(each)
        except Misconfigured:  # which `find_models` tells
            continue


def _folder_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).parent if isinstance(file, str) else None


def _has_processes(pool: Any) -> bool:
    return type(pool).__module__ == "celery.concurrency.prefork"
