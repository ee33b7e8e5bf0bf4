"""Who asked by the bare name: a flight knows, so that nobody is told that its version is gone before he is seen to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foreseen.flights import Kind, Watermark
from foreseen.holding import Finish

if TYPE_CHECKING:
    from conftest import Steps


def bare(steps: Steps) -> bytes | None:
    return steps.redis.hget(steps.space.flight(steps.key), "bare")  # type: ignore[return-value]


def finish(steps: Steps, begun: object, holder: str, *, named: bool) -> Finish:
    call = steps.finish_call(begun, holder, success=False)  # type: ignore[arg-type]
    return steps.run(call._replace(args=(*call.args[:-1], int(named)))).code


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_flight_knows_whether_who_opened_it_asked_so(steps: Steps, *, is_bare: bool) -> None:
    steps.joined("a", Kind.DETACHED, bare=is_bare)
    assert bare(steps) == (b"1" if is_bare else None)


def test_and_whether_who_joined_did(steps: Steps) -> None:
    steps.joined("a", Kind.DETACHED, bare=False)
    steps.joined("b", Kind.DETACHED, bare=True)
    steps.joined("c", Kind.DETACHED, bare=False)
    assert bare(steps) == b"1"


def test_one_that_is_opened_over_it_knows_too(steps: Steps) -> None:
    steps.joined("a", Kind.DETACHED, bare=True)
    steps.purge()
    steps.joined("b", Kind.DETACHED, bare=False)
    assert bare(steps) == b"1"


def test_a_look_says_so_too(steps: Steps) -> None:
    joined = steps.joined("a", Kind.DETACHED, bare=True)
    steps.redis.delete(steps.space.flight(steps.key))
    steps.run(steps.flights.look(steps.ticket("a", Kind.DETACHED, bare=True), joined.token, 0, Watermark()))
    assert bare(steps) == b"1"


def test_of_one_that_is_opened_from_its_message_nobody_knows(steps: Steps) -> None:
    joined = steps.joined("a", Kind.DETACHED, bare=False)
    steps.redis.delete(steps.space.flight(steps.key))
    steps.begin(joined, "h1")
    assert bare(steps) == b"1"


def test_what_is_for_those_who_named_the_version_changes_nothing_where_somebody_did_not(steps: Steps) -> None:
    inbox = steps.inbox("a")
    joined = steps.joined("a", Kind.DETACHED, bare=True)
    begun = steps.begin(joined, "h1")
    before = steps.redis.hgetall(steps.space.flight(steps.key))
    assert finish(steps, begun, "h1", named=True) is Finish.BARE
    assert steps.redis.hgetall(steps.space.flight(steps.key)) == before
    assert inbox.pushes() == []
    assert finish(steps, begun, "h1", named=False) in {Finish.TOLD, Finish.KEPT}
    assert [push.tokens for push in inbox.pushes()] == [(joined.token,)]
    assert finish(steps, begun, "h1", named=True) is Finish.SETTLED


def test_it_is_told_where_all_named_it_and_only_by_the_holder(steps: Steps) -> None:
    joined = steps.joined("a", Kind.DETACHED, bare=False)
    begun = steps.begin(joined, "h1")
    assert finish(steps, begun, "h2", named=True) is Finish.HELD
    assert finish(steps, begun, "h1", named=True) in {Finish.TOLD, Finish.KEPT}


def test_who_only_waits_asks_again_by_himself(steps: Steps) -> None:
    """A waiter's ticket never says bare: he is there to hear of it."""
    joined = steps.joined("a", Kind.WAITER, bare=False)
    assert bare(steps) is None
    begun = steps.begin(joined, "h1")
    assert finish(steps, begun, "h1", named=True) in {Finish.TOLD, Finish.KEPT}
