"""What goes wrong is said: at once, to everyone concerned, and without a trace in the queue or the cache."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import (
    cache_apart,
    flights,
    in_threads,
    keys_without_expiry,
    messages_sent,
    queued,
    statistics,
    waiting,
)

from foreseen.embedded import EmbeddedServer
from producer import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InputRefused,
    InvalidInput,
    InvalidKey,
    InvalidOutput,
    ModelFailed,
    ModelNotServed,
    PredictionTimeout,
    Producer,
    ProducerClosed,
    Source,
    UnknownKey,
)

pytestmark = pytest.mark.acceptance

MODELS = ("served.slow", "served.policies")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for this module, since nothing here dies: one worker of two threads."""
    directory = tmp_path_factory.mktemp("errors")
    with Deployment(directory, models=MODELS, lease_s=2.0, model_wait_s=10.0) as deployment:
        deployment.start_worker("threads", 2)
        yield deployment


@pytest.fixture
def served(running: Deployment) -> Iterator[Deployment]:
    """The deployment as if nothing had been asked yet; afterwards nothing is under way and every key has an expiry."""
    with Producer(running.settings) as producer:
        for model in ("slow", "unkept", "wrong-count", "bad-output", "typed", "short-failure"):
            producer.purge(model)
    for gate in running.directory.glob("gate-*"):
        gate.unlink()
    running.record.unlink(missing_ok=True)
    yield running
    for gate in ("busy", "wanted", "twice", "shared", "open", "bad"):  # a test that failed lets the next one run
        running.open_gate(gate)
    for name, tail in running.logs():
        print(f"--- end of {name}\n{tail}")
    wait_until(lambda: flights(running) == [], "nothing is under way")
    assert keys_without_expiry(running) == []


# --- refused before anything is queued --------------------------------------------------------------------------------


def test_an_input_that_does_not_fit_is_refused_before_anything_is_queued(served: Deployment) -> None:
    producer = served.producer()
    assert producer.predict("typed", {"width": 3, "label": "fits"}) == {"area": 9}
    before, begun = messages_sent(served), statistics(served, "typed@1")["begun"]
    for call in (producer.predict, producer.submit):
        with pytest.raises(InvalidInput, match=r"typed@1.*\$\.width") as raised:
            call("typed", {"width": 0, "label": "secret text"})
        assert "secret text" not in str(raised.value)
        with pytest.raises(InvalidInput, match=r"label"):
            call("typed", {"width": 1})
        with pytest.raises(InvalidInput):
            call("typed", {"width": object()})
        with pytest.raises(InvalidInput, match=r"0 to 9"):
            call("typed", {"width": 1, "label": ""}, priority=10)
    mixed = producer.submit_many("typed", [{"width": 4, "label": ""}, {"width": "wide", "label": ""}])
    assert mixed[0].result(20) == {"area": 16}
    with pytest.raises(InvalidInput):
        mixed[1].result(20)
    assert messages_sent(served) == before + 1
    assert queued(served, "typed@1") == 0
    assert flights(served) == []
    assert statistics(served, "typed@1")["begun"] == begun + 1


def test_an_input_that_is_too_large_is_refused(served: Deployment) -> None:
    producer = served.producer(max_input_bytes=1000)
    with pytest.raises(InvalidInput, match="FORESEEN_MAX_INPUT_BYTES"):
        producer.submit("slow", {"value": "x" * 1000})
    assert flights(served) == []


def test_a_model_that_nobody_serves(served: Deployment) -> None:
    served.producer().predict("slow", {"value": 1})  # a worker's first card comes a moment after it is ready
    producer = served.producer(model_wait_s=0.3)
    with pytest.raises(ModelNotServed, match="did you mean 'slow'"):
        producer.predict("slwo", {"value": 1})
    with pytest.raises(ModelNotServed, match=r"did you mean.*'slow@1'"):
        producer.predict("slow@2", {"value": 1})
    with pytest.raises(ModelNotServed, match=r"served of late: .*slow"):
        producer.submit("zzzzzzzz", {"value": 1})
    with pytest.raises(InvalidInput, match="not a model name"):
        producer.submit("No Such Name", {"value": 1})
    wait_until(lambda: flights(served) == [], "nothing waits for nobody; what others had computed is done")


