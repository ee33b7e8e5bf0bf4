"""Ensembles of models that do as their input says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from served.record import record
from workers import (
    Batching,
    CachePolicy,
    Combiner,
    Elected,
    Ensemble,
    FirstGood,
    HardVote,
    Mean,
    Model,
    SoftVote,
    Stacking,
)

_POLL_S = 0.01
_MAX_WAIT_S = 60.0  # longer than any test


class Member(Model[dict[str, Any], Any]):
    """Answers with its `factor` times `value`.

    `sleep_s`: sleep first. `wait_for`: wait until that file exists, `{name}` in it being the member's. `fail`: names of
    members that fail.
    """

    version = "1"
    factor = 1.0
    batching = Batching(max_batch_size=8)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[Any]:
        return [self._one(request) for request in batch]

    def _one(self, request: dict[str, Any]) -> Any:
        record(self.name, (self.name, request["value"]))
        time.sleep(request.get("sleep_s", 0))
        if "wait_for" in request:
            path = Path(request["wait_for"].replace("{name}", self.name))
            end = time.monotonic() + _MAX_WAIT_S
            while not path.exists() and time.monotonic() < end:
                time.sleep(_POLL_S)
        if self.name in request.get("fail", ()):
            return ValueError(f"{self.name} will not")
        return self.answer(request)

    def answer(self, request: dict[str, Any]) -> Any:
        return self.factor * request["value"]


class One(Member):
    name = "one"


class Two(Member):
    name = "two"
    factor = 2.0


class Six(Member):
    name = "six"
    factor = 6.0


class Average(Ensemble[dict[str, Any], float]):
    """Of all three: 3 times the value."""

    name = "average"
    version = "1"
    members = ("one", "two", "six")
    combine = Mean()


class Quorum(Average):
    """Of two at least, and of who has answered within two seconds."""

    name = "quorum"
    quorum = 2
    member_timeout_s = 2.0
    partial_expiry_s = 1.0


class Outer(Ensemble[dict[str, Any], float]):
    """Of an ensemble and a model."""

    name = "outer"
    version = "1"
    members = ("average", "one")


class OuterQuorum(Ensemble[dict[str, Any], float]):
    """Of an ensemble that may miss a member."""

    name = "outer-quorum"
    version = "1"
    members = ("quorum", "one")
    partial_expiry_s = 1.0


class Noted(Combiner):
    """Adds up, and leaves each combination in the record; `combine` fails for the sum 13."""

    version = "1"

    def combine(self, answers: Mapping[str, Any]) -> Any:
        total = sum(answers.values())
        record("noted", ("noted", total))
        if total == 13:
            raise ValueError("an unlucky sum")
        return total


class Total(Ensemble[dict[str, Any], float]):
    """Of all three: 9 times the value."""

    name = "total"
    version = "1"
    members = ("one", "two", "six")
    combine = Noted()


class Cheap(Member):
    """Is confident of even values."""

    name = "cheap"

    def answer(self, request: dict[str, Any]) -> Elected:
        return {"label": "cheap", "confidence": 0.5 if request["value"] % 2 else 0.99}


class Dear(Member):
    """Is confident."""

    name = "dear"

    def answer(self, request: dict[str, Any]) -> Elected:
        del request
        return {"label": "dear", "confidence": 0.95}


class Cascade(Ensemble[dict[str, Any], Elected]):
    name = "cascade"
    version = "1"
    members = ("cheap", "dear")
    combine = FirstGood(confidence=0.9)
    partial_expiry_s = 1.0


class Stack(Ensemble[dict[str, Any], str]):
    """Answers with what `Judge` makes of two members."""

    name = "stack"
    version = "1"
    members = ("one", "two")
    combine = Stacking("judge")


class Judge(Model[dict[str, float], str]):
    name = "judge"
    version = "1"

    def predict(self, batch: Sequence[dict[str, float]]) -> list[str]:
        for answers in batch:
            record(self.name, ("judge", answers["one"]))
        return [" and ".join(f"{name} {answers[name]:g}" for name in sorted(answers)) for answers in batch]


class Votes(Ensemble[dict[str, Any], Elected]):
    name = "votes"
    version = "1"
    members = ("cheap", "dear")
    combine = HardVote(weights={"cheap": 1, "dear": 2})


class Unkept(Member):
    name = "unkept-member"
    cache = CachePolicy(expiry_s=0)


class OverUnkept(Ensemble[dict[str, Any], float]):
    name = "over-unkept-member"
    version = "1"
    members = ("unkept-member", "one")


class Probable(Member):
    name = "probable"

    def answer(self, request: dict[str, Any]) -> dict[str, float]:
        del request
        return {"a": 0.3, "b": 0.7}


class Improbable(Member):
    name = "improbable"

    def answer(self, request: dict[str, Any]) -> dict[str, float]:
        del request
        return {"a": 0.9, "c": 0.1}


class Softly(Ensemble[dict[str, Any], Elected]):
    name = "softly"
    version = "1"
    members = ("probable", "improbable")
    combine = SoftVote()
