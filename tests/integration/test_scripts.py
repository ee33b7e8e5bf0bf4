"""How scripts reach the server: addressed by content, loaded where they are missing, typed where they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foreseen.errors import CacheUnavailable
from foreseen.flights import Call, Joined
from foreseen.scripts import Script, load

if TYPE_CHECKING:
    from conftest import Steps

NAMES = (
    "begin", "copied", "finish", "give_up", "invalidate", "join", "leave", "look", "measure", "peek", "published",
    "purge", "renew", "settle", "tag", "tally", "watermark",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_script_s_address_is_what_the_server_makes_of_its_text(steps: Steps, name: str) -> None:
    script = load(name)
    assert steps.redis.script_load(script.text) == script.sha


def test_a_server_that_forgot_the_scripts_gets_them_again(steps: Steps) -> None:
    steps.redis.script_flush()
    tickets = [steps.ticket("a"), steps.ticket("b")]
    first, second = steps.cache.run([steps.flights.join(ticket) for ticket in tickets])
    assert isinstance(first, Joined)
    assert isinstance(second, Joined)
    assert (first.led, second.led) == (True, False)


def test_calls_of_which_one_script_is_missing_are_answered_in_their_order(steps: Steps) -> None:
    """What the server knew has run already, and the missing one runs after it: each step stands by itself."""
    steps.redis.script_flush()
    joined = steps.joined("a")
    marked, order, found = steps.cache.run(
        [
            steps.flights.published(steps.key, joined.token),
            steps.flights.purge(steps.key.model_id, steps.key.bucket),
            steps.flights.join(steps.ticket("b", may_open=True)),
        ]
    )
    assert marked is True
    assert isinstance(order, int)
    assert isinstance(found, Joined)


def test_a_script_that_fails_says_so(steps: Steps) -> None:
    text = "return redis.call('INCR', KEYS[1])"
    sha = steps.redis.script_load(text)
    assert isinstance(sha, str)
    steps.redis.set(f"{steps.space.namespace}:text", "no number", px=60_000)
    with pytest.raises(CacheUnavailable, match="not an integer"):
        steps.run(Call(Script("broken", text, sha), (f"{steps.space.namespace}:text",), (), int))


def test_a_reply_that_no_release_knows_is_refused(steps: Steps) -> None:
    text = "return {9}"
    call = steps.flights.join(steps.ticket("a"))
    with pytest.raises(ValueError, match="replied"):
        steps.run(Call(Script("newer", text, str(steps.redis.script_load(text))), call.keys, (), call.read))
