from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.context import NO_CONTEXT, Context, correlated, current, pack, read
from foreseen.errors import InvalidInput, MalformedMessage
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.signing import Keyring

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KEYRING = Keyring.read("one:" + "s" * 32)


def message(*contexts: Context) -> Message:
    items = [
        Item(key_of("model", "1", canonicalize(n)), f"{n:016x}", 1, 0, canonicalize(n), context=context)
        for n, context in enumerate(contexts)
    ]
    return Message("model@1", tuple(items), 1, 4)


def test_contexts_of_items_travel_in_order() -> None:
    contexts = [Context(TRACE, "a-1"), NO_CONTEXT, Context("", "b/2"), Context(TRACE, "")]
    sent = message(*contexts)
    header = sent.headers()["contexts"]
    bare = Message.read(sent.id, [1, "model@1", 1, 4, _wire(sent), 0])
    assert [item.context for item in bare.within(header).items] == contexts


def _wire(sent: Message) -> list[Any]:
    return [
        [item.key.digest, item.token, item.opened, item.deadline_ms, item.canonical.text, list(item.canonical.blobs)]
        for item in sent.items
    ]


def test_who_says_nothing_sends_nothing() -> None:
    assert "contexts" not in message(NO_CONTEXT, NO_CONTEXT).headers()
    assert pack([NO_CONTEXT]) is None


@pytest.mark.parametrize(
    "header",
    [
        "text", 7, {"0": TRACE}, [], [TRACE, TRACE, TRACE], [None, 7], [[TRACE], {}],
        [f"{TRACE}0 ", TRACE.upper()], ["00-" + "0" * 32 + TRACE[35:], TRACE[:36] + "0" * 16 + "-01"],
        [" two words", " new\nline"], [" " + "x" * 65, " ünicode"], [TRACE.replace("-", "_"), "x" * 10_000],
    ],
)  # fmt: skip
def test_what_is_malformed_is_left_out(header: Any) -> None:
    assert list(read(header, 2)) == [NO_CONTEXT, NO_CONTEXT]


def test_one_that_is_malformed_takes_no_other_along() -> None:
    assert list(read([7, f"{TRACE} a"], 2)) == [NO_CONTEXT, Context(TRACE, "a")]


def test_contexts_are_signed_where_messages_are() -> None:
    sent = message(Context(TRACE, "a"))
    body, headers = sent.body(), sent.headers()
    headers["foreseen-signature"] = KEYRING.sign_message(headers, body)
    KEYRING.check_message(headers, body)
    for other in (None, [TRACE + " b"], []):
        with pytest.raises(MalformedMessage):
            KEYRING.check_message(headers | {"contexts": other}, body)


def test_messages_without_are_signed_as_they_always_were() -> None:
    headers = {"task": "foreseen.predict", "id": "1", "due_s": None, "reply_to": None}
    before = "one:e3c2ca93ef4c26860d4154d1ad575f1f91b8bf1d0dfd8504d49f78f809516d7d"  # of a release without contexts
    assert KEYRING.sign_message(headers, b"body") == before


def test_a_block_correlates_what_is_asked_in_it_and_in_its_tasks() -> None:
    seen: list[str] = []
    with correlated("outer"):
        with correlated("inner"):
            seen.append(current().correlation)
        seen.append(current().correlation)
        thread = threading.Thread(target=lambda: seen.append(current().correlation))
        thread.start()
        thread.join()

        async def ask() -> None:
            seen.append(await asyncio.create_task(said()))

        async def said() -> str:
            return current().correlation

        asyncio.run(ask())
    seen.append(current().correlation)
    assert seen == ["inner", "outer", "", "outer", ""]


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "a\nb", "ä"])
def test_an_id_that_could_not_stand_in_a_log_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInput, match="correlation id"), correlated(bad):
        pass
