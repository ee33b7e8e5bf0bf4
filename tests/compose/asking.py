"""A producer process that asks, as `traffic.py` does, and what it has told."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from deployment import PATIENCE_S, Wrong

__all__ = ["Asking", "Told"]

#: To compute again, without foreseen, what has been answered: some milliseconds each, of which there may be many.
_CHECK_S = 900


@dataclass(frozen=True)
class Told:
    """What a producer has told so far.

    Attributes:
        asked: requests begun.
        answered: of these, those that have their answer.
        failed: of these, those that never get one, or had a wrong one.
        refused: how often one was told that a server is away, by the error's name, and asked again.
        sources: how answers came, where that is known.
        checked: answers that were compared with the truth, at the end; None before.
        errors: the first of what went wrong.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    checked: int | None = None
    errors: Sequence[str] = ()


class Asking:
    """A producer process that asks as long as `with` lasts; `traffic.py` says what.

    Args:
        name: for messages.
        command: that starts it.
        environment: of the command.
    """

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.name = name
        self.told = Told()
        self.slowest_s: list[tuple[float, float]] = []  # when it was told, and the slowest answer since it last was
        self._command = command
        self._environment = environment
        self._said: list[str] = []

    def __enter__(self) -> Self:
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(self._command, env=self._environment, text=True, **streams)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._hear, self._hear_errors)]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.finish()

    def stop(self) -> None:
        """Have it ask for nothing more; it waits for what is open, then checks what it was answered."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def finish(self) -> int:
        """Wait until it has checked all; return its exit status."""
        self.stop()
        status = self._process.wait(_CHECK_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return status

    def has_an_answer(self) -> bool:
        """Tell whether it has one; raises `Wrong` if it has ended by itself."""
        self.check()
        return self.told.answered > 0

    def check(self) -> None:
        """Raise `Wrong` if it has ended by itself."""
        if self._process.poll() is not None:
            raise Wrong(f"the producer {self.name} ended by itself:\n{''.join(self._said[-20:])}")

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self.slowest_s.append((time.monotonic(), told.pop("slowest_s")))
            self.told = Told(**told)

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        self._said += self._process.stderr
