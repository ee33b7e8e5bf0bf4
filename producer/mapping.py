"""`Producer.map`: inputs taken ahead in chunks and never for long at a time, outputs in order, memory bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from foreseen.client.asking import CHUNK
from foreseen.client.engine import Engine
from foreseen.client.submission import Submission
from foreseen.errors import ForeseenError, InvalidInput, PredictionTimeout
from foreseen.flights import Kind
from producer.pending import PendingPrediction

if TYPE_CHECKING:
    from producer.handle import Options

__all__ = ["chunk_of", "in_order", "prepare", "take"]

T = TypeVar("T")
#: Of one input: what it became, or why it cannot be submitted.
Asked: TypeAlias = PendingPrediction[Any] | InvalidInput

#: What has been taken goes off after this long, so that inputs that come one a second do not wait for a chunk to fill.
TAKE_S: Final = 0.01


def chunk_of(in_flight: int) -> int:
    """Return how many inputs to take at a time, so that half are being computed while half are being taken.

    Raises:
        InvalidInput: nothing may be in flight.
    """
    if in_flight < 1:
        raise InvalidInput(f"in_flight={in_flight}: at least 1 must be allowed")
    return min(CHUNK, (in_flight + 1) // 2)


def take(inputs: Iterator[T], limit: int) -> tuple[list[T], bool]:
    """Take up to `limit` inputs, fewer if they come slowly; tell also whether there may be more."""
    taken: list[T] = []
    until = time.monotonic() + TAKE_S
    for each in inputs:
        taken.append(each)
        if len(taken) >= limit or time.monotonic() >= until:
            return taken, True
    return taken, False


def prepare(
    engine: Engine, found: tuple[str, str], inputs: Sequence[Any], options: Options, *, bare: bool
) -> list[Submission | InvalidInput]:
    """Return a submission for each input; for one that has no canonical form, what is wrong with it."""
    prepared: list[Submission | InvalidInput] = []
    for data in inputs:
        try:
            prepared.append(engine.inputs.submission(found, data, Kind.WAITER, bare=bare, **options))
        except InvalidInput as error:
            prepared.append(error)
    return prepared


def in_order(
    inputs: Iterable[Any],
    submit: Callable[[Sequence[Any]], Sequence[Asked]],
    leave: Callable[[Iterable[Submission]], None],
    *,
    timeout: float | None,
    in_flight: int,
    return_exceptions: bool,
    progress: Callable[[int], object] | None,
) -> Iterator[Any]:
    """Yield outputs in the order of their inputs.

    `submit` asks for a chunk of them, `leave` gives up what nobody waits for any more; the rest is as for
    `Producer.map`.
    """
    source, is_more, done, chunk = iter(inputs), True, 0, chunk_of(in_flight)
    asked: deque[Asked] = deque()
    try:
        while is_more or asked:
            if is_more and len(asked) <= in_flight - chunk and not (asked and _is_answered(asked[0])):
                taken, is_more = take(source, chunk)
                asked += submit(taken)
                continue
            output = _output(asked[0], timeout, return_exceptions=return_exceptions)
            if not _is_answered(asked[0]):  # its timeout ran out
                leave(_submissions([asked[0]]))
            asked.popleft()
            done += 1
            if progress is not None:
                progress(done)
            yield output
    finally:
        if asked:
            leave(_submissions(asked))


def _submissions(asked: Iterable[Asked]) -> list[Submission]:
    return [each.submission for each in asked if not isinstance(each, InvalidInput)]


def _is_answered(asked: Asked) -> bool:
    return isinstance(asked, InvalidInput) or asked.done()


def _output(asked: Asked, timeout: float | None, *, return_exceptions: bool) -> Any:
    try:
        if isinstance(asked, InvalidInput):
            raise asked
        return asked.result(timeout)
    except PredictionTimeout as error:
        left = PredictionTimeout(f"No outcome within {timeout:g} s; the caller left.")
        if return_exceptions:
            return left
        raise left from error
    except ForeseenError as error:
        if return_exceptions:
            return error
        raise
