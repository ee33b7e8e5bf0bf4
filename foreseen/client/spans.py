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
from foreseen.tracing import context_in, harmless, traceparent_of

__all__ = ["Spans"]

_SHORT: Final = 8


class _Traced(Context):
    """The context of a submission whose span has not ended."""

    span: Any


class Spans:
    """Begins and ends them. Safe for threads."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("foreseen")

    def begin(self, submission: Submission) -> None:
        """Begin a submission's span, in the caller's context; who computes it goes on in that."""
        with harmless():
            self._begin(submission)

    def _begin(self, submission: Submission) -> None:
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
        submission.context = _Traced(traceparent_of(span), current().correlation)
        submission.context.span = span

    def link(self, submission: Submission, computed_in: str) -> None:
        """Link it to the computation that answers it, if that goes on in another's trace: it was coalesced."""
        context, computation = submission.context, context_in(computed_in)
        if isinstance(context, _Traced) and computation is not None:
            with harmless():
                if context.span.get_span_context().trace_id != computation.trace_id:
                    context.span.add_link(computation)

    def end(self, submission: Submission) -> None:
        """End it with how it was answered."""
        context = submission.context
        if not isinstance(context, _Traced):
            return
        submission.context = Context(*context)
        with harmless():
            self._end(submission, context.span)

    @staticmethod
    def _end(submission: Submission, span: Any) -> None:
        if submission.source is not None:
            span.set_attribute("foreseen.source", str(submission.source))
        if submission.task_id is not None:
            span.set_attribute("foreseen.task_id", submission.task_id)
        answer = submission.answer
        if not isinstance(answer, Result):
            error: Any = getattr(answer, "error", answer)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__ if error is not None else "withdrawn"))
        span.end()
