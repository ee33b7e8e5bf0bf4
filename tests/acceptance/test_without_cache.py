"""Computed without the cache, where a deployment wants that: the outcome comes back by the broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest
import redis
from acceptance.cache_troubles import OnALoop, answered_again, faces
from acceptance.harness import DEADLINE_S, POOLS, Deployment, Pool, wait_until
from acceptance.probes import cache_apart, in_threads, queued

from foreseen.embedded import EmbeddedServer
from producer import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    PredictionTimeout,
    Producer,
    Source,
    TooManyAttempts,
)

pytestmark = pytest.mark.acceptance

LEASE_S: Final = 1.0
COMPUTE: Final = {"without_cache": "compute", "lease_s": LEASE_S, "visibility_timeout_s": 20.0}


def lose(server: EmbeddedServer, producer: Producer) -> None:
    """Take the cache away from a producer that knows the model."""
    producer.predict("slow", {"value": "known"}, timeout=DEADLINE_S)
    server.stop()


@pytest.mark.parametrize("pool", POOLS)
def test_who_asks_is_answered_and_what_is_kept_waits_for_the_cache(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server, faces(deployment) as both:
        deployment.start_worker(pool, 1)
        for face in both:
            face.predict("slow", {"value": f"known to {face}"}, timeout=DEADLINE_S)
        port = server.port
        server.stop()
        for face in both:
            for _ in range(2):  # nothing is kept
                answer = face.predict("slow", {"value": f"new to {face}"}, timeout=DEADLINE_S)
                assert answer["value"] == f"new to {face}"
            assert len(deployment.computations(f"new to {face}")) == 2
            with pytest.raises(ModelFailed, match="no good"):
                face.predict("slow", {"value": face.name, "raise": "no good"}, timeout=DEADLINE_S)
            assert face.outages().sent_without == 3
            assert face.outages().is_away
        with EmbeddedServer(port):
            for face in both:
                assert answered_again(face, {"value": f"known to {face}"}) == f"known to {face}"
                wait_until(lambda face=face: is_cached(face), "it is back in use")
                assert face.outages().sent_without >= 3


def is_cached(face: Any) -> bool:
    """Whether what is asked twice is the answer of one computation."""
    request = {"value": f"again {time.monotonic()}", "nonce": True}
    first, second = (face.predict("slow", request, timeout=DEADLINE_S) for _ in range(2))
    return bool(first["holder"] == second["holder"])


def test_all_that_is_submitted_in_one_call_travels_together(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 2)
        producer = deployment.producer()
        lose(server, producer)
        values = [*range(16), *range(4)]
        pendings = producer.submit_many("slow", [{"value": value} for value in values])
        assert [pending.result(DEADLINE_S)["value"] for pending in pendings] == values
        assert [pending.source for pending in pendings] == [Source.COMPUTED] * 16 + [Source.COALESCED] * 4
        assert len({pending.task_id for pending in pendings[:16]}) == 2, "messages of eight, the model's batch"
        assert len(deployment.computations()) == 1 + 16
        assert producer.outages().sent_without == 16


def test_what_a_process_asks_twice_at_once_is_computed_once(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE)
    request = {"value": "hot", "wait_for": str(deployment.gate("go"))}
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 2)
        producer = deployment.producer()
        lose(server, producer)
        first = producer.submit("slow", request)
        deployment.wait_for_computations("hot")
        more = [producer.submit("slow", request) for _ in range(10)]
        deployment.open_gate("go")
        assert {each.result(DEADLINE_S)["value"] for each in (first, *more)} == {"hot"}
        assert {each.source for each in more} == {Source.COALESCED}
        assert len(deployment.computations("hot")) == 1


def test_who_waits_longer_does_not_follow_who_waits_less(deploy: Callable[..., Deployment]) -> None:
    """The impatient one's message may not be begun any more; the patient one has sent his own."""
    deployment = deploy(**COMPUTE)
    busy, request = {"value": "busy", "wait_for": str(deployment.gate("go"))}, {"value": "asked by two"}
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 1)
        producer = deployment.producer()
        lose(server, producer)
        running = producer.submit("slow", busy)
        deployment.wait_for_computations("busy")

        def ask(n: int) -> Any:
            if n:
                wait_until(lambda: producer.outages().sent_without == 2, "the impatient one has sent his")
                return producer.predict("slow", request, timeout=DEADLINE_S)
            with pytest.raises((PredictionTimeout, DeadlineExceeded)):
                producer.predict("slow", request, timeout=0.5)
            deployment.open_gate("go")
            return None

        assert in_threads(2, ask)[1]["value"] == "asked by two"
        assert running.result(DEADLINE_S)["value"] == "busy"


