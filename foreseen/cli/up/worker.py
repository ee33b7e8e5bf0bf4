"""The worker of `foreseen up`: what it serves, and whether it does so by now."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from foreseen.cli import leash
from foreseen.cli.up.pointers import Pointers
from foreseen.cli.up.served import Served
from foreseen.errors import CacheUnavailable

__all__ = ["Serving", "start_worker"]

#: What a worker's processes say of a model (`workers.runtime`), and what Celery says when it takes work.
_LOADED: Final = re.compile(r"(\S+@\S+) (is loaded|could not be (?:loaded|warmed up))$")
_READY: Final = re.compile(r"\S+@\S+ ready\.$")


def start_worker(concurrency: int, environment: Mapping[str, str], temporary: Path) -> subprocess.Popen[bytes]:
    """Start `celery -A workers worker` here, with a name that no other worker of this machine has."""
    # There is nobody to greet: saying so takes Celery a second.
    arguments = ["worker", "--pool=prefork", f"--concurrency={concurrency}", "--loglevel=INFO"]
    arguments += ["--without-mingle", "--without-gossip", f"--hostname=up-{os.getpid()}@%h"]
    legible = {**environment, "FORESEEN_LOG_FORMAT": "text"}  # `hear` reads it
    return leash.start_celery(arguments, legible, Path.cwd(), subprocess.PIPE, temporary)


class Serving:
    """One run of the worker, as its log and the cache server tell of it.

    Args:
        models: that it is to serve.
        pointers: to be moved once it does.
    """

    def __init__(self, models: Sequence[Served], pointers: Pointers) -> None:
        self.models = models
        self.broken: set[str] = set()
        self.elsewhere: dict[str, str] = {}
        self._pointers = pointers
        self._takes_work = False
        self._loaded: set[str] = set()

    def hear(self, line: str) -> None:
        """Take in a line of its log."""
        if matched := _LOADED.search(line):
            self._loaded.add(matched[1])
            if matched[2] != "is loaded":
                self.broken.add(matched[1])
        elif _READY.search(line):
            self._takes_work = True

    def is_ready(self) -> bool:
        """Whether it takes work, has tried to load each model, and producers can find them."""
        if not self._takes_work or any(each.model_id not in self._loaded for each in self.models):
            return False
        with suppress(CacheUnavailable):  # it is looked at again
            if self._pointers.published(each for each in self.models if each.model_id not in self.broken):
                self.elsewhere = self._pointers.move(self.models)
                return True
        return False

    def is_other_code(self) -> bool:
        """Whether it serves what it was not asked to: another version, of a file that has changed meanwhile."""
        return self._takes_work and not self._loaded <= {each.model_id for each in self.models}

    def moved(self) -> list[str]:
        """Try again to move the pointers that were left to others; return the names for which that is done."""
        before = self.elsewhere
        if before:
            with suppress(CacheUnavailable):
                self.elsewhere = self._pointers.move(self.models)
        return [name for name in before if name not in self.elsewhere]

    def named(self, name: str) -> str:
        """Return the `name@version` that is served here."""
        return next(each.model_id for each in self.models if each.name == name)
