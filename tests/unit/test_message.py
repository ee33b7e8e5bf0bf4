from __future__ import annotations

from collections import Counter
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreseen.canonical import canonicalize
from foreseen.errors import Malformed, MalformedMessage, UnsupportedLayout
from foreseen.keys import key_of
from foreseen.message import LAYOUT, LAYOUTS, MAX_ITEMS, TASK_NAME, Item, Message, new_task_id, pack_items

SECRET = "the input itself"


def item(value: Any = SECRET, **changes: Any) -> Item:
    canonical = canonicalize(value)
    fields: dict[str, Any] = {"token": "0011223344556677", "opened": 7, "deadline_ms": 0}
    return Item(key=key_of("model", "1", canonical), canonical=canonical, **(fields | changes))


def message(*items: Item, **changes: Any) -> Message:
    fields: dict[str, Any] = {"sent_ms": 1_700_000_000_000, "priority": 4}
    return Message("model@1", items or (item(),), **(fields | changes))


def arguments_of(one: Message) -> list[Any]:
    """Return what a worker is handed: the body, through msgpack as Celery reads it."""
    (arguments, keywords, embedded) = msgpack.unpackb(one.body())
    assert (keywords, embedded) == ({}, {})
    return list(arguments)


def changed(place: list[int], value: Any) -> list[Any]:
    """Return the arguments of a message with one field replaced."""
    arguments: list[Any] = arguments_of(message())
    inner = arguments
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return arguments


class TestRoundTrip:
    def test_a_message_is_read_as_it_was_written(self) -> None:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        written = message(
            item(1), item(b"raw"), item({"x": array, "y": b"z"}, deadline_ms=9, opened=2**53 - 1), priority=9
        )
        assert Message.read(written.id, arguments_of(written)) == written

    @pytest.mark.parametrize("expiry_ms", [None, 1500])
    def test_what_was_checked_before_is_read_the_same(self, expiry_ms: int | None) -> None:
        written = message(item(1), item(b"raw", deadline_ms=9), item("kept for so long")._replace(expiry_ms=expiry_ms))
        assert Message.read(written.id, arguments_of(written), is_checked=True) == written

    def test_the_arguments_may_come_as_a_tuple(self) -> None:
        written = message()
        assert Message.read(written.id, tuple(arguments_of(written))) == written

    def test_the_body_is_laid_out_as_the_protocol_says(self) -> None:
        """A frozen layout: other releases and other languages read it."""
        one = item(b"raw")
        assert arguments_of(message(one)) == [
            1, "model@1", 1_700_000_000_000, 4,
            [[one.key.digest, "0011223344556677", 7, 0, one.canonical.text, [b"raw"]]], 0,
        ]  # fmt: skip
        assert arguments_of(message(one, one._replace(expiry_ms=1500))) == [
            2, "model@1", 1_700_000_000_000, 4,
            [[one.key.digest, "0011223344556677", 7, 0, one.canonical.text, [b"raw"], expiry_ms]
             for expiry_ms in (None, 1500)], 0,
        ]  # fmt: skip
        assert frozenset({1, 2}) == LAYOUTS

    @pytest.mark.parametrize("expiry_ms", [None, 0, 1, 2**53 - 1])
    def test_how_long_an_item_is_kept_is_read_as_it_was_written(self, expiry_ms: int | None) -> None:
        written = message(item(1, expiry_ms=expiry_ms), item(2, expiry_ms=5))
        assert Message.read(written.id, arguments_of(written)) == written
        assert written.again(written.items[:1]).items[0].expiry_ms == expiry_ms


