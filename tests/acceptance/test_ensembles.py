"""Ensembles over real workers: their members are asked, waited for without a slot, and combined."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import POOLS, Deployment, Pool, wait_until

from producer import DeadlineExceeded, ModelFailed, TooFewMembers

pytestmark = pytest.mark.acceptance

_MODELS = ("served.ensembles",)


@pytest.mark.parametrize("pool", POOLS)
def test_one_slot_computes_an_ensemble_and_all_of_its_members(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(models=_MODELS, lease_s=10.0)
    deployment.start_worker(pool, concurrency=1)
    producer = deployment.producer()

    answers = [pending.result(30) for pending in producer.submit_many("average", [{"value": n} for n in range(20)])]
    assert [answer["answer"] for answer in answers] == [3.0 * n for n in range(20)]
    assert answers[0]["members"] == ["one@1", "two@1", "six@1"]
    assert answers[0]["missing"] == {}
    assert len(deployment.computations()) == 60

    assert producer.submit("average", {"value": 1}).source == "hit"
    assert producer.predict("total", {"value": 1})["answer"] == 9.0  # of members that are all there
    assert len(deployment.computations()) == 61  # its combination
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled", 30)


@pytest.mark.parametrize("pool", POOLS)
def test_ensembles_of_ensembles_do_not_wait_for_each_other_s_slots(
    deploy: Callable[..., Deployment], pool: Pool
) -> None:
    deployment = deploy(models=_MODELS, lease_s=10.0)
    deployment.start_worker(pool, concurrency=1)
    producer = deployment.producer()
    answers = [pending.result(30) for pending in producer.submit_many("outer", [{"value": n} for n in range(12)])]
    assert [answer["answer"] for answer in answers] == [2.0 * n for n in range(12)]
    assert answers[0]["members"][0].startswith("average@1+")


def test_a_cascade_asks_the_dear_one_only_where_the_cheap_one_is_in_doubt(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    answers = [pending.result(30) for pending in producer.submit_many("cascade", [{"value": n} for n in range(10)])]
    assert [answer["answer"]["label"] for answer in answers] == ["cheap", "dear"] * 5
    assert [len(deployment.computations(("dear", n))) for n in range(10)] == [0, 1] * 5
    assert all(answer["missing"] == {} for answer in answers)


def test_a_cascade_goes_on_where_the_cheap_one_fails_and_says_so(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    answer = deployment.producer().predict("cascade", {"value": 2, "fail": ["cheap"]})
    assert answer["answer"]["label"] == "dear"
    assert answer["missing"] == {"cheap@1": "ModelFailed: ValueError: cheap will not"}


def test_a_stacker_is_a_prediction_of_its_own(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    answer = producer.predict("stack", {"value": 3})
    assert answer["answer"] == "one 3 and two 6"
    assert answer["members"] == ["one@1", "two@1", "judge@1"]
    assert producer.predict("judge", {"one": 3.0, "two": 6.0}) == "one 3 and two 6"
    assert len(deployment.computations(("judge", 3.0))) == 1


def test_votes_of_members(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    assert producer.predict("votes", {"value": 2})["answer"] == {"label": "dear", "confidence": pytest.approx(2 / 3)}
    assert producer.predict("softly", {"value": 2})["answer"] == {"label": "a", "confidence": pytest.approx(0.6)}


def test_with_a_member_missing_the_answer_says_so_and_is_kept_for_a_short_time(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    request = {"value": 4, "fail": ["six"]}
    answer = producer.predict("quorum", request)
    assert answer == {
        "answer": 6.0,
        "members": ["one@1", "two@1"],
        "missing": {"six@1": "ModelFailed: ValueError: six will not"},
    }
    assert producer.peek("quorum", request) == answer
    wait_until(lambda: producer.peek("quorum", request) is None, "it is forgotten", 3)
    with pytest.raises(TooFewMembers, match="2 answers of 3 that it needs: six@1: ModelFailed") as raised:
        producer.predict("average", request)
    assert raised.value.details == {"missing": {"six@1": "ModelFailed: ValueError: six will not"}}


def test_what_a_member_s_member_misses_shortens_the_outer_answer_s_life_too(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    request = {"value": 4, "fail": ["six"]}
    answer = producer.predict("outer-quorum", request)
    assert answer["answer"] == 5.0
    ((who, why),) = answer["missing"].items()
    assert who.startswith("quorum@1+")
    assert who.endswith("/six@1")
    assert why == "ModelFailed: ValueError: six will not"
    wait_until(lambda: producer.peek("outer-quorum", request) is None, "it is forgotten", 3)


def test_a_member_that_takes_too_long_is_done_without(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker(concurrency=3)
    producer = deployment.producer()
    request = {"value": 4, "wait_for": str(deployment.gate("{name}"))}
    deployment.open_gate("one")
    deployment.open_gate("two")
    answer = producer.predict("quorum", request, timeout=20)
    assert answer["answer"] == 6.0
    assert answer["missing"] == {"six@1": "no answer within 2 s"}
    deployment.open_gate("six")


def test_a_member_that_is_not_served_yet_is_asked_again(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=("served.ensembles:One", "served.ensembles:Two", "served.ensembles:Six"))
    members = deployment.start_worker()
    over = deployment.start_worker(FORESEEN_MODELS="served.ensembles:Average")
    members.terminate()
    members.wait()
    with deployment.redis() as client:
        client.delete(*[f"{deployment.settings.namespace}:card:{name}@1" for name in ("one", "two", "six")])
    pending = deployment.producer().submit("average", {"value": 1})
    wait_until(lambda: over.logged("'waiting': 1"), "its slot is free again")
    deployment.start_worker()
    assert pending.result(30)["answer"] == 3.0


def test_a_combiner_that_fails_fails_that_input_alone(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker()
    producer = deployment.producer()
    good, bad = producer.submit_many("total", [{"value": 1}, {"value": 13 / 9}])
    assert good.result(20)["answer"] == 9.0
    with pytest.raises(ModelFailed, match="an unlucky sum"):
        bad.result(20)


def test_priority_and_deadline_are_the_members_too(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_worker(concurrency=1)
    producer = deployment.producer()
    gate = str(deployment.gate("go"))
    running = producer.submit("one", {"value": 0, "wait_for": gate})
    deployment.wait_for_computations(("one", 0))
    over = deployment.start_worker(concurrency=1, FORESEEN_MODELS="served.ensembles:Average")
    request = {"value": 7}
    late = producer.submit("average", request, deadline_s=2.0, priority=8)
    wait_until(lambda: deployment.flight(request, "six").get("priority") == "8", "the members are asked")
    assert int(deployment.flight(request, "six")["deadline"]) > 0
    time.sleep(2.0)
    deployment.open_gate("go")
    with pytest.raises(DeadlineExceeded):
        late.result(20)
    assert running.result(20) == 0.0
    assert over.is_running
    assert deployment.computations(("six", 7)) == []


def test_without_the_cache_an_ensemble_is_computed_by_its_members(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS, without_cache="compute")
    deployment.start_worker()
    producer = deployment.producer()
    assert producer.predict("over-unkept-member", {"value": 2})["answer"] == 2.0


def test_a_member_of_which_another_version_becomes_current_is_told_once_and_stays(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(models=("served.ensembles:One", "served.ensembles:Two", "served.ensembles:Six"))
    deployment.start_worker()
    worker = deployment.start_worker(FORESEEN_MODELS="served.ensembles:Average")
    producer = deployment.producer()
    before = producer.predict("average", {"value": 1})
    with deployment.redis() as client:
        client.set(f"{deployment.settings.namespace}:current:six", "2")
    wait_until(lambda: worker.logged("six@2 is current now"), "the worker has noticed")
    assert producer.predict("average", {"value": 1}) == before
    assert producer.predict("average", {"value": 2})["members"] == ["one@1", "two@1", "six@1"]
    assert worker.logged("six@2 is current now") == 1


def test_two_askers_join_one_computation(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=_MODELS)
    deployment.start_workers(2)
    producer, other = deployment.producer(), deployment.producer()
    request: dict[str, Any] = {"value": 5, "wait_for": str(deployment.gate("go"))}
    first = producer.submit("total", request)
    deployment.wait_for_computations(("one", 5))
    second = other.submit("total", request)
    assert (first.source, second.source) == ("computed", "coalesced")
    deployment.open_gate("go")
    assert first.result(20) == second.result(20)
    assert len(deployment.computations(("noted", 45.0))) == 1
