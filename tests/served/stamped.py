"""A model whose every computation can be told from every other, and that notes when it begins and ends one."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from served.record import LOG_VARIABLE
from workers import Batching, CachePolicy, Model

_numbers = itertools.count(1)


def answer_to(number: int, stamp: str) -> str:
    """Return what the computation of that stamp says of an input: who asks can tell a wrong answer, and a torn one."""
    return sha256(f"stamped {number} {stamp}".encode()).hexdigest()


class Stamped(Model[dict[str, Any], dict[str, Any]]):
    """Takes `{"number": int, "sleep_s": float}`; returns the answer, and a stamp that no other computation has."""

    name = "stamped"
    version = "1"
    cache = CachePolicy(expiry_s=3.0, jitter=0.5)
    batching = Batching(max_batch_size=4)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self._one(request) for request in batch]

    def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        stamp = f"{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
        self._note("begin", request["number"], stamp)
        time.sleep(request["sleep_s"])
        self._note("end", request["number"], stamp)
        return {"answer": answer_to(request["number"], stamp), "stamp": stamp}

    def _note(self, what: str, number: int, stamp: str) -> None:
        line = json.dumps({"what": what, "number": number, "stamp": stamp, "pid": os.getpid(), "at": time.monotonic()})
        descriptor = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")  # one write to a file opened for appending: lines never mix
        finally:
            os.close(descriptor)