class TestMalformed:
    @pytest.mark.parametrize(
        ("place", "value"),
        [
            ([0], "1"), ([0], None), ([0], 1.0),
            ([1], b"model@1"), ([1], 1), ([1], "model"), ([1], "Model@1"), ([1], "model@"), ([1], "model@1:x"),
            ([2], "now"), ([2], None), ([2], 1.5), ([2], True), ([2], -1), ([2], 2**53),
            ([3], "4"), ([3], None), ([3], 10), ([3], -1), ([3], True),
            ([4], []), ([4], {}), ([4], "items"), ([4], None), ([4], [[]]), ([4], [None]), ([4], [{}]),
            ([4, 0, 0], b"\0" * 20), ([4, 0, 0], "f" * 39), ([4, 0, 0], "F" * 40), ([4, 0, 0], ""), ([4, 0, 0], ":"),
            ([4, 0, 0], "x:" + "f" * 40),
            ([4, 0, 1], 5), ([4, 0, 1], b"token"), ([4, 0, 1], "a,b"), ([4, 0, 1], "f" * 17), ([4, 0, 1], ""),
            ([4, 0, 2], "7"), ([4, 0, 2], None), ([4, 0, 2], True), ([4, 0, 2], -1),
            ([4, 0, 3], "0"), ([4, 0, 3], None), ([4, 0, 3], 0.5), ([4, 0, 3], 2**64 - 1),
            ([4, 0, 4], "text"), ([4, 0, 4], None),
            ([4, 0, 5], None), ([4, 0, 5], b"blob"), ([4, 0, 5], ["text"]), ([4, 0, 5], [b"blob", 1]),
            ([5], None), ([5], -1), ([5], True), ([5], "1"),
        ],
    )  # fmt: skip
    def test_a_field_that_is_not_what_it_claims_to_be(self, place: list[int], value: Any) -> None:
        with pytest.raises(MalformedMessage, match="task-1"):
            Message.read("task-1", changed(place, value))

    @pytest.mark.parametrize(
        "arguments", [None, [], {}, "text", 1, [1], [1, "model@1", 0, 4], [1, "m@1", 0, 4, [], 5, 6]]
    )
    def test_fields_that_are_missing_or_too_many(self, arguments: Any) -> None:
        with pytest.raises(MalformedMessage):
            Message.read("task-1", arguments)

    def test_an_item_with_a_field_too_many_or_too_few(self) -> None:
        whole: list[Any] = arguments_of(message())[4][0]
        for wrong in (whole[:-1], [*whole, 0]):
            with pytest.raises(MalformedMessage):
                Message.read("task-1", changed([4, 0], wrong))

    @pytest.mark.parametrize("expiry_ms", [-1, 1.5, True, "5", 2**53, b"", [], {}])
    def test_an_item_that_is_kept_for_no_time(self, expiry_ms: Any) -> None:
        arguments = arguments_of(message(item(expiry_ms=5)))
        arguments[4][0][6] = expiry_ms
        with pytest.raises(MalformedMessage, match="task-1"):
            Message.read("task-1", arguments)

    def test_an_item_of_the_other_layout(self) -> None:
        for arguments, layout in ((arguments_of(message()), 2), (arguments_of(message(item(expiry_ms=5))), 1)):
            with pytest.raises(MalformedMessage):
                Message.read("task-1", [layout, *arguments[1:]])

    def test_one_bad_item_condemns_the_message(self) -> None:
        arguments = arguments_of(message(item(1), item(2)))
        arguments[4][1][0] = "f" * 40
        with pytest.raises(MalformedMessage):
            Message.read("task-1", arguments)

    def test_an_input_under_another_s_digest(self) -> None:
        """So an answer can only be the answer to what was asked."""
        with pytest.raises(MalformedMessage, match="another digest") as raised:
            Message.read("task-1", changed([4, 0, 4], b'"another input"'))
        assert "another input" not in str(raised.value)

    def test_an_input_under_the_digest_of_another_model(self) -> None:
        with pytest.raises(MalformedMessage, match="another digest"):
            Message.read("task-1", changed([1], "model@2"))

    @pytest.mark.parametrize("layout", [0, 3, -1, 2**40])
    def test_another_layout_is_refused_before_anything_else_is_read(self, layout: int) -> None:
        with pytest.raises(UnsupportedLayout, match=f"layout {layout}"):
            Message.read("task-1", [layout, {"what": "ever"}])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(plain)
def test_whatever_arrives_is_read_or_called_malformed(arguments: Any) -> None:
    with pytest.raises(Malformed):  # no chance to hit a digest by accident
        Message.read("task-1", arguments)


