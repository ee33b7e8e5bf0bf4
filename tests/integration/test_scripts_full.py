"""finish on a cache that refuses what it is to keep: everybody who joined is told all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from foreseen.embedded import EmbeddedServer
from foreseen.flights import Hit
from foreseen.holding import Begin, Finish

if TYPE_CHECKING:
    from conftest import Steps


@pytest.fixture
def full_server() -> Iterator[EmbeddedServer]:
    """A server of its own, to be filled."""
    with EmbeddedServer(config={"maxmemory-policy": "noeviction"}) as server:
        yield server


@pytest.fixture
def full_steps(full_server: EmbeddedServer, steps_on: Callable[..., Steps]) -> Steps:
    return steps_on(full_server.url(1))


@pytest.mark.parametrize("success", [True, False])
def test_what_a_full_cache_refuses_to_keep_is_told_all_the_same(full_steps: Steps, success: bool) -> None:
    steps = full_steps
    inbox = steps.inbox("a")
    joined = steps.joined("a")
    begun = steps.begin(joined)
    steps.redis.delete(steps.space.statistics(steps.key))
    steps.redis.config_set("maxmemory", 1)
    finished = steps.finish(begun, value="told", success=success)
    steps.redis.config_set("maxmemory", 0)
    assert finished.code is Finish.TOLD
    push = inbox.push()
    assert push.tokens == (joined.token,)
    assert steps.entry() is None
    assert not steps.flight()
    assert steps.look(joined.token) == Hit(push.entry), "and stays readable: ending the flight has made room for it"
    assert steps.begin(joined, "h2").code is Begin.SETTLED
