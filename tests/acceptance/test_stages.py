"""A stage's features are computed once for all models over it, wherever these run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

from foreseen.cache import Cache
from foreseen.flights import Flights
from foreseen.keys import BUCKETS
from producer import ModelFailed, Producer

pytestmark = pytest.mark.acceptance

_MODELS = ("served.staged",)
_STAGE = "stage.pixels@1"


def _counted(deployment: Deployment, model_id: str, what: str) -> int:
    """Return a count of a model's statistics."""
    space = Flights(deployment.settings).space
    cache = Cache(deployment.settings)
    try:
        counts = cache.commands([("HGET", space.statistics_of(model_id, bucket), what) for bucket in BUCKETS])
    finally:
        cache.close()
    return sum(int(count or 0) for count in counts)


def _ask(producer: Producer, model: str, values: range) -> list[float]:
    return [pending.result(30) for pending in producer.submit_many(model, [{"value": value} for value in values])]


@pytest.mark.parametrize("pool", POOLS)
def test_features_are_computed_once_for_two_models(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(models=_MODELS, lease_s=10.0)
    deployment.start_worker(pool)
    producer = deployment.producer()

    assert _ask(producer, "sums", range(40)) == [4 * value + 6 for value in range(40)]
    assert _ask(producer, "largest", range(40)) == [value + 3 for value in range(40)]

    assert [len(deployment.computations(("pixels", value))) for value in range(40)] == [1] * 40
    assert [len(deployment.computations(("largest", value))) for value in range(40)] == [1] * 40
    assert _counted(deployment, _STAGE, "computed") == 40
    wait_until(lambda: _counted(deployment, _STAGE, "hit") == 40, "its hits are counted apart")
    assert _ask(producer, "sums", range(40)) == [4 * value + 6 for value in range(40)]
    assert len(deployment.computations()) == 120
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")


def test_what_another_process_prepares_is_waited_for(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS, lease_s=10.0)
    deployment.start_workers(2, concurrency=1)
    producer = deployment.producer()
    request = {"value": 1, "wait_for": str(deployment.gate("go"))}
    first = producer.submit("sums", request)
    deployment.wait_for_computations(("pixels", 1))
    second = producer.submit("largest", request)
    wait_until(lambda: deployment.flight(request, "stage.pixels", "1").keys() & {"published"}, "it runs")
    wait_until(
        lambda: any(name.startswith("w:") for name in deployment.flight(request, "stage.pixels", "1")),
        "the other process has joined",
    )
    deployment.open_gate("go")
    assert (first.result(20), second.result(20)) == (10.0, 4.0)
    assert len(deployment.computations(("pixels", 1))) == 1


def test_who_prepares_for_too_long_is_not_waited_for(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS, lease_s=10.0)
    stopped, _ = deployment.start_workers(2, concurrency=1)
    producer = deployment.producer()
    request = {"value": 1, "wait_for": str(deployment.gate("go"))}
    first = producer.submit("sums", request)
    (running,) = deployment.wait_for_computations(("pixels", 1))
    stopped = deployment.worker_of(running.pid)
    stopped.stop_process()
    try:
        deployment.open_gate("go")
        assert producer.predict("largest", request, timeout=8) == 4.0  # within the stopped one's lease
    finally:
        stopped.continue_process()
    assert first.result(20) == 10.0
    assert len(deployment.computations(("pixels", 1))) == 2


@pytest.mark.parametrize("pool", POOLS)
def test_an_input_that_cannot_be_prepared_fails_alone(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker(pool)
    producer = deployment.producer()
    good, bad = producer.submit_many("sums", [{"value": 1}, {"value": 2, "raise": "no image"}])
    assert good.result(20) == 10.0
    with pytest.raises(ModelFailed, match="no image"):
        bad.result(20)
    with pytest.raises(ModelFailed, match="no image"):  # which the stage's entry says
        producer.predict("largest", {"value": 2, "raise": "no image"})
    assert len(deployment.computations(("pixels", 2))) == 1
    assert _counted(deployment, _STAGE, "failed") == 1


def test_features_that_are_not_kept_are_prepared_for_each_model(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    assert producer.predict("over-unkept", {"value": 1}) == 10.0
    assert producer.predict("over-unkept", {"value": 1}, refresh=True) == 10.0
    assert len(deployment.computations(("pixels", 1))) == 2


def test_a_stage_can_be_asked_by_its_name(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    assert producer.predict("stage.pixels", {"value": 5}).tolist() == [5.0, 6.0, 7.0, 8.0]
    assert producer.predict("sums", {"value": 5}) == 26.0
    assert len(deployment.computations(("pixels", 5))) == 1
    assert producer.purge("stage.pixels") == 1
    assert producer.predict("largest", {"value": 5}) == 8.0
    assert len(deployment.computations(("pixels", 5))) == 2


def test_a_process_that_dies_while_it_prepares_loses_nothing(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS, lease_s=1.0)
    deployment.start_worker("prefork", concurrency=1)
    producer = deployment.producer()
    request = {"value": 3, "die_unless": str(deployment.gate("mended"))}
    pending = producer.submit("sums", request)
    deployment.wait_for_computations(("pixels", 3))
    deployment.open_gate("mended")
    assert pending.result(30) == 18.0
    assert producer.predict("largest", request) == 6.0
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")


_OVER = "served.staged:OverApart"
_APART = "served.staged:ApartPixels"


@pytest.mark.parametrize("pool", POOLS)
def test_a_stage_of_its_own_workers_is_waited_for_without_a_slot(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(models=(_OVER,), lease_s=10.0)
    over = deployment.start_worker(pool, concurrency=1)
    preparing = deployment.start_worker("prefork", concurrency=1, FORESEEN_MODELS=_APART)
    producer = deployment.producer()
    held = producer.submit("over-apart", {"value": 1, "wait_for": str(deployment.gate("go"))})
    (running,) = deployment.wait_for_computations(("pixels", 1))
    assert deployment.worker_of(running.pid) is preparing
    wait_until(lambda: over.logged("'waiting': 1"), "its slot is free")
    queued = [producer.submit("over-apart", {"value": value}) for value in range(2, 8)]
    wait_until(lambda: over.logged("'waiting': 1") == 7, "all of them wait in one slot's process")
    deployment.open_gate("go")
    assert held.result(20) == 10.0
    assert [pending.result(20) for pending in queued] == [4.0 * value + 6 for value in range(2, 8)]

    many = producer.submit_many("over-apart", [{"value": value} for value in range(1, 40)])
    assert [pending.result(20) for pending in many][1:7] == [4.0 * value + 6 for value in range(2, 8)]
    assert all(len(deployment.computations(("pixels", value))) == 1 for value in range(2, 40))
    assert all(len(deployment.computations(("sums", value))) == 1 for value in range(2, 40))
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")


def test_what_its_own_workers_cannot_prepare_fails_as_it_did_there(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=(_OVER,))
    deployment.start_worker()
    deployment.start_worker(FORESEEN_MODELS=_APART)
    with pytest.raises(ModelFailed, match="no image"):
        deployment.producer().predict("over-apart", {"value": 2, "raise": "no image"})


def test_features_that_others_computed_and_the_cache_did_not_keep_are_computed_here(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(models=("served.staged:OverLarge",), max_entry_bytes=100_000)
    deployment.start_worker()
    deployment.start_worker(FORESEEN_MODELS="served.staged:LargePixels")
    assert deployment.producer().predict("over-large", {"value": 2}, timeout=20) == 25_000 * 14.0
    assert len(deployment.computations(("pixels", 2))) == 2


def test_a_process_that_dies_while_it_waits_for_its_stage_costs_a_lease(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=(_OVER,), lease_s=1.0)
    over = deployment.start_worker(concurrency=1)
    deployment.start_worker(concurrency=1, FORESEEN_MODELS=_APART)
    producer = deployment.producer()
    pending = producer.submit("over-apart", {"value": 1, "wait_for": str(deployment.gate("go"))})
    wait_until(lambda: over.logged("'waiting': 1"), "it waits")
    over.kill()
    deployment.start_worker(concurrency=1)
    deployment.open_gate("go")
    assert pending.result(20) == 10.0
