"""Computing a batch: from values as they travel to one outcome for each, whatever the model does.

An outcome is a plain output or a `PredictionFailed`. Two things are nobody's outcome and pass through: what asks the
process to stop (`KeyboardInterrupt`, `SystemExit`), and what says that this process can no longer compute, a soft time
limit or memory that has run out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, Final, TypeAlias

from billiard.exceptions import SoftTimeLimitExceeded  # what Celery raises in a process whose time is up

from foreseen.errors import InvalidOutput, ModelFailed, PredictionFailed
from workers.model import Model

__all__ = ["Outcome", "compute", "run_batch"]

Outcome: TypeAlias = Any
"""A plain output, or a `PredictionFailed`."""

_STOPS: Final = (MemoryError, SoftTimeLimitExceeded)
_MAX_MESSAGE_CHARACTERS = 500  # of an exception's text; enough for a sentence, too little for the input's dump


def compute(model: Model[Any, Any], values: Sequence[Any]) -> list[Outcome]:
    """Validate a batch of values and compute those that fit.

    Args:
        model: a loaded model.
        values: inputs as they travel, at most the model's `max_batch_size`.

    Returns:
        One outcome for each value, in order; `InputRefused` for those that do not fit.
    """
    outcomes: list[Outcome] = [_attempt(model.validate_input, value) for value in values]
    fitting = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, PredictionFailed)]
    for place, outcome in zip(fitting, run_batch(model, [outcomes[place] for place in fitting]), strict=True):
        outcomes[place] = outcome
    return outcomes


def run_batch(model: Model[Any, Any], inputs: Sequence[Any]) -> list[Outcome]:
    """Call the model for a batch of validated inputs.

    If `predict` raises and the batch has more than one item, each is computed again alone, so that one bad item fails
    alone. A wrong count of outputs fails the whole batch: nobody can tell whose output is missing.

    Returns:
        One outcome for each input, in order.
    """
    if not inputs:
        return []
    try:
        outputs: Any = model.predict(inputs)
    except _STOPS:
        raise
    except Exception as error:  # noqa: BLE001 - a model can raise anything; it becomes the outcome
        if len(inputs) == 1:
            return [_failure(error)]
        return [outcome for one in inputs for outcome in run_batch(model, [one])]
    if not _is_list_of(len(inputs), outputs):
        got = len(outputs) if isinstance(outputs, Sized) else f"one {type(outputs).__name__}"
        message = f"{model.model_id()} must give one output for each input: expected {len(inputs)}, got {got}"
        return [InvalidOutput(message, {"expected": len(inputs), "got": got}) for _ in inputs]
    return [_outcome(model, output) for output in outputs]


def _is_list_of(count: int, outputs: Any) -> bool:
    """Say whether there are that many outputs; a numpy array counts as a list, a text or a dict does not."""
    is_list = (
        isinstance(outputs, Sized) and isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes, Mapping))
    )
    return is_list and len(outputs) == count


def _outcome(model: Model[Any, Any], output: Any) -> Outcome:
    if isinstance(output, _STOPS):  # caught by a model that catches everything, item by item
        raise output
    return _failure(output) if isinstance(output, Exception) else _attempt(model.dump_output, output)


def _attempt(check: Any, value: Any) -> Outcome:
    """Check a value; a type's own validation can raise anything, and must not take the batch along."""
    try:
        return check(value)
    except _STOPS:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return _failure(error)


def _failure(error: Exception) -> PredictionFailed:
    if isinstance(error, PredictionFailed):
        return error
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    failure = ModelFailed(f"{name}: {str(error)[:_MAX_MESSAGE_CHARACTERS]}", {"type": name})
    failure.__cause__ = error  # for the worker's log; it does not travel
    return failure
