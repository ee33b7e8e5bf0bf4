"""What is said of an outage, how often, and who is spared finding out."""

from __future__ import annotations

import pytest

from foreseen.errors import CacheUnavailable
from foreseen.outage import Outage, Outages


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_is_said_once_and_once_when_it_is_over(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis://cache/1", clock=clock)
    for _ in range(3):
        outage.failed("The cache server is away", refused=False)
    clock.now += 12.5
    assert outage.told() == Outages(1, 3, 12.5, is_away=True)
    assert outage.succeeded()
    assert not outage.succeeded()
    assert caplog.messages == [
        "The cache server is away (said once; a line follows when it is over)",
        "The cache server at redis://cache/1 is back: it was away for 12.5 s; 3 calls failed.",
    ]
    assert outage.told() == Outages(1, 3, 12.5, is_away=False)


def test_a_server_that_refuses_is_well_once_it_has_refused_nothing_for_a_while(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers some calls all along: that alone says nothing."""
    outage = Outage("redis://cache/1", clock=clock)
    for _ in range(5):
        outage.failed("full", refused=True)
        clock.now += 1
        assert not outage.succeeded()
    clock.now += 4
    assert outage.succeeded()
    assert caplog.messages[1:] == [
        "The cache server at redis://cache/1 takes everything again: it refused for 4.0 s; 5 calls failed."
    ]


def test_while_finding_out_takes_long_one_call_a_second_does(clock: Clock) -> None:
    outage = Outage("redis://cache/1", breaks=True, clock=clock)
    outage.check()
    outage.failed("no route", refused=False, took_s=2.0)
    for _ in range(3):
        with pytest.raises(CacheUnavailable, match="no route"):
            outage.check()
    clock.now += 1
    outage.check()  # this one finds out
    with pytest.raises(CacheUnavailable):
        outage.check()
    assert outage.succeeded()
    outage.check()
    assert outage.told().calls_failed == 5


@pytest.mark.parametrize(("breaks", "took_s"), [(True, 0.001), (False, 2.0)], ids=["at once", "not wanted"])
def test_otherwise_everybody_tries(clock: Clock, *, breaks: bool, took_s: float) -> None:
    outage = Outage("redis://cache/1", breaks=breaks, clock=clock)
    outage.failed("refused", refused=False, took_s=took_s)
    outage.check()
    outage.check()
