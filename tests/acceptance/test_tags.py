"""Tags: what was submitted with one is forgotten by it, whoever gave it and however the submission was answered."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from acceptance.cache_troubles import OnALoop
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from foreseen.keys import KeySpace
from producer import InvalidInput, Source

pytestmark = pytest.mark.acceptance

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests that break nothing: each asks for values and tags of its own."""
    with Deployment(tmp_path_factory.mktemp("tags"), models=["served.slow", "served.policies"]) as deployment:
        deployment.start_worker("threads", 8)
        yield deployment


class Face:
    """A producer of either kind, called from threads."""

    def __init__(self, producer: Any, call: Callable[[Any], Any]) -> None:
        self.producer = producer
        self.called = call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.producer, name)
        return lambda *arguments, **options: self.called(method(*arguments, **options))

    def taken(self, outputs: Any) -> list[str]:
        """Return what names the computations of mapped outputs."""
        if hasattr(outputs, "__aiter__"):
            return list(self.called(_listed(outputs)))
        return [each["holder"] for each in outputs]

    def result(self, pending: Any) -> Any:
        """Return what a pending prediction, or one that is awaited, came to."""
        return self.called(pending.result(DEADLINE_S))

    def holder(self, request: dict[str, Any], **options: Any) -> str:
        """Predict; return what names the computation that the answer is of."""
        holder: str = self.predict("slow", request, timeout=DEADLINE_S, **options)["holder"]
        return holder


async def _listed(outputs: AsyncIterator[dict[str, str]]) -> list[str]:
    return [each["holder"] async for each in outputs]


def of(deployment: Deployment, kind: str, **settings: Any) -> Iterator[Face]:
    if kind == "threads":
        with deployment.producer(**settings) as producer:
            yield Face(producer, lambda value: value)
    else:
        with OnALoop(deployment, **settings) as loop:
            yield Face(loop.producer, loop.call)


@pytest.fixture(params=["threads", "loop"])
def face(request: pytest.FixtureRequest, served: Deployment) -> Iterator[Face]:
    yield from of(served, request.param)


@pytest.fixture(params=["threads", "loop"])
def near(request: pytest.FixtureRequest, served: Deployment) -> Iterator[Face]:
    yield from of(served, request.param, near_cache_bytes=10**6)


def new() -> dict[str, Any]:
    return {"value": f"tagged {next(numbers)}", "nonce": True}


@pytest.fixture
def tag(face: Face) -> str:
    """A tag that has been in use: its index knows of no loss, and an entry that is written now has nothing to fear."""
    tag = f"customer:{next(numbers)}"
    face.holder(new(), tags=[tag])
    return tag


def test_what_was_submitted_with_a_tag_is_forgotten_and_nothing_else(face: Face, tag: str) -> None:
    one, other = new(), new()
    wider = f"all of {tag}"
    first, second = face.holder(one, tags=[tag, wider]), face.holder(other, tags=[wider])
    assert face.holder(one) == first
    assert face.invalidate_tag(tag) == 2
    assert face.holder(one) != first
    assert face.holder(other) == second
    assert face.invalidate_tag(wider) == 2
    assert face.holder(other) != second
    assert face.invalidate_tag("nobody's") == 0


def test_a_tag_that_is_given_on_a_hit_counts(face: Face, tag: str) -> None:
    request = new()
    first = face.holder(request)
    pending = face.submit("slow", request, tags=[tag])
    assert pending.source is Source.HIT
    face.invalidate_tag(tag)
    assert face.holder(request) != first


def test_so_does_one_that_a_follower_gives_while_it_is_computed(face: Face, tag: str, served: Deployment) -> None:
    gate = served.gate(f"gate-{next(numbers)}")
    request = {**new(), "wait_for": str(gate)}
    leader, follower = face.submit("slow", request), face.submit("slow", request, tags=[tag])
    assert (leader.source, follower.source) == (Source.COMPUTED, Source.COALESCED)
    served.wait_for_computations(request["value"])
    face.invalidate_tag(tag)
    gate.touch()
    late = face.holder(request)
    told = {face.result(each)["holder"] for each in (leader, follower)}
    assert len(told) == 1, "of what was under way, or of what has taken its place"
    assert face.holder(request) == late
    assert len(served.computations(request["value"])) == 2


def test_so_does_one_that_is_given_where_an_entry_is_kept_near(near: Face, served: Deployment) -> None:
    tag = f"near:{next(numbers)}"
    near.holder(new(), tags=[tag])
    request = new()
    hits = near.near_cache().hits
    first = near.holder(request)
    wait_until(lambda: near.holder(request) == first and near.near_cache().hits > hits, "it is kept near")
    assert near.submit("slow", request, tags=[tag]).source is Source.HIT
    near.invalidate_tag(tag)
    assert near.holder(request) != first, "its own near cache knows before the call returns"
    second = near.holder(request)
    wait_until(lambda: near.holder(request) == second and near.near_cache().hits > hits, "it is kept near")
    with served.producer() as another:
        assert another.invalidate_tag(tag) == 1
    wait_until(lambda: near.holder(request) != second, "it was told by the server")