def test_a_producer_that_comes_before_the_first_worker_waits_for_the_model(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    with pytest.raises(ModelNotServed, match="FORESEEN_MODELS"):
        deployment.producer(model_wait_s=0.2).predict("slow", {"value": 1})
    early = deployment.producer(model_wait_s=60.0)
    outcomes: list[Any] = []
    asking = threading.Thread(
        target=lambda: outcomes.extend(in_threads(5, lambda _: early.predict("slow", {"value": 1})["value"], 60))
    )
    asking.start()
    deployment.start_worker("threads", 2)
    asking.join(60)
    assert outcomes == [1] * 5
    assert len(deployment.computations(1)) == 1


# --- servers that are away --------------------------------------------------------------------------------------------


def test_a_cache_that_is_down_is_said_at_once_and_without_its_password(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(server_config={"requirepass": "hunter2"}, connect_timeout_s=1.0, reply_timeout_s=2.0)
    deployment.start_worker("threads", 2)
    producer = deployment.producer()
    fresh = deployment.producer()
    producer.predict("slow", {"value": 1})
    deployment.server.stop()
    bound_s = 1.0 + 2.0 + 2.0  # connecting and waiting for a reply, on a slow machine
    for each in (producer, fresh):
        for call in (
            lambda each=each: each.predict("slow", {"value": 2}, timeout=60),
            lambda each=each: each.submit("slow", {"value": 2}),
            lambda each=each: each.submit_many("slow", [{"value": 2}, {"value": 3}]),
            lambda each=each: each.peek("slow", {"value": 1}),
            lambda each=each: each.pending("slow@1:" + "0" * 40),
            lambda each=each: each.purge("slow"),
        ):
            began = time.monotonic()
            with pytest.raises(CacheUnavailable, match=r"The cache server at redis://127\.0\.0\.1") as raised:
                call()
            assert time.monotonic() - began < bound_s
            assert "hunter2" not in str(raised.value)
            assert raised.value.retryable
    began = time.monotonic()
    producer.close()
    fresh.close()
    assert time.monotonic() - began < 2 * bound_s


def test_a_cache_that_does_not_answer_is_given_up_after_the_reply_timeout(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(connect_timeout_s=1.0, reply_timeout_s=1.0)
    deployment.start_worker("threads", 2)
    producer = deployment.producer()
    producer.predict("slow", {"value": 1})
    stopped = psutil.Process(deployment.server.pid)
    stopped.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(CacheUnavailable):
            producer.predict("slow", {"value": 2}, timeout=60)
        assert time.monotonic() - began < 4
        outcomes = in_threads(20, lambda value: producer.predict("slow", {"value": value}, timeout=60), 30)
        assert {type(outcome) for outcome in outcomes} == {CacheUnavailable}
    finally:
        stopped.send_signal(signal.SIGCONT)
    wait_until(lambda: _answers(lambda: producer.predict("slow", {"value": 2})), "it answers again")


def test_a_broker_that_is_down_is_said_and_what_was_refused_leaves_nothing(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0, heartbeat_s=20.0, connect_timeout_s=1.0, reply_timeout_s=2.0)
    with cache_apart(deployment):
        deployment.start_worker("threads", 2)
        producer, other = deployment.producer(), deployment.producer()
        for each in (producer, other):
            assert each.predict("slow", {"value": "cached"})["value"] == "cached"
        port = deployment.server.port
        deployment.server.stop()

        for call in (producer.predict, producer.submit):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="The broker at redis://") as raised:
                call("slow", {"value": "refused"})
            assert time.monotonic() - began < 5
            assert raised.value.retryable
        many = producer.submit_many("slow", [{"value": "cached"}, {"value": "refused too"}])
        assert many[0].result(5)["value"] == "cached"  # a hit needs no broker
        with pytest.raises(BrokerUnavailable):
            many[1].result(5)
        assert flights(deployment) == []

        # A follower that waits has joined while the leader still tried: the leader's failure is not the follower's.
        leading = threading.Event()
        publish = producer._client._publisher.publish  # type: ignore[union-attr]

        def held(*arguments: Any) -> list[Any]:
            leading.set()
            wait_until(lambda: waiting(other) == 1, "the follower waits")
            return publish(*arguments)

        producer._client._publisher.publish = held  # type: ignore[union-attr, method-assign]
        outcomes: list[Any] = []

        def ask(index: int) -> Any:
            if index == 0:
                return producer.predict("slow", {"value": "followed"}, timeout=40)
            leading.wait(20)
            return other.predict("slow", {"value": "followed"}, timeout=40)["value"]

        asking = threading.Thread(target=lambda: outcomes.extend(in_threads(2, ask, 60)), daemon=True)
        asking.start()
        leading.wait(20)
        wait_until(lambda: waiting(producer) == 0 and waiting(other) == 1, "the leader has left")
        wait_until(lambda: len(flights(deployment)) == 1, "the follower's flight stands")
        deployment.server = EmbeddedServer(port)
        deployment.server.start()
        producer._client._publisher.publish = publish  # type: ignore[union-attr, method-assign]
        assert producer.predict("slow", {"value": "refused"}, timeout=40)["value"] == "refused"
        asking.join(60)
        assert isinstance(outcomes[0], BrokerUnavailable)
        assert outcomes[1] == "followed"
        assert len(deployment.computations("followed")) == 1
        producer.close()
        other.close()


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_caller_who_stops_waiting_leaves_and_what_nobody_wants_ends(served: Deployment) -> None:
    producer = served.producer()
    producer.predict("slow", {"value": "known"})
    busy = [producer.submit("slow", {"value": n, "wait_for": str(served.gate("busy"))}) for n in range(2)]
    for n in range(2):
        served.wait_for_computations(n)
    with pytest.raises(PredictionTimeout, match="slow@1"):
        producer.predict("slow", {"value": "unwanted"}, timeout=0.2)
    wait_until(lambda: len(flights(served)) == 2, "only those that compute are left")
    served.open_gate("busy")
    assert [pending.result(20)["value"] for pending in busy] == [0, 1]
    assert producer.predict("slow", {"value": "last"})["value"] == "last"
    assert served.computations("unwanted") == []


def test_a_caller_who_stops_waiting_leaves_others_their_computation(served: Deployment) -> None:
    producer, other = served.producer(), served.producer()
    request = {"value": "wanted", "wait_for": str(served.gate("wanted"))}
    kept = other.submit("slow", request)
    served.wait_for_computations("wanted")
    with pytest.raises(PredictionTimeout):
        producer.predict("slow", request, timeout=0.2)
    with pytest.raises(PredictionTimeout):
        other.predict("slow", request, timeout=0.2)
    served.open_gate("wanted")
    assert kept.result(20)["value"] == "wanted"
    assert kept.source is Source.COMPUTED
    assert len(served.computations("wanted")) == 1


@pytest.mark.parametrize("same_process", [True, False])
def test_cancel_takes_only_ones_own_submission_back(served: Deployment, same_process: bool) -> None:
    producer = served.producer()
    other = producer if same_process else served.producer()
    request = {"value": "twice", "wait_for": str(served.gate("twice"))}
    first, second = producer.submit("slow", request), other.submit("slow", request)
    assert (first.source, second.source) == (Source.COMPUTED, Source.COALESCED)
    assert first.cancel()
    assert first.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        first.result(5)
    served.open_gate("twice")
    assert second.result(20)["value"] == "twice"
    assert not second.cancel()
    assert len(served.computations("twice")) == 1


def test_cancel_of_everyone_ends_what_has_not_begun(served: Deployment) -> None:
    producer, other = served.producer(), served.producer()
    for n in range(2):
        producer.submit("slow", {"value": n, "wait_for": str(served.gate("busy"))})
        served.wait_for_computations(n)
    pendings = [each.submit("slow", {"value": "never"}) for each in (producer, other, producer)]
    for pending in pendings:
        assert pending.cancel()
    assert len(flights(served)) == 2
    served.open_gate("busy")
    assert producer.predict("slow", {"value": "last"})["value"] == "last"
    assert served.computations("never") == []
    assert producer.predict("slow", {"value": "never"})["value"] == "never"  # a new one is computed all the same


@pytest.mark.parametrize("kind", ["submit", "predict"])
def test_a_deadline_that_passes_in_the_queue(served: Deployment, kind: str) -> None:
    producer = served.producer()
    for n in range(2):
        producer.submit("slow", {"value": n, "wait_for": str(served.gate("busy"))})
        served.wait_for_computations(n)
    deadline_s = 0.3
    outcomes: list[Any] = []

    def ask(_: int) -> Any:
        if kind == "predict":
            return producer.predict("slow", {"value": "late"}, deadline_s=deadline_s, timeout=25)
        return producer.submit("slow", {"value": "late"}, deadline_s=deadline_s).result(25)

    asking = threading.Thread(target=lambda: outcomes.extend(in_threads(1, ask)), daemon=True)
    asking.start()
    wait_until(lambda: waiting(producer) == 3, "it waits")
    passes_at = time.monotonic() + deadline_s
    wait_until(lambda: time.monotonic() > passes_at, "the deadline has passed")
    served.open_gate("busy")
    asking.join(30)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded], outcomes
    assert served.computations("late") == []
    assert producer.predict("slow", {"value": "late"}, timeout=20)["value"] == "late"  # that failure is not kept


# --- attaching by key -------------------------------------------------------------------------------------------------


def test_another_process_attaches_by_key(served: Deployment) -> None:
    producer = served.producer()
    pending = producer.submit("slow", {"value": "shared", "wait_for": str(served.gate("shared")), "nonce": True})
    attached = served.start_producer(
        """
producer = Producer()
pending = producer.pending(arguments["key"])
say("attached")
say(pending.result(20))
say(producer.pending(arguments["key"]).result(5))
say(str(producer.pending(arguments["key"]).source))
""",
        key=pending.key,
    )
    assert attached.hear() == "attached"
    before = messages_sent(served)
    served.open_gate("shared")
    outcome = pending.result(20)
    assert attached.finish() == [outcome, outcome, "hit"]
    assert len(served.computations("shared")) == 1
    assert messages_sent(served) == before


def test_a_key_that_nobody_knows(served: Deployment) -> None:
    producer = served.producer()
    with pytest.raises(UnknownKey, match="never asked for"):
        producer.pending("slow@1:" + "0" * 40)
    for wrong in ("", "slow", "slow@1:xyz", "slow@1:" + "0" * 39):
        with pytest.raises(InvalidKey):
            producer.pending(wrong)
    assert flights(served) == []


def test_close_ends_what_is_open_and_what_was_submitted_is_still_computed(served: Deployment) -> None:
    producer = served.producer()
    request = {"value": "open", "wait_for": str(served.gate("open"))}
    pendings = [producer.submit("slow", request) for _ in range(3)]
    outcomes: list[Any] = []
    asking = threading.Thread(
        target=lambda: outcomes.extend(in_threads(3, lambda _: producer.predict("slow", request))), daemon=True
    )
    asking.start()
    wait_until(lambda: waiting(producer) == 6, "six wait")
    producer.close()
    for pending in pendings:
        with pytest.raises(ProducerClosed, match=r"pending\(key\)"):
            pending.result(5)
    asking.join(20)
    assert [type(outcome) for outcome in outcomes] == [ProducerClosed] * 3
    with pytest.raises(ProducerClosed):
        producer.submit("slow", {"value": "later"})
    later = served.producer().pending(pendings[0].key)
    served.open_gate("open")
    assert later.result(20)["value"] == "open"


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_is_told_to_everyone_who_joined_and_then_forgotten(served: Deployment) -> None:
    producers = [served.producer() for _ in range(3)]
    request = {"value": "bad", "raise": "boom", "wait_for": str(served.gate("bad"))}
    pendings = [producer.submit("short-failure", request) for producer in producers for _ in range(3)]
    served.wait_for_computations("bad")
    served.open_gate("bad")
    for pending in pendings:
        with pytest.raises(ModelFailed, match="ValueError: boom") as raised:
            pending.result(20)
        assert raised.value.details == {"type": "ValueError"}
    assert len(served.computations("bad")) == 1

    def forgotten() -> bool:
        return producers[0].peek("short-failure", {"value": "x"}) is None and not _fails(
            lambda: producers[0].peek("short-failure", request)
        )

    wait_until(forgotten, "the failure's expiry")
    with pytest.raises(ModelFailed, match="boom"):
        producers[0].predict("short-failure", request)
    assert len(served.computations("bad")) == 2


@pytest.mark.parametrize(
    ("model", "value", "error", "message"),
    [
        ("wrong-count", "one", InvalidOutput, "expected 1, got 2"),
        ("bad-output", "text", InvalidOutput, "bad-output@1"),
        ("bad-output", {"a": b"bytes"}, InvalidOutput, "bad-output@1"),
    ],
)
def test_an_output_that_does_not_fit_is_a_failure_for_everyone(
    served: Deployment, model: str, value: Any, error: type[Exception], message: str
) -> None:
    producers = [served.producer(), served.producer()]
    for producer in producers:
        with pytest.raises(error, match=message):
            producer.predict(model, value, timeout=20)
    assert len(served.computations(value)) == 1
    assert served.producer().predict("bad-output", 5) == 5


def test_one_bad_item_fails_alone(served: Deployment) -> None:
    producer = served.producer()
    requests = [{"value": index, **({"raise_batch": "bang"} if index == 3 else {})} for index in range(8)]
    pendings = producer.submit_many("slow", requests)
    with pytest.raises(ModelFailed, match="ValueError: bang"):
        pendings[3].result(20)
    assert [pendings[index].result(20)["value"] for index in range(8) if index != 3] == [0, 1, 2, 4, 5, 6, 7]
    assert InputRefused not in {type(pending.exception()) for pending in pendings}


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except CacheUnavailable:
        return False
    return True


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except ModelFailed:
        return True
    return False