def test_what_nobody_can_wait_for_any_more_is_not_computed(deploy: Callable[..., Deployment]) -> None:
    """A deadline, and a waiter's patience: who has left cannot tell anybody."""
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 1)
        producer = deployment.producer()
        lose(server, producer)
        running = producer.submit("slow", {"value": "busy", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("busy")
        late = producer.submit("slow", {"value": "late"}, deadline_s=0.2)
        with pytest.raises(PredictionTimeout):
            producer.predict("slow", {"value": "left"}, timeout=0.2)
        deployment.open_gate("go")
        assert running.result(DEADLINE_S)["value"] == "busy"
        with pytest.raises(DeadlineExceeded):
            late.result(DEADLINE_S)
        wait_until(lambda: deployment.unsettled_messages() == 0, "all messages are settled")
        assert deployment.computations("late") == deployment.computations("left") == []


def test_those_who_wait_when_the_cache_goes_away(deploy: Callable[..., Deployment]) -> None:
    """Nobody can tell them what is computed for them; they have it computed again, and do not wait for the cache."""
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server, OnALoop(deployment) as loop:
        deployment.start_worker("threads", 8)
        producer = deployment.producer()
        requests = {
            name: {"value": f"waited for by {name}", "wait_for": str(deployment.gate("go"))}
            for name in ("threads", "loop")
        }
        pending = producer.submit("slow", requests["threads"])
        other = loop.submit("slow", requests["loop"])
        for request in requests.values():
            deployment.wait_for_computations(request["value"])
        server.stop()
        deployment.open_gate("go")
        assert pending.result(DEADLINE_S)["value"] == "waited for by threads"
        assert loop.call(_result(other))["value"] == "waited for by loop"


async def _result(pending: Any) -> Any:
    return await pending


def test_an_input_that_kills_its_process_is_stopped_and_its_neighbours_are_answered(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(**COMPUTE, max_attempts=2)
    with cache_apart(deployment) as server:
        deployment.start_worker("prefork", 2)
        producer = deployment.producer()
        lose(server, producer)
        good = [{"value": value} for value in range(3)]
        pendings = producer.submit_many("slow", [good[0], {"value": "poison", "die": True}, *good[1:]])
        poisoned = pendings.pop(1)
        assert [pending.result(DEADLINE_S)["value"] for pending in pendings] == [0, 1, 2]
        with pytest.raises(TooManyAttempts):
            poisoned.result(DEADLINE_S)
        assert len(deployment.computations("poison")) == 3, "once with the others, then alone"
        wait_until(lambda: deployment.unsettled_messages() == 0, "all messages are settled")


def test_a_worker_that_is_killed(deploy: Callable[..., Deployment]) -> None:
    """The broker delivers again what it held."""
    deployment = deploy(without_cache="compute", lease_s=LEASE_S, visibility_timeout_s=2.0)
    with cache_apart(deployment) as server:
        doomed = deployment.start_worker("threads", 2)
        producer = deployment.producer()
        lose(server, producer)
        pending = producer.submit("slow", {"value": "held", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("held")
        doomed.kill()
        deployment.open_gate("go")
        deployment.start_worker("threads", 2)
        assert pending.result(DEADLINE_S)["value"] == "held"


def test_without_a_card_or_a_broker_the_error_is_clear(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE, connect_timeout_s=0.5, reply_timeout_s=0.5)
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 1)
        knows, never_heard = deployment.producer(), deployment.producer()
        never_heard.outages()  # opens it
        lose(server, knows)
        with pytest.raises(CacheUnavailable):
            never_heard.predict("slow", {"value": 1}, timeout=DEADLINE_S)
        with pytest.raises(InvalidInput):
            knows.predict("slow", "no object", timeout=DEADLINE_S)
        deployment.server.stop()
        with pytest.raises(BrokerUnavailable):
            knows.predict("slow", {"value": 1}, timeout=DEADLINE_S)


def test_a_submission_outlives_its_producer_and_its_replies_do_not_pile_up(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server:
        deployment.start_worker("threads", 1)
        producer = deployment.producer()
        lose(server, producer)
        producer.submit("slow", {"value": "busy", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("busy")
        producer.submit("slow", {"value": "submitted"})
        producer.close()
        deployment.open_gate("go")
        deployment.wait_for_computations("submitted")
        wait_until(lambda: deployment.unsettled_messages() == 0, "all messages are settled")
        with deployment.redis(0) as broker:
            left = [name for name in broker.scan_iter("*") if b"replies" in name]
            assert left, "nobody has taken the replies"
            assert all(0 < broker.pttl(name) <= 60_000 for name in left)


def test_who_has_had_nothing_but_hits_knows_the_model_too(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE, card_refresh_s=0.1)
    with cache_apart(deployment) as server, OnALoop(deployment) as loop:
        deployment.start_worker("threads", 1)
        producer, other = deployment.producer(), deployment.producer()
        producer.predict("slow", {"value": "known"}, timeout=DEADLINE_S)
        for face in (other, loop):
            face.predict("slow", {"value": "known"})
            engine = (face if face is other else loop.producer)._client.engine  # type: ignore[union-attr]
            wait_until(lambda engine=engine: engine.catalog.knows("slow@1"), "it has looked again")
        server.stop()
        for face in (other, loop):
            assert face.predict("slow", {"value": f"new to {face}"}, timeout=DEADLINE_S)["value"] == f"new to {face}"


def test_where_messages_and_entries_are_signed(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(**COMPUTE, signing_keys="one:" + "k" * 40)
    with cache_apart(deployment) as server, faces(deployment) as both:
        deployment.start_worker("threads", 1)
        for face in both:
            face.predict("slow", {"value": f"known to {face}"}, timeout=DEADLINE_S)
        server.stop()
        for face in both:
            assert face.predict("slow", {"value": f"new to {face}"}, timeout=DEADLINE_S)["value"] == f"new to {face}"


def test_a_server_that_takes_no_writes(deploy: Callable[..., Deployment]) -> None:
    """Hits are answered from it all the same."""
    deployment = deploy(**COMPUTE)
    with cache_apart(deployment) as server, faces(deployment) as both:
        deployment.start_worker("threads", 2)
        for face in both:
            face.predict("slow", {"value": f"known to {face}", "nonce": True}, timeout=DEADLINE_S)
        with redis.Redis(port=server.port) as client:
            client.config_set("maxmemory", 1)
        for face in both:
            known = {"value": f"known to {face}", "nonce": True}
            assert face.predict("slow", known) == face.predict("slow", known)
            assert face.predict("slow", {"value": f"new to {face}"}, timeout=DEADLINE_S)["value"] == f"new to {face}"
            assert face.outages().sent_without == 1
        assert queued(deployment) == 0
