"""Models that do what a test asks of them, and leave a line in the record for each item that they begin."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

from served.record import record
from workers import Batching, CachePolicy, Model

_computed = itertools.count(1)  # with `nonce`
_POLL_S = 0.01
_MAX_WAIT_S = 60.0  # longer than any test, so that a forgotten worker ends


class Slow(Model[dict[str, Any], dict[str, Any]]):
    """Computes as its input says.

    `value`: comes back, with its `sha`. `sleep_s`: sleep first. `wait_for`: first wait until that file exists; `{pid}`
    in its name stands for the computing process's id.
    `raise`: that message stands as an exception in the item's place. `raise_batch`: `predict` itself raises it.
    `die`: the process kills itself. `die_with_parent`: and its parent, and all children of that. `exhaust`: its memory
    runs out. `hold_s`: keep the interpreter's lock for that long.
    `nonce`: add a `holder` that no other computation has, `<process id>-<count>`.
    `pad`: add a text of that many characters.
    """

    name = "slow"
    version = "1"
    batching = Batching(max_batch_size=8)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        return [self._one(request) for request in batch]

    def _one(self, request: dict[str, Any]) -> dict[str, Any] | Exception:
        value = request.get("value")
        record(self.name, value)
        _suffer(request)
        time.sleep(request.get("sleep_s", 0))
        if "wait_for" in request:
            _wait_for(Path(request["wait_for"].replace("{pid}", str(os.getpid()))))
        if "raise_batch" in request:
            raise ValueError(request["raise_batch"])
        if "raise" in request:
            return ValueError(request["raise"])
        output = {"value": value, "sha": sha256(repr(value).encode()).hexdigest()}
        if request.get("nonce"):
            output["holder"] = f"{os.getpid()}-{next(_computed)}"
        if "pad" in request:
            output["pad"] = "x" * request["pad"]
        return output


class Unkept(Slow):
    """Like `Slow`, and no result of it is kept."""

    name = "unkept"
    cache = CachePolicy(expiry_s=0)


class Echo(Model[bytes, bytes]):
    """Gives back what it got: what is left is the cost of everything around a model."""

    name = "echo"
    version = "1"
    cache = CachePolicy(failure_expiry_s=0)
    batching = Batching(max_batch_size=256)

    def predict(self, batch: Sequence[bytes]) -> list[bytes]:
        for content in batch:
            record(self.name, content)
        return list(batch)


class WrongCount(Model[Any, Any]):
    """Gives one output too many."""

    name = "wrong-count"
    version = "1"

    def predict(self, batch: Sequence[Any]) -> list[Any]:
        for value in batch:
            record(self.name, value)
        return [*batch, None]


class BadOutput(Model[Any, int]):
    """Gives back what it got, which fits its output type only if it is a number."""

    name = "bad-output"
    version = "1"

    def predict(self, batch: Sequence[Any]) -> list[int]:
        for value in batch:
            record(self.name, value)
        return list(batch)


def _suffer(request: dict[str, Any]) -> None:
    if request.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("die_with_parent"):
        parent = psutil.Process(os.getppid())
        for process in [parent, *parent.children()]:
            if process.pid != os.getpid():
                process.kill()
        os.kill(os.getpid(), signal.SIGKILL)
    if "hold_s" in request:
        ctypes.PyDLL(None).usleep(round(request["hold_s"] * 1e6))
    if request.get("exhaust"):
        raise MemoryError


def _wait_for(path: Path) -> None:
    end = time.monotonic() + _MAX_WAIT_S
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(_POLL_S)
