"""The outcome of a request: a result, or a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from foreseen.errors import PredictionFailed

__all__ = ["Failure", "Outcome", "Result"]


class Result(NamedTuple):
    """The model answered. `value` may be anything that travels, None too."""

    value: Any


class Failure(NamedTuple):
    """The model did not answer. `error` says why; raise it where the caller waits."""

    error: PredictionFailed


Outcome: TypeAlias = Result | Failure
