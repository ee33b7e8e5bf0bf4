"""What a model's policies promise, seen from who asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from acceptance.cache_troubles import faces
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import statistics

from producer import ModelFailed, Source, TransientFailure

pytestmark = pytest.mark.acceptance


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(models=("served.policies",))
    deployment.start_worker("threads", 4)
    return deployment


def test_failures_are_kept_by_their_kind(deployment: Deployment) -> None:
    """One that passes is asked for again at once; one that comes again is told again, without a computation."""
    producer = deployment.producer()
    for kind, error, computed in (("transient", TransientFailure, 2), ("permanent", ModelFailed, 1)):
        for _ in range(2):
            with pytest.raises(error):
                producer.predict("by-kind", {"value": kind, kind: True, "raise": "broken"}, timeout=DEADLINE_S)
        assert len(deployment.computations(kind)) == computed


def test_a_failure_that_is_forgotten_is_computed_again(deployment: Deployment) -> None:
    producer = deployment.producer()
    request = {"value": "brief", "raise": "broken"}
    with pytest.raises(ModelFailed):
        producer.predict("short-failure", request, timeout=DEADLINE_S)
    assert producer.submit("short-failure", request).source is Source.HIT
    wait_until(lambda: producer.submit("short-failure", request).source is Source.COMPUTED, "it has been forgotten")


def test_what_its_model_does_not_want_kept_is_delivered_to_all_who_joined(
    deployment: Deployment, tmp_path: Path
) -> None:
    producer, other = deployment.producer(), deployment.producer()
    request = {"value": 0, "nonce": True, "wait_for": str(tmp_path / "go")}
    pendings = [each.submit("choosy", request) for each in (producer, other)]
    (tmp_path / "go").touch()
    first, second = (pending.result(DEADLINE_S) for pending in pendings)
    assert first == second
    assert [pending.source for pending in pendings] == [Source.COMPUTED, Source.COALESCED]
    assert producer.peek("choosy", request) is None
    assert producer.predict("choosy", request, timeout=DEADLINE_S)["holder"] != first["holder"]
    kept = {"value": 1, "nonce": True}
    assert producer.predict("choosy", kept, timeout=DEADLINE_S) == producer.predict("choosy", kept)
    assert statistics(deployment, "choosy@1")["unkept"] == 2


def test_what_a_model_cannot_say_is_delivered_and_not_kept(deployment: Deployment) -> None:
    producer = deployment.producer()
    for _ in range(2):
        assert producer.predict("choosy", {"value": "unsayable"}, timeout=DEADLINE_S)["value"] == "unsayable"
    assert len(deployment.computations("unsayable")) == 2
    (worker,) = deployment.workers
    assert worker.logged("cacheable raised RuntimeError") == 1


def test_nothing_is_kept_longer_than_was_asked_for(deployment: Deployment) -> None:
    """By both faces; past the cache with `refresh` and 0, which leaves what it holds."""
    with faces(deployment) as both:
        for n, producer in enumerate(both):
            request = {"value": n, "nonce": True}
            first = producer.predict("choosy", {**request, "value": n + 1}, timeout=DEADLINE_S)
            kept = {**request, "value": n + 1}
            past = producer.predict("choosy", kept, timeout=DEADLINE_S, refresh=True, expiry_s=0)
            assert past["holder"] != first["holder"]
            assert producer.predict("choosy", kept, timeout=DEADLINE_S) == first

            short = {**request, "value": n + 11}
            producer.predict("choosy", short, timeout=DEADLINE_S, expiry_s=0.5)
            wait_until(lambda: deployment.producer().peek("choosy", short) is None, "it is forgotten")  # noqa: B023


def test_what_a_chunk_asks_for_is_its_own(deployment: Deployment) -> None:
    producer = deployment.producer()
    inputs = [{"value": value} for value in (1, 2)]
    list(producer.map("choosy", inputs, timeout=DEADLINE_S, expiry_s=0))
    handle = producer.model("choosy")
    assert [handle.peek(each) for each in inputs] == [None, None]
    for pending in handle.submit_many(inputs, expiry_s=60):
        pending.result(DEADLINE_S)
    assert [handle.peek(each)["value"] for each in inputs] == [1, 2]


def test_large_results_are_compressed_and_answer_as_any_other(deploy: Callable[..., Deployment]) -> None:
    """Pushed, read from the cache, and from a near cache; signed, too."""
    deployment = deploy(models=("served.policies",), signing_keys="one:" + "k" * 40)
    deployment.start_worker("threads", 2)
    large, small = {"value": 1, "pad": 200_000}, {"value": 2}
    with faces(deployment, near_cache_bytes=10**7) as both:
        for request in (large, small):
            answers = [producer.predict("compressed", request, timeout=DEADLINE_S) for producer in both * 3]
            assert all(answer == answers[0] for answer in answers)
        assert len(answers[0]) == 2
    assert deployment.producer().peek("compressed", large)["pad"] == "x" * 200_000
    with deployment.redis() as cache:
        entries = sorted(map(len, cache.mget(cache.keys("*:e:*"))))
        assert entries[-1] < 2000
    assert len(deployment.computations(1)) == 1
