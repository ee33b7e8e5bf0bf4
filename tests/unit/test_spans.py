"""Samplers and processors are the application's: whatever they do, no answer suffers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from foreseen.canonical import canonicalize
from foreseen.client.spans import Spans as ClientSpans
from foreseen.client.submission import Source, Submission
from foreseen.context import NO_CONTEXT, Context, correlated
from foreseen.errors import ModelFailed
from foreseen.flights import Kind
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.outcome import Failure, Result
from workers.run import Delivery, Run
from workers.spans import Spans as WorkerSpans

CANONICAL = canonicalize("a secret")
KEY = key_of("model", "1", CANONICAL)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Broken(SpanProcessor):
    """Raises at each step that it is named after."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        del span, parent_context
        if self._at == "start":
            raise RuntimeError("the application's")

    def on_end(self, span: ReadableSpan) -> None:
        del span
        if self._at == "end":
            raise RuntimeError("the application's")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(params=["never", "start", "end"])
def provider(
    request: pytest.FixtureRequest, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    made.add_span_processor(Broken(request.param))
    monkeypatch.setattr(trace, "get_tracer", made.get_tracer)
    yield request.param
    made.shutdown()


def run_of(context: Context) -> Run:
    item = Item(KEY, "0" * 16, 1, 0, CANONICAL, context=context)
    begun: Any = SimpleNamespace()
    return Run(Delivery(Message("model@1", (item,), 1, 4), "holder"), item, begun)


def test_a_submission_goes_on_whatever_becomes_of_its_span(
    provider: str, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    spans, submission = ClientSpans(), Submission(KEY, CANONICAL, Kind.WAITER)
    with caplog.at_level(logging.ERROR, "foreseen.tracing"), correlated("request-7"):
        spans.begin(submission)
        spans.link(submission, TRACE)
        submission.source, submission.answer = Source.COALESCED, Result("an output")
        spans.end(submission)
        spans.end(submission)
    assert ("a span was lost" in caplog.text) == (provider != "never")
    if provider == "never":
        (span,) = exporter.get_finished_spans()
        assert span.name == "predict model"
        assert span.attributes is not None
        assert span.attributes["foreseen.source"] == "coalesced"
        assert [link.context.span_id for link in span.links] == [0xB7AD6B7169203331]
        assert submission.context.correlation == "request-7"
        assert type(submission.context) is Context, "it lets go of the span"
        assert "secret" not in span.to_json()


def test_a_worker_goes_on_whatever_becomes_of_its_spans(
    provider: str, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    spans = WorkerSpans()
    runs = [run_of(Context(TRACE, "")), run_of(Context(TRACE, "")), run_of(NO_CONTEXT)]
    with caplog.at_level(logging.ERROR, "foreseen.tracing"):
        for run in runs:
            spans.begin(run)
        done = []
        with spans.call(runs):
            done.append("called")
        runs[0].outcome = ModelFailed("no")
        with spans.telling(runs):
            done.append("told")
    assert done == ["called", "told"]
    assert [run.span for run in runs] == [None, None, None]
    assert ("a span was lost" in caplog.text) == (provider != "never")
    if provider == "never":
        names = sorted(span.name for span in exporter.get_finished_spans())
        assert names == ["call model", *["compute model"] * 2, *["queue model"] * 2, *["tell model"] * 2]


def test_what_the_model_raises_passes_through(provider: str) -> None:
    del provider
    spans, run = WorkerSpans(), run_of(Context(TRACE, ""))
    spans.begin(run)
    with pytest.raises(MemoryError), spans.call([run]):
        raise MemoryError


def test_a_failure_s_span_is_an_error(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", made.get_tracer)
    spans, submission = ClientSpans(), Submission(KEY, CANONICAL, Kind.WAITER)
    spans.begin(submission)
    submission.answer = Failure(ModelFailed("a secret"))
    spans.end(submission)
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "ModelFailed"
    assert "secret" not in span.to_json()
    made.shutdown()
