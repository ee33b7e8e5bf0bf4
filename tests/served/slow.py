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
from workers import Batching, CachePolicy, Limits, Model, Retry, Unwanted, wanted

_computed = itertools.count(1)  # with `nonce`
_POLL_S = 0.01
_MAX_WAIT_S = 60.0  # longer than any test, so that a forgotten worker ends


class Slow(Model[dict[str, Any], dict[str, Any]]):
    """Computes as its input says.

    `value`: comes back, with its `sha`. `sleep_s`: sleep first. `wait_for`: first wait until that file exists; `{pid}`
    in its name stands for the computing process's id.
    `raise`: that message stands as an exception in the item's place. `raise_batch`: `predict` itself raises it.
    `die`: the process kills itself. `die_unless`: unless that file exists.
    `die_with_parent`: and its parent, and all children of that. `exhaust`: its memory
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


class Wide(Slow):
    """Like `Slow`, in larger batches."""

    name = "wide"
    batching = Batching(max_batch_size=32)


class Limited(Slow):
    """Like `Slow`, and may not take long, nor have many wait."""

    name = "limited"
    limits = Limits(compute_s=1.0, queued=5)


class Bounded(Slow):
    """Like `Slow`, one by one, and few may wait."""

    name = "bounded"
    batching = Batching(max_batch_size=1)
    limits = Limits(queued=5)


class Flaky(Slow):
    """Like `Slow`, and fails for the moment until the file `there` exists."""

    name = "flaky"
    retry = Retry(attempts=20, first_s=0.2, most_s=0.5)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        outcomes = super().predict(batch)
        away = [not Path(request["there"]).exists() for request in batch]
        return [ConnectionError("away") if gone else out for gone, out in zip(away, outcomes, strict=True)]


class Attentive(Slow):
    """Computes until the file `until` exists, or nobody wants it any more; then it leaves `told` in the record."""

    name = "attentive"
    batching = Batching(max_batch_size=1)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        while not Path(batch[0]["until"]).exists():
            if not any(wanted()):
                record(self.name, "told")
                raise Unwanted
            time.sleep(_POLL_S)
        return super().predict(batch)


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
    if request.get("die") or ("die_unless" in request and not Path(request["die_unless"]).exists()):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("die_with_parent"):
        parent = psutil.Process(os.getppid())
        for process in [parent, *parent.children()]:
            if process.pid != os.getpid():
                process.kill()
        os.kill(os.getpid(), signal.SIGKILL)
    if "hold_s" in request:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # which would end that call
        ctypes.PyDLL(None).usleep(round(request["hold_s"] * 1e6))
    if request.get("exhaust"):
        raise MemoryError


def _wait_for(path: Path) -> None:
    end = time.monotonic() + _MAX_WAIT_S
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(_POLL_S)
