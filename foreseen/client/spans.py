"""A producer's spans for OpenTelemetry: one for each submission, from asking to the answer.

A library makes spans and leaves where they go to the application: whatever provider that has set up. Without one they
are none, and nothing travels. Imported only where `FORESEEN_TRACING` is on.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from foreseen.client.submission import Submission
from foreseen.context import Context, current
from foreseen.outcome import Result
from foreseen.tracing import context_in, traceparent_of

__all__ = ["Spans"]

_SHORT: Final = 8


class Spans:
    """Begins and ends them. Safe for threads."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("foreseen")

    def begin(self, submission: Submission) -> None:
        """Begin a submission's span, in the caller's context; who computes it goes on in that."""
        key = submission.key
        span = self._tracer.start_span(
            f"predict {key.model}",
            kind=SpanKind.CLIENT,
            attributes={
                "foreseen.model": key.model,
                "foreseen.version": key.version,
                "foreseen.key": key.digest[:_SHORT],
            },
        )
        submission.span = span
        submission.context = Context(traceparent_of(span), current().correlation)

    def end(self, submission: Submission) -> None:
        """End it with how it was answered; a coalesced one is linked to the computation that it waited for."""
        span, submission.span = submission.span, None
        if span is None:
            return
        if submission.source is not None:
            span.set_attribute("foreseen.source", str(submission.source))
        if submission.task_id is not None:
            span.set_attribute("foreseen.task_id", submission.task_id)
        computed_in = context_in(submission.computed_in)
        if computed_in is not None and computed_in.trace_id != span.get_span_context().trace_id:
            span.add_link(computed_in)
        answer = submission.answer
        if not isinstance(answer, Result):
            error: Any = getattr(answer, "error", answer)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__ if error is not None else "withdrawn"))
        span.end()