def test_so_does_one_of_bytes_that_are_found_near_without_a_key(near: Face) -> None:
    tag, data = f"near:{next(numbers)}", f"bytes {next(numbers)}".encode()
    near.predict("echo", b"first", tags=[tag], timeout=DEADLINE_S)
    near.predict("echo", data, timeout=DEADLINE_S)
    hits = near.near_cache().hits
    wait_until(lambda: near.predict("echo", data) == data and near.near_cache().hits > hits, "it is kept near")
    near.predict("echo", data, tags=[tag])
    with pytest.raises(InvalidInput, match="is one text"):
        near.predict("echo", data, tags="")
    assert near.invalidate_tag(tag) == 2
    assert near.peek("echo", data) is None


def test_so_do_those_of_many_that_are_read_without_the_script(face: Face, tag: str) -> None:
    requests = [new() for _ in range(40)]
    firsts = [face.result(each)["holder"] for each in face.submit_many("slow", requests)]
    for _ in range(4):  # from then on, they are expected to hit
        assert {each.source for each in face.submit_many("slow", requests)} == {Source.HIT}
    tagged = face.submit_many("slow", requests, tags=lambda request: [tag] if request in requests[:10] else [])
    assert {each.source for each in tagged} == {Source.HIT}
    assert face.invalidate_tag(tag) == 11
    assert [face.holder(request) != first for request, first in zip(requests, firsts, strict=True)] == [
        number < 10 for number in range(40)
    ]


def test_a_handle_gives_its_own(face: Face, tag: str) -> None:
    slow = face.producer.model("slow", tags=lambda request: [f"value:{request['value']}"])
    request = new()
    first = face.called(slow.predict(request))["holder"]
    face.called(slow.submit(request, tags=[tag]))
    for each in (f"value:{request['value']}", tag):
        face.invalidate_tag(each)
        second = face.called(slow.predict(request))["holder"]
        assert second != first
        first = second


def test_map_gives_them(face: Face, tag: str) -> None:
    requests = [new() for _ in range(5)]

    def mapped() -> list[str]:
        return face.taken(face.producer.map("slow", requests, tags=[tag]))

    first = mapped()
    assert face.invalidate_tag(tag) == 6
    assert not set(first) & set(mapped())


def test_wrong_ones_are_refused_and_nothing_is_queued(face: Face) -> None:
    request = new()
    for tags, what in (("customer:42", "is one text"), ([""], "is not a tag"), (["a"] * 3 + [5], "is not a tag")):
        for ask in (face.predict, face.submit):
            with pytest.raises(InvalidInput, match=what):
                ask("slow", request, tags=tags)
        with pytest.raises(InvalidInput, match=what):
            face.submit_many("slow", [request], tags=tags)
    assert face.peek("slow", request) is None
    with pytest.raises(InvalidInput, match="is not a tag"):
        face.invalidate_tag("a\nb")


def test_of_an_index_that_was_evicted_nothing_is_answered_that_an_invalidation_may_have_missed(
    face: Face, tag: str, served: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    request = new()
    first = face.holder(request, tags=[tag])
    with served.redis(1) as client:
        assert client.delete(KeySpace(served.settings.namespace).tag_index(tag)) == 1
    with caplog.at_level(logging.WARNING, "foreseen.client"):
        assert face.invalidate_tag(tag) == 0
    assert f"index of tag {tag} was lost" in caplog.text
    second = face.holder(request, tags=[tag])
    assert second != first
    assert face.holder(request, tags=[tag]) == second, "once"


def test_so_it_is_while_that_is_computed(face: Face, tag: str, served: Deployment) -> None:
    gate = served.gate(f"gate-{next(numbers)}")
    request = {**new(), "wait_for": str(gate)}
    leader = face.submit("slow", request, tags=[tag])
    served.wait_for_computations(request["value"])
    with served.redis(1) as client:
        client.delete(KeySpace(served.settings.namespace).tag_index(tag))
    face.invalidate_tag(tag)
    later = face.submit("slow", request, tags=[tag])
    gate.touch()
    face.result(leader)
    face.result(later)
    assert later.source is Source.COMPUTED
    assert len(served.computations(request["value"])) == 2


def test_an_older_entry_is_computed_anew_when_tags_are_used_for_the_first_time(
    deploy: Callable[..., Deployment],
) -> None:
    """It may have been submitted with this tag before, and both index and directory have been lost since."""
    deployment = deploy(models=("served.slow",))
    deployment.start_worker("threads", 2)
    with deployment.producer() as producer:
        request = new()
        first = producer.predict("slow", request, timeout=DEADLINE_S)["holder"]
        second = producer.predict("slow", request, timeout=DEADLINE_S, tags=["first"])["holder"]
        assert first != second
        assert producer.predict("slow", request, tags=["first"])["holder"] == second
