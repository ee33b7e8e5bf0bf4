"""Who asks: a correlation id of the application's, and the trace that a submission belongs to.

Both are for people who look for what became of a request; no answer depends on them. They travel in the message's
headers, beside the items, as one text for each item: `<traceparent> <correlation id>`, either of which may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from foreseen.errors import InvalidInput

__all__ = ["HEADER", "NO_CONTEXT", "Context", "correlated", "current", "is_trace", "pack", "read"]

#: Of a message, only where somebody says who asks.
HEADER: Final = "contexts"
#: W3C Trace Context, version 00: trace, span, flags.
_TRACE: Final = r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
#: Nothing that could begin another line of a log, or another field of it.
_CORRELATION: Final = r"[A-Za-z0-9._:/@+=-]{1,64}"


class Context(NamedTuple):
    """What is known of who asks.

    Attributes:
        trace: W3C `traceparent` of the submission's span; empty if it is not traced.
        correlation: the application's id of what it does; empty if it gave none.
    """

    trace: str = ""
    correlation: str = ""


NO_CONTEXT: Final = Context()

_correlation: Final[ContextVar[str]] = ContextVar("foreseen_correlation", default="")


@contextmanager
def correlated(correlation: str) -> Generator[None]:
    """Have everything that is asked in the block carry an id, such as a web request's, into the logs of its worker.

    It belongs to the thread or the task that is in the block, and to tasks that are made there.

    Args:
        correlation: 1 to 64 of A-Z, a-z, 0-9 and `._:/@+=-`.

    Raises:
        InvalidInput: it is something else.

    Example:
        >>> with correlated(request.headers["X-Request-ID"]):
        ...     label = producer.predict("file-type", data)
    """
    if not re.fullmatch(_CORRELATION, correlation):
        raise InvalidInput(f"{correlation[:80]!r} is no correlation id: give 1 to 64 of A-Z, a-z, 0-9 and ._:/@+=-")
    token = _correlation.set(correlation)
    try:
        yield
    finally:
        _correlation.reset(token)


def current() -> Context:
    """Return the context of the block that this is called in, without a trace."""
    correlation = _correlation.get()
    return Context("", correlation) if correlation else NO_CONTEXT


def is_trace(text: str) -> bool:
    """Tell whether a text is a `traceparent` that foreseen passes on."""
    return re.fullmatch(_TRACE, text) is not None


def pack(contexts: Sequence[Context]) -> list[str] | None:
    """Return contexts as they travel; None if there is nothing to tell."""
    return [" ".join(each) if any(each) else "" for each in contexts] if any(map(any, contexts)) else None


def read(packed: Any, count: int) -> Sequence[Context]:
    """Return the contexts of `count` items; what is malformed is left out: it is not worth the message."""
    if not isinstance(packed, list) or len(packed) != count:
        return [NO_CONTEXT] * count
    return [_read(each) for each in packed]


def _read(text: Any) -> Context:
    trace, _, correlation = text.partition(" ") if isinstance(text, str) else ("", "", "")
    return Context(trace if is_trace(trace) else "", correlation if re.fullmatch(_CORRELATION, correlation) else "")
