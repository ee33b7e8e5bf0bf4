"""An OTLP collector of a test's own: takes the spans that processes send, as a real one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # type: ignore[import-untyped]
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["PROVIDER", "Collector", "Span", "collecting"]

#: What an application does in a producer's process; `finish()` sends what is left.
PROVIDER = """\
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
finish = provider.shutdown
"""


@dataclass(frozen=True)
class Span:
    """A span as it came."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    is_error: bool
    start_ns: int
    end_ns: int


@dataclass
class Collector:
    """What came, of all processes."""

    url: str = ""
    _spans: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
                service = attributes.get("service.name", "")
                self._spans += [_read(service, span) for scope in resource.scope_spans for span in scope.spans]

    def spans(self, name: str = "") -> list[Span]:
        """Return what came, in the order of beginning: all, or those of a name."""
        with self._lock:
            found = [each for each in self._spans if name in {"", each.name}]
        return sorted(found, key=lambda each: each.start_ns)


def _read(service: str, span: Any) -> Span:
    attributes = {each.key: _value(each.value) for each in span.attributes}
    links = tuple(link.span_id.hex() for link in span.links)
    return Span(
        service, span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), links, attributes,
        span.status.code == 2, span.start_time_unix_nano, span.end_time_unix_nano,
    )  # fmt: skip


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
