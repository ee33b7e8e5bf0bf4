"""A worker's spans for OpenTelemetry: of each item's wait in the queue, its computation, and telling its outcome.

They go on in the trace of whoever asked. A call of a model for several of them is one span, in the trace of the first,
to which those of the others are linked. Imported only where `FORESEEN_TRACING` is on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

from foreseen.errors import PredictionFailed
from foreseen.tracing import context_in, harmless, traceparent_of
from workers.run import Run

__all__ = ["Spans", "close_provider", "open_provider"]

_SHORT: Final = 8
_MILLI: Final = 1_000_000
#: A process that ends is not held up for longer by a collector that is away.
_FLUSH_MS: Final = 2_000


class Spans:
    """Begins and ends them. Safe for threads."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("foreseen")

    def begin(self, run: Run) -> None:
        """Begin the span of an item that is to be computed, if who asked for it is traced."""
        parent = context_in(run.item.context.trace)
        if parent is not None:
            with harmless():
                self._begin(run, parent)

    def _begin(self, run: Run, parent: trace.SpanContext) -> None:
        message, key, now_ns = run.delivery.message, run.item.key, time.time_ns()
        context = set_span_in_context(trace.NonRecordingSpan(parent))
        if 0 < message.sent_ms * _MILLI < now_ns:  # by the cache server's clock; copies are sent out of turn
            sent_ns = message.sent_ms * _MILLI
            self._tracer.start_span(f"queue {key.model}", context, start_time=sent_ns).end(now_ns)
        run.span = self._tracer.start_span(
            f"compute {key.model}",
            context,
            kind=SpanKind.CONSUMER,
            start_time=now_ns,
            attributes={
                "foreseen.model": key.model,
                "foreseen.version": key.version,
                "foreseen.key": key.digest[:_SHORT],
                "foreseen.task_id": message.id,
                "foreseen.priority": message.priority,
            },
        )

    @contextmanager
    def call(self, runs: Sequence[Run]) -> Generator[None]:
        """Be in the span of a model's call in the block, so that what the model makes of spans is below it."""
        traced = [run for run in runs if run.span is not None]
        if not traced:
            yield
            return
        first, *others = traced
        span: Any = trace.INVALID_SPAN
        with harmless():
            span = self._tracer.start_span(
                f"call {first.item.key.model}",
                set_span_in_context(first.span),
                links=[Link(run.span.get_span_context()) for run in others],
                attributes={"foreseen.items": len(runs)},
            )
            for run in others:
                run.span.add_link(span.get_span_context())
        try:
            with trace.use_span(span):
                yield
        finally:
            with harmless():
                span.end()

    @contextmanager
    def telling(self, runs: Iterable[Run]) -> Generator[None]:
        """Have the block, which tells outcomes, be a span of each item; and end those that are told."""
        traced = [run for run in runs if run.span is not None]
        began_ns = time.time_ns()
        try:
            yield
        finally:
            with harmless():
                for run in traced:
                    self._told(run, began_ns)
            self.end(traced)

    def _told(self, run: Run, began_ns: int) -> None:
        context = set_span_in_context(run.span)
        self._tracer.start_span(f"tell {run.item.key.model}", context, start_time=began_ns).end()
        if run.finished is not None:
            run.span.set_attribute("foreseen.outcome", run.finished.code.name.lower())
        if isinstance(run.outcome, PredictionFailed):
            run.span.set_status(Status(StatusCode.ERROR, type(run.outcome).__name__))

    def end(self, runs: Iterable[Run]) -> None:
        """End the spans of items that have not ended."""
        for run in runs:
            span, run.span = run.span, None
            if span is not None:
                with harmless():
                    span.end()

    @staticmethod
    def traceparent(run: Run) -> str:
        """Return what those who joined are told to link to."""
        return traceparent_of(run.span) if run.span is not None else ""


def open_provider() -> None:
    """Send spans to an OTLP collector, where the `OTEL_` variables say, unless this process has a provider already.

    A provider's thread does not survive a fork: each process that computes calls this for itself.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    name = {"service.name": "foreseen-worker"} if "OTEL_SERVICE_NAME" not in os.environ else {}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def close_provider() -> None:
    """Send what is left."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(_FLUSH_MS)
