"""What a model that computes for long can learn: whether anybody still wants the outcome.

def predict(self, batch):
    for step in range(1000):
        if not any(wanted()):
            raise Unwanted
        ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["Asking", "Unwanted", "telling", "wanted"]

#: A model may ask at each step of a loop; the cache is asked this often at most.
_AGAIN_S: Final = 0.25


class Unwanted(Exception):
    """Raised by a model in `predict`, or put in an item's place: it was not computed, since nobody wants it any more.

    Only where `wanted` has said so; else it is a failure like any other. Should somebody have come meanwhile, it is
    computed again.
    """


class Asking:
    """The inputs of one call of `predict`, and what it was last told of who wants them."""

    def __init__(self, ask: Callable[[], Sequence[bool]]) -> None:
        self._ask = ask
        self._known: list[bool] = []
        self._asked_at = float("-inf")

    def was_told(self, place: int) -> bool:
        """Tell whether the model heard that nobody wants the input in that place of the batch."""
        return bool(self._known) and not self._known[place]

    def wanted(self) -> list[bool]:
        """Return what is known, asked anew if that is a while ago."""
        if time.monotonic() - self._asked_at >= _AGAIN_S:
            self._known = list(self._ask())
            self._asked_at = time.monotonic()
        return list(self._known)


_batch: ContextVar[Asking] = ContextVar("batch")


def wanted() -> list[bool]:
    """Return, for each input of the batch that this thread computes and in its order, whether anybody wants it still.

    Costs a round trip to the cache, four times a second at most. While the cache is away, all are wanted.

    Raises:
        RuntimeError: nothing is computed on this thread.
    """
    try:
        batch = _batch.get()
    except LookupError:
        raise RuntimeError("wanted() is for the thread on which `predict` was called, while it computes") from None
    return batch.wanted()


@contextmanager
def telling(batch: Asking) -> Generator[None]:
    """Let `wanted` ask that, in the block."""
    token = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(token)
