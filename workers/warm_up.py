"""Warming up: the first calls of a model, made before it takes work, so that no request pays for what they set up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foreseen.errors import InvalidOutput
from workers.model import Model
from workers.wanted import Asking, telling

__all__ = ["warm_up"]


def warm_up(model: Model[Any, Any]) -> int:
    """Compute a model's examples, in batches of its size, as requests are; return how many there were.

    Without the model's limits: a first call may compile, allocate and read what no later one does.

    Args:
        model: a loaded one.

    Raises:
        InputRefused: an example does not fit the model.
        InvalidOutput: an output does not, or there are too many or too few.
        Exception: what the model raised, or put in an output's place.
    """
    examples = [model.validate_input(example) for example in model.examples]
    size = model.batching.max_batch_size
    for start in range(0, len(examples), size):
        _compute(model, examples[start : start + size])
    return len(examples)


def _compute(model: Model[Any, Any], batch: Sequence[Any]) -> None:
    with telling(Asking(lambda: [True] * len(batch))):
        outputs = model.predict(batch)
    if len(outputs) != len(batch):
        raise InvalidOutput(f"{model.model_id()} gave {len(outputs)} outputs for {len(batch)} examples")
    for output in outputs:
        if isinstance(output, Exception):
            raise output
        model.dump_output(output)
