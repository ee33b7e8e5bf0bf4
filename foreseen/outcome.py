"""The outcome of a request: a result, or a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from foreseen.errors import PredictionFailed

__all__ = ["Failure", "Outcome", "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """The model answered. `value` may be anything that travels, None too."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The model did not answer. `error` says why; raise it where the caller waits."""

    error: PredictionFailed


Outcome: TypeAlias = Result | Failure