@given(
    st.sampled_from(
        [[0], [1], [2], [3], [4], [4, 0], [4, 0, 0], [4, 0, 1], [4, 0, 2], [4, 0, 3], [4, 0, 4], [4, 0, 5]]
    ),
    plain,
)
def test_a_message_with_one_field_replaced_is_read_or_called_malformed(place: list[int], value: Any) -> None:
    try:
        read = Message.read("task-1", changed(place, value))
    except Malformed:
        return
    assert read.items[0].key == item().key


class TestHeaders:
    def test_show_only_short_keys(self) -> None:
        many = [item(f"{SECRET} {n}") for n in range(5)]
        headers = message(*many).headers()
        assert SECRET not in repr(headers)
        assert [one.key.digest[:8] in headers["argsrepr"] for one in many] == [True, True, True, False, False]
        assert all(one.key.digest[:9] not in repr(headers) for one in many)
        assert "items: 5" in headers["argsrepr"]
        assert headers["argsrepr"].endswith("…, source: computed")
        assert "…" not in message(*many[:3]).headers()["argsrepr"]

    def test_name_the_task_and_never_expire(self) -> None:
        one = message()
        headers = one.headers()
        assert (headers["task"], headers["id"], headers["root_id"]) == (TASK_NAME, one.id, one.id)
        assert (headers["expires"], headers["eta"], headers["ignore_result"]) == (None, None, True)

    def test_say_when_a_copy_is_due(self) -> None:
        """Not at what time: the receiver's clock is another."""
        headers = message(due_s=5.0).headers()
        assert (headers["due_s"], headers["eta"]) == (5.0, None)
        assert message().headers()["due_s"] is None


class TestAgain:
    def test_has_an_id_of_its_own_and_is_out_of_turn(self) -> None:
        first = message(item(1), item(2), priority=7)
        second = first.again([first.items[1]], due_s=3.0)
        assert second.id not in {first.id, first.again(first.items).id}
        assert (second.sent_ms, second.priority, second.model_id, second.due_s) == (0, 7, "model@1", 3.0)
        assert second.items == (first.items[1],)

    def test_is_due_now_unless_it_is_told(self) -> None:
        held = message(due_s=3.0)
        assert held.again(held.items).due_s == 0


class TestPacking:
    @given(
        st.lists(st.integers(0, 9), max_size=40),
        st.integers(1, 12),
    )
    def test_each_item_travels_once_in_as_few_messages_as_can_be(self, priorities: list[int], batch_size: int) -> None:
        ones = [item(n, token=f"{n:016x}") for n in range(len(priorities))]
        packed = pack_items("model@1", list(zip(ones, priorities, strict=True)), 5, batch_size, 10**9)
        assert Counter((one.token, each.priority) for each in packed for one in each.items) == Counter(
            (one.token, priority) for one, priority in zip(ones, priorities, strict=True)
        )
        assert all(0 < len(each.items) <= batch_size for each in packed)
        assert len(packed) == sum(-(-count // batch_size) for count in Counter(priorities).values())
        assert {each.sent_ms for each in packed} <= {5}
        assert len({each.id for each in packed}) == len(packed)
        for priority in set(priorities):  # who came first travels first
            tokens = [one.token for each in packed if each.priority == priority for one in each.items]
            assert tokens == sorted(tokens)

    def test_items_with_an_expiry_of_their_own_travel_apart(self) -> None:
        """A release that does not know it refuses what it cannot read: that must not be what others sent."""
        ones = [item(n, token=f"{n:016x}", expiry_ms=expiry_ms) for n, expiry_ms in enumerate([None, 5, None, 0])]
        packed = pack_items("model@1", [(one, 4) for one in ones], 5, 10, 10**9)
        assert [[one.expiry_ms for one in each.items] for each in packed] == [[None, None], [5, 0]]

    def test_a_message_is_bounded_whatever_the_batch_size(self) -> None:
        one = item()
        packed = pack_items("model@1", [(one, 4)] * (MAX_ITEMS + 1), 5, 100_000, 10**9)
        assert [len(each.items) for each in packed] == [MAX_ITEMS, 1]


def test_task_ids_are_unique_and_look_like_celery_s() -> None:
    ids = {new_task_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(one) for one in ids} == {36}


def test_the_layout_written_is_one_that_is_read() -> None:
    assert LAYOUT in LAYOUTS
