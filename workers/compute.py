"""Computing a batch: from values as they travel to one outcome for each, whatever the model does.

An outcome is a plain output, as such or as `Unkept`, or a `PredictionFailed`; or says that there is none, `Unwanted` or
`ANSWERED`. Two things
are nobody's outcome and pass through: what asks the process to stop (`KeyboardInterrupt`, `SystemExit`), and what says
that this process can no longer compute, Celery's own soft time limit or memory that has run out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from billiard.exceptions import SoftTimeLimitExceeded  # what Celery raises in a process whose time is up

from foreseen.errors import InvalidOutput, ModelFailed, PredictionFailed, TimeLimitExceeded
from workers.keeping import is_kept
from workers.model import Model
from workers.time_limit import TimeUp, limited
from workers.wanted import Asking, Unwanted, telling

__all__ = ["ANSWERED", "Observer", "Outcome", "Unkept", "compute", "failure_of", "outcome_of", "over_limit"]

Outcome: TypeAlias = Any
"""A plain output, one that is `Unkept`, a `PredictionFailed`, `Unwanted`, or `ANSWERED`."""

ANSWERED: Final = object()
"""In an outcome's place: the call was stuck, and its observer answered for it and the rest of its batch."""


class Unkept(NamedTuple):
    """A plain output that is delivered and not kept, as its model says."""

    output: Any


_STOPS: Final = (MemoryError, SoftTimeLimitExceeded)
_MAX_MESSAGE_CHARACTERS: Final = 500  # of an exception's text; enough for a sentence, too little for the input's dump


class Observer(Protocol):
    """Who knows what the places of a batch stand for."""

    def wanted(self, places: Sequence[int]) -> Sequence[bool]:
        """Tell which of them anybody still wants."""
        ...

    def stuck(self, places: Sequence[int]) -> None:
        """Answer, on another thread, for the call for them, which goes on beyond its limit and cannot be ended.

        And for the rest of the batch, which nobody else will answer for.
        """
        ...


class _Nobody:
    """Who wants everything, and hears of nothing."""

    def wanted(self, places: Sequence[int]) -> list[bool]:
        return [True] * len(places)

    def stuck(self, places: Sequence[int]) -> None:
        pass


def compute(model: Model[Any, Any], values: Sequence[Any], observer: Observer = _Nobody()) -> list[Outcome]:  # noqa: B008 - it has no state
    """Validate a batch of values and compute those that fit.

    If `predict` raises, or takes longer than the model's limit, and the batch has more than one item, each is computed
    again alone, so that one bad item fails alone. A wrong count of outputs fails the whole batch: nobody can tell whose
    output is missing.

    Args:
        model: a loaded model.
        values: inputs as they travel, at most the model's `max_batch_size`.
        observer: knows them by their places.

    Returns:
        One outcome for each value, in order; `InputRefused` for those that do not fit.
    """
    outcomes: list[Outcome] = [_attempt(model.validate_input, value) for value in values]
    fitting = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, PredictionFailed)]
    computed = _run(model, fitting, [outcomes[place] for place in fitting], observer)
    for place, outcome in zip(fitting, computed, strict=True):
        outcomes[place] = outcome
    return outcomes


def over_limit(model: type[Model[Any, Any]] | Model[Any, Any]) -> TimeLimitExceeded:
    """Return the failure of an item that took longer than the model allows."""
    limit_s = model.limits.compute_s
    return TimeLimitExceeded(f"{model.model_id()} was ended after {limit_s:g} s, its limit.", {"limit_s": limit_s})


def _run(model: Model[Any, Any], places: Sequence[int], inputs: Sequence[Any], observer: Observer) -> list[Outcome]:
    if not inputs:
        return []
    asking = Asking(lambda: observer.wanted(places))
    try:
        with telling(asking), limited(model.limits.compute_s, lambda: observer.stuck(places)):
            outputs: Any = model.predict(inputs)
    except _STOPS:
        raise
    except (Exception, TimeUp) as error:  # noqa: BLE001 - a model can raise anything; it becomes the outcome
        outcome = _raised(model, error, is_unwanted=all(map(asking.was_told, range(len(inputs)))))
        if len(inputs) == 1 or outcome is ANSWERED or isinstance(outcome, Unwanted):
            return [outcome for _ in inputs]
        alone: list[Outcome] = []
        for place, one in zip(places, inputs, strict=True):
            alone += _run(model, [place], [one], observer)
            if alone[-1] is ANSWERED:  # and so is the whole batch
                return [ANSWERED for _ in inputs]
        return alone
    if not _is_list_of(len(inputs), outputs):
        got = len(outputs) if isinstance(outputs, Sized) else f"one {type(outputs).__name__}"
        message = f"{model.model_id()} must give one output for each input: expected {len(inputs)}, got {got}"
        return [InvalidOutput(message, {"expected": len(inputs), "got": got}) for _ in inputs]
    return [outcome_of(model, output, is_unwanted=asking.was_told(index)) for index, output in enumerate(outputs)]


def _raised(model: Model[Any, Any], error: Exception | TimeUp, *, is_unwanted: bool) -> Outcome:
    """Return what a call comes to that raised this."""
    if isinstance(error, TimeUp):
        return ANSWERED if error.answered else over_limit(model)
    return error if is_unwanted and isinstance(error, Unwanted) else failure_of(error)


def _is_list_of(count: int, outputs: Any) -> bool:
    """Say whether there are that many outputs; a numpy array counts as a list, a text or a dict does not."""
    is_list = (
        isinstance(outputs, Sized) and isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes, Mapping))
    )
    return is_list and len(outputs) == count


def outcome_of(model: Model[Any, Any], output: Any, *, is_unwanted: bool = False) -> Outcome:
    """Return what an output, or what stands in its place, comes to."""
    if isinstance(output, _STOPS):  # caught by a model that catches everything, item by item
        raise output
    if is_unwanted and isinstance(output, Unwanted):
        return output
    if isinstance(output, Exception):
        return failure_of(output)
    plain = _attempt(model.dump_output, output)
    return plain if isinstance(plain, PredictionFailed) or is_kept(model, output) else Unkept(plain)


def _attempt(check: Any, value: Any) -> Outcome:
    """Check a value; a type's own validation can raise anything, and must not take the batch along."""
    try:
        return check(value)
    except _STOPS:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return failure_of(error)


def failure_of(error: Exception) -> PredictionFailed:
    """Return the failure that an exception of a model's is."""
    if isinstance(error, PredictionFailed):
        return error
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    failure = ModelFailed(f"{name}: {str(error)[:_MAX_MESSAGE_CHARACTERS]}", {"type": name})
    failure.__cause__ = error  # for the worker's log, and to tell what is worth another try; it does not travel
    return failure
