"""Trace contexts of OpenTelemetry as they travel; imported only where `FORESEEN_TRACING` is on."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import SpanContext, TraceFlags

from foreseen.context import is_trace

__all__ = ["context_in", "harmless", "traceparent_of"]

log = logging.getLogger("foreseen.tracing")


@contextmanager
def harmless() -> Generator[None]:
    """Let no error out: samplers and processors are the application's, and no answer is to suffer by them."""
    try:
        yield
    except Exception:
        log.exception("a span was lost")


def traceparent_of(span: Any) -> str:
    """Return a span's W3C `traceparent`; empty if it is recorded nowhere."""
    context: SpanContext = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def context_in(traceparent: str) -> SpanContext | None:
    """Return the context of another process's span; None if the text names none."""
    if not is_trace(traceparent):
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
