"""When a message that arrives is begun: at once, or, if it is a copy, when a lease has ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from foreseen.canonical import canonicalize
from foreseen.errors import MalformedMessage
from foreseen.keys import key_of
from foreseen.message import CONTENT_TYPE, Item, Message
from foreseen.settings import Settings
from foreseen.signing import Keyring
from workers.arrival import admit

SETTINGS = Settings(namespace="t", lease_s=10)


def arrived(**headers: Any) -> Any:
    """Return a delivery after it was looked at."""
    canonical = canonicalize(1)
    item = Item(key_of("model", "1", canonical), "0" * 16, 1, 0, canonical)
    sent = Message("model@1", (item,), 1, 4)
    body = sent.body()
    delivery = SimpleNamespace(
        headers={**sent.headers(), **headers}, content_type=CONTENT_TYPE, body=body, payload=msgpack.unpackb(body)
    )
    admit(delivery, SETTINGS, Keyring())
    return delivery


@pytest.mark.parametrize("shift_s", [90, 0, -90])
def test_a_copy_is_held_by_the_receiver_s_clock(shift_s: float) -> None:
    """The sender's clock and the receiver's may differ by more than any lease."""
    before = datetime.now(UTC)
    eta = (before + timedelta(seconds=5 + shift_s)).isoformat()
    held = datetime.fromisoformat(arrived(due_s=5.0, eta=eta).headers["eta"]) - before
    assert timedelta(seconds=5) <= held < timedelta(seconds=15)


def test_everything_else_begins_at_once() -> None:
    assert arrived().headers["eta"] is None
    assert arrived(eta="2099-01-01T00:00:00+00:00").headers["eta"] is None


def test_outcomes_are_sent_to_a_producer_s_own_queue() -> None:
    assert arrived(reply_to="t.replies.0123456789abcdef").headers["reply_to"] == "t.replies.0123456789abcdef"
    assert arrived().headers["reply_to"] is None


def test_who_asked_is_passed_on_if_it_is_well_formed_and_costs_the_message_nothing_else() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert arrived(contexts=[f"{trace} request-7"]).headers["contexts"] == [f"{trace} request-7"]
    for malformed in ("text", [trace, trace], [7], ["not a trace and\nno id"], {"0": trace}):
        assert "contexts" not in arrived(contexts=malformed).headers


def test_an_audit_is_told_from_what_asks_for_a_reply() -> None:
    headers = arrived(reply_to="audit").headers
    assert headers["reply_to"] == "audit"
    assert headers["argsrepr"].endswith("source: audit")


@pytest.mark.parametrize(
    "queue",
    [
        "t.model@1",
        "t.dead",
        "other.replies.0123456789abcdef",
        "t.replies.0123",
        "t.replies.0123456789abcdef\n",
        "",
        7,
        [],
    ],
)
def test_and_nowhere_else(queue: object) -> None:
    with pytest.raises(MalformedMessage, match="no producer's queue"):
        arrived(reply_to=queue)


@pytest.mark.parametrize("due_s", ["5", -1, 1e300, float("nan"), [5], True, 71])
def test_what_is_no_duration_of_a_lease_is_refused(due_s: object) -> None:
    with pytest.raises(MalformedMessage, match="due at no time"):
        arrived(due_s=due_s)
