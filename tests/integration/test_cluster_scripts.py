"""Every step on a cluster: no key of another slot, and none that the script does not declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from foreseen.embedded import EmbeddedServer
from foreseen.flights import Call, Hit, Joined, Kind, Watermark
from foreseen.holding import Alone, Begin, Begun, Finish, HolderFlights

if TYPE_CHECKING:
    from conftest import Steps


BEGUN = Begun(Begin.RUN, "t1", b"generatn", 1)

#: One call of each method of `HolderFlights`.
CALLS: dict[str, Callable[[Steps], Call[Any]]] = {
    "join": lambda steps: steps.flights.join(steps.ticket()),
    "look": lambda steps: steps.flights.look(steps.ticket(), "t1,t2", 0, Watermark()),
    "begin": lambda steps: steps.flights.begin(steps.key, "t1", 1, 0, 4, "1" * 16, "m1", alone=Alone.IN_PROCESS),
    "finish": lambda steps: steps.finish_call(BEGUN),
    "renew": lambda steps: steps.flights.renew(steps.key, "h1"),
    "give_up": lambda steps: steps.flights.give_up(steps.key, "h1", died="signal 9"),
    "wanted": lambda steps: steps.flights.wanted(steps.key, "h1"),
    "copied": lambda steps: steps.flights.copied(steps.key, "0" * 16, "c1", 1, "0" * 16),
    "published": lambda steps: steps.flights.published(steps.key, "t1"),
    "leave": lambda steps: steps.flights.leave(steps.key, "a", 1, Kind.WAITER),
    "peek": lambda steps: steps.flights.peek(steps.key),
    "invalidate": lambda steps: steps.flights.invalidate(steps.key),
    "purge": lambda steps: steps.flights.purge(steps.key.model_id, steps.key.bucket),
    "tally": lambda steps: steps.flights.tally("model@1", 1, 1, 1, {"0000000a": 16}),
    "measure": lambda steps: steps.flights.measure("model@1", {"items::0": 1}),
    "tag": lambda steps: steps.flights.tag("customer:42", [steps.key]),
    "settle": lambda steps: steps.flights.settle("customer:42", {steps.key: 1}),
    "raise_watermark": lambda steps: steps.flights.raise_watermark("model@1", 4, 1),
    "promote": lambda steps: steps.flights.promote("model", "2"),
}


@pytest.fixture
def steps(cluster_server: EmbeddedServer, steps_on: Callable[..., Steps]) -> Steps:
    return steps_on(cluster_server.url(0))


def test_every_step_is_listed_here() -> None:
    steps = {name for name, _ in inspect.getmembers(HolderFlights, inspect.isfunction) if not name.startswith("_")}
    assert steps == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_all_keys_of_a_step_lie_in_one_slot(steps: Steps, name: str) -> None:
    call = CALLS[name](steps)
    assert len(set(call.keys)) == len(call.keys) >= 1
    slots = {steps.redis.execute_command("CLUSTER KEYSLOT", key) for key in call.keys}
    own = steps.redis.execute_command("CLUSTER KEYSLOT", steps.space.generation(steps.key))
    assert len(slots) == 1
    if name not in {"tally", "measure"}:  # these lie in the first bucket, which may be this one
        elsewhere = name in {"raise_watermark", "tag", "settle", "promote"}
        assert (slots == {own}) == (not elsewhere), "these alone lie elsewhere"


@pytest.mark.parametrize("name", CALLS)
def test_a_step_runs_where_nothing_is_known(steps: Steps, name: str) -> None:
    steps.run(CALLS[name](steps))


def test_every_way_through_the_scripts_keeps_to_its_slot(steps: Steps) -> None:
    """A script that touches an undeclared key of another slot, or builds the name of one, is refused here."""
    inbox = steps.inbox("a")
    old = steps.joined("a", serial=1)
    steps.run(steps.flights.published(steps.key, old.token))
    steps.begin(old, "h1", alone=Alone.NO)
    assert steps.run(steps.flights.renew(steps.key, "h1"))
    assert steps.begin(old, "h2").code is Begin.HELD
    assert steps.run(steps.flights.copied(steps.key, old.token, "c1", 1, old.token))
    assert steps.give_up("h1", died=True)
    assert steps.begin(old, "h3", alone=Alone.NO).code is Begin.ALONE
    begun = steps.begin(old, "h3")
    assert steps.give_up("h3")
    steps.purge()
    new = steps.joined("b")
    assert steps.finish(begun, "h3").code is Finish.RESEND
    begun = steps.begin(new, "h4")
    steps.lapse()
    assert isinstance(steps.look(new.token, "b"), Joined)
    assert steps.finish(begun, "h4", expiry_ms=0).code is Finish.TOLD
    assert set(inbox.push().tokens) == {old.token, new.token}
    assert isinstance(steps.look(old.token, "a"), Hit)
    entry = steps.compute("c")
    assert steps.entry() == entry
    assert steps.begin(new, "h5").code is Begin.SETTLED
    assert steps.invalidate()
    last = steps.joined("a", serial=9)
    assert steps.leave("a", 9)
    assert steps.begin(last, "h6").code is Begin.SETTLED
