"""One trace from asking to the answer, across real processes; and nothing of it where tracing is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from acceptance.collector import PROVIDER, Collector, Span, collecting
from acceptance.harness import Deployment, Pool, wait_until

pytestmark = pytest.mark.acceptance

SECRET = "tests-secret-of-32-characters-and-more"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms; 5 s in production
        yield collector


ASKS = (
    PROVIDER
    + """
with Producer() as producer, trace.get_tracer("application").start_as_current_span("a request"):
    pending = producer.submit("slow", arguments["request"])
    say(pending.source)
    pending.result(30)
    producer.predict("slow", arguments["request"])
finish()
"""
)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_submission_s_trace_goes_through_queue_and_model_to_the_answer_and_joins_are_linked(
    deploy: Callable[..., Deployment], collector: Collector, pool: Pool
) -> None:
    deployment = deploy(tracing=True, signing_keys=f"one:{SECRET}")
    deployment.start_worker(pool, 2)
    request = {"value": "asked", "wait_for": str(deployment.gate("go"))}
    leader = deployment.start_producer(ASKS, request=request)
    assert leader.hear() == "computed"
    deployment.wait_for_computations("asked")
    follower = deployment.start_producer(ASKS, request=request)
    assert follower.hear() == "coalesced"
    deployment.open_gate("go")
    leader.finish()
    follower.finish()
    wait_until(lambda: collector.spans("tell slow"), "the worker's spans have come")

    led, joined, *hits = collector.spans("predict slow")
    asked, asked_again = collector.spans("a request")
    (queued,), (computed,) = collector.spans("queue slow"), collector.spans("compute slow")
    (called,), (told,) = collector.spans("call slow"), collector.spans("tell slow")
    assert [each.attributes["foreseen.source"] for each in (led, joined, *hits)] == [
        "computed", "coalesced", "hit", "hit",
    ]  # fmt: skip
    assert {each.trace for each in (asked, led, queued, computed, called, told)} == {asked.trace}, "one trace"
    assert (led.parent, queued.parent, computed.parent) == (asked.id, led.id, led.id)
    assert (called.parent, told.parent) == (computed.id, computed.id)
    assert computed.service == "foreseen-worker"
    assert computed.attributes["foreseen.task_id"] == led.attributes["foreseen.task_id"]
    assert led.start_ns <= queued.start_ns + 1_000_000  # by the cache server's clock, in milliseconds
    assert queued.end_ns <= computed.start_ns <= called.start_ns <= called.end_ns <= told.start_ns
    assert joined.trace == asked_again.trace != asked.trace
    assert joined.links == (computed.id,), "whoever joined is led to the computation"
    assert all(set(each.attributes) <= KNOWN for each in collector.spans()), "nothing of the input"


KNOWN = {
    "foreseen.model", "foreseen.version", "foreseen.key", "foreseen.source", "foreseen.task_id", "foreseen.priority",
    "foreseen.items", "foreseen.outcome",
}  # fmt: skip


def test_a_batch_is_one_call_that_each_of_its_items_is_linked_to(
    deploy: Callable[..., Deployment], collector: Collector
) -> None:
    deployment = deploy(tracing=True)
    deployment.start_worker("prefork", 1)
    script = (
        PROVIDER
        + """
with Producer() as producer:
    for pending in producer.submit_many("slow", [{"value": number} for number in range(3)]):
        pending.result(30)
    try:
        producer.predict("slow", {"value": "bad", "raise": "no"})
    except PredictionFailed:
        say("failed")
finish()
"""
    )
    producer = deployment.start_producer(script)
    assert producer.finish() == ["failed"]
    wait_until(lambda: len(collector.spans("tell slow")) == 4, "the worker's spans have come")
    first, *others = collector.spans("compute slow")[:3]
    batch, *alone = collector.spans("call slow")
    assert batch.attributes["foreseen.items"] == 3
    assert batch.parent == first.id
    assert set(batch.links) == {each.id for each in others}
    assert all(each.links == (batch.id,) for each in others)
    assert len({each.trace for each in (first, *others)}) == 3, "a trace for each submission"
    assert len(alone) == 1
    failed = [each for each in collector.spans() if each.is_error]
    assert sorted(each.name for each in failed) == ["compute slow", "predict slow"]
    assert isinstance(failed[0], Span)


def test_without_it_nothing_is_imported_and_nothing_travels(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.start_worker("threads", 1)
    producer = deployment.start_producer("""
from foreseen.message import Message
headers = []
kept = Message.headers
Message.headers = lambda message: headers.append(kept(message)) or headers[-1]
with Producer() as producer:
    producer.predict("slow", {"value": 1})
say(["contexts" in each for each in headers])
ours = ("foreseen.tracing", "foreseen.client.spans", "opentelemetry.exporter", "opentelemetry.sdk.trace")
say([name for name in ours if name in sys.modules])  # redis-py imports other parts by itself, where they are installed
""")
    assert producer.finish() == [[False], []]


def test_a_producer_without_a_provider_of_its_application_s_traces_nothing(
    deploy: Callable[..., Deployment], collector: Collector
) -> None:
    deployment = deploy(tracing=True)
    deployment.start_worker("threads", 1)
    assert deployment.producer().predict("slow", {"value": 1})["value"] == 1
    assert deployment.producer().predict("slow", {"value": 1})["value"] == 1
    assert collector.spans() == []
