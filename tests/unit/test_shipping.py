"""What callers publish at the same moment shares messages, and each hears his own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from foreseen.broker import Publisher
from foreseen.canonical import canonicalize
from foreseen.client.effects import Send
from foreseen.client.shipping import Shipping, outcome_of
from foreseen.errors import BrokerUnavailable, QueueFull
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.settings import Settings


class Broker:
    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.trips = 0
        self.refused: dict[str, Exception] = {}
        self.events: list[str] = []

    def publish(self, messages: Sequence[Message], bounds: Mapping[str, int]) -> Sequence[Message]:
        self.trips += 1
        self.events.append("sent")
        if messages[0].model_id in self.refused:
            raise self.refused[messages[0].model_id]
        room = bounds.get(messages[0].queue(SHIPPED_FROM), len(messages))
        self.sent += messages[:room]
        return messages[room:]


SHIPPED_FROM = Shipping(Settings(namespace="t"), cast("Publisher", None))._space


class Caller:
    """One caller's items: tokens, each of an input of its own."""

    def __init__(self, broker: Broker, *tokens: str, **changes: object) -> None:
        self.ids: Mapping[str, str] = {}
        self.broker = broker
        priority = cast("int", changes.pop("priority", 4))
        fields: dict[str, object] = {
            "model_id": "model@1",
            "sent_ms": 1,
            "batch_size": 4,
            "max_queued": None,
            **changes,
        }
        items = [
            (Item(key_of("model", "1", canonicalize(token)), token, 1, 0, canonicalize(token)), priority)
            for token in tokens
        ]
        self.send = Send(items=items, told=self.told, **fields)  # type: ignore[arg-type]

    def told(self, ids: Mapping[str, str]) -> None:
        self.broker.events.append("told")
        self.ids = ids


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def shipping(broker: Broker) -> Shipping:
    return Shipping(Settings(namespace="t"), cast("Publisher", broker))


def tokens(messages: Sequence[Message]) -> list[list[str]]:
    return [[item.token for item in message.items] for message in messages]


def test_items_of_many_callers_fill_messages_of_a_batch_each(broker: Broker, shipping: Shipping) -> None:
    callers = [Caller(broker, token) for token in "abcdef"]
    assert shipping.ship([each.send for each in callers]) == [frozenset()] * 6
    assert (tokens(broker.sent), broker.trips) == ([list("abcd"), list("ef")], 1)
    assert [caller.ids[token] for caller, token in zip(callers, "abcdef", strict=True)] == [
        message.id for message in broker.sent for _ in message.items
    ]


def test_a_lone_caller_s_message_is_his_alone(broker: Broker, shipping: Shipping) -> None:
    assert shipping.ship([Caller(broker, "a", "b").send]) == [frozenset()]
    assert tokens(broker.sent) == [["a", "b"]]


def test_they_know_in_which_message_before_it_goes(broker: Broker, shipping: Shipping) -> None:
    """The outcome may be here sooner than the broker's reply."""
    shipping.ship([Caller(broker, "a").send, Caller(broker, "b").send])
    assert broker.events == ["told", "told", "sent"]


def test_priorities_and_models_do_not_mix(broker: Broker, shipping: Shipping) -> None:
    callers = [
        Caller(broker, "a"),
        Caller(broker, "b", priority=9),
        Caller(broker, "c", model_id="other@2"),
        Caller(broker, "d"),
    ]
    shipping.ship([each.send for each in callers])
    assert sorted((message.model_id, message.priority, tokens([message])[0]) for message in broker.sent) == [
        ("model@1", 4, ["a", "d"]), ("model@1", 9, ["b"]), ("other@2", 4, ["c"]),
    ]  # fmt: skip


def test_a_shared_message_carries_the_latest_of_their_sending_times(broker: Broker, shipping: Shipping) -> None:
    shipping.ship([Caller(broker, "a", sent_ms=5).send, Caller(broker, "b", sent_ms=3).send])
    assert [message.sent_ms for message in broker.sent] == [5]


def test_a_flight_that_two_callers_publish_is_in_the_message_once(broker: Broker, shipping: Shipping) -> None:
    """Two that are detached may follow the same flight before its message is marked."""
    callers = [Caller(broker, "a"), Caller(broker, "a", "b")]
    assert shipping.ship([each.send for each in callers]) == [frozenset()] * 2
    assert tokens(broker.sent) == [["a", "b"]]
    assert callers[0].ids["a"] == callers[1].ids["a"] == broker.sent[0].id


def test_a_flight_whose_priority_another_raises_is_sent_with_both(broker: Broker, shipping: Shipping) -> None:
    shipping.ship([Caller(broker, "a").send, Caller(broker, "a", priority=9).send])
    assert sorted((message.priority, tokens([message])[0]) for message in broker.sent) == [(4, ["a"]), (9, ["a"])]


def test_of_a_full_queue_each_is_told_which_of_his_were_not_sent(broker: Broker, shipping: Shipping) -> None:
    callers = [Caller(broker, "a", "b", "c", max_queued=1), Caller(broker, "d", "e", max_queued=1)]
    told = shipping.ship([each.send for each in callers])
    assert tokens(broker.sent) == [list("abcd")]
    assert [outcome_of(each) & set("abcde") for each in told] == [{"e"}, {"e"}]


def test_one_model_s_refusal_is_not_another_s(broker: Broker, shipping: Shipping) -> None:
    broker.refused["full@1"] = QueueFull("the broker's own bound")
    callers = [Caller(broker, "a", model_id="full@1"), Caller(broker, "b"), Caller(broker, "c", model_id="full@1")]
    first, second, third = shipping.ship([each.send for each in callers])
    assert second == frozenset()
    assert tokens(broker.sent) == [["b"]]
    assert isinstance(first, QueueFull)
    assert isinstance(third, QueueFull)
    assert first is not third


def test_an_error_is_raised_to_whoever_sent(broker: Broker, shipping: Shipping) -> None:
    cause = OSError("refused")
    broker.refused["model@1"] = BrokerUnavailable("away")
    broker.refused["model@1"].__cause__ = cause
    (told,) = shipping.ship([Caller(broker, "a").send])
    with pytest.raises(BrokerUnavailable, match="away") as raised:
        outcome_of(told)
    assert raised.value.__cause__ is cause
