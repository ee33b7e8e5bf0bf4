"""Messages: the tasks that producers send and workers take, in Celery's message protocol 2.

One message carries one or more items of one model, all of one priority. It is addressed by task name and by queue, so
that who sends it needs no Celery and no model code. The body is msgpack; every field is checked on arrival, since
whoever reaches the broker can send anything.

Body: `[[layout, model_id, sent_ms, priority, items, copies], {}, {}]`,
an item being `[digest, token, opened, deadline_ms, text, [blob, …]]`; in layout 2, of items of which somebody says how
long they are kept, `[…, expiry_ms]`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, cast

import msgpack

from foreseen.canonical import CanonicalInput
from foreseen.context import HEADER as CONTEXTS
from foreseen.context import NO_CONTEXT, Context, pack
from foreseen.context import read as read_contexts
from foreseen.errors import InvalidInput, InvalidKey, MalformedMessage, UnsupportedLayout
from foreseen.keys import Key, KeySpace, digest_of

__all__ = [
    "AUDIT",
    "CONTENT_TYPE",
    "LAYOUTS",
    "MAX_PRIORITY",
    "TASK_NAME",
    "Item",
    "Message",
    "describe",
    "largest_body",
    "new_task_id",
    "pack_items",
]

TASK_NAME: Final = "foreseen.predict"
CONTENT_TYPE: Final = "application/x-msgpack"
LAYOUT: Final = 1
#: Of items with an expiry of their own: a release that does not know it refuses the message, and keeps nothing longer.
EXPIRING_LAYOUT: Final = 2
#: What this release reads.
LAYOUTS: Final = frozenset({LAYOUT, EXPIRING_LAYOUT})
#: Bounds a message whatever the model's batch size, so that one lost message is not a thousand late answers.
MAX_ITEMS: Final = 256
#: Priorities run from 0 to this; 9 is served first on every broker.
MAX_PRIORITY: Final = 9
#: In the place of a queue to reply to: what is computed is compared with its entry, and told to nobody.
AUDIT: Final = "audit"
_TOKEN: Final = re.compile(r"[0-9a-f]{16}")
_BYTES: Final = frozenset({bytes})
#: Short keys that Flower shows of a message.
_SHOWN_KEYS: Final = 3


def largest_body(max_input_bytes: int) -> int:
    """Return how large a message's body can be: inputs of so many bytes, and what stands around them."""
    return max_input_bytes + max_input_bytes // 8 + MAX_ITEMS * 256


def describe(count: int, keys: str, source: str) -> str:
    """Return what Flower and logs show of inputs: how many, their short keys, where the answer comes from."""
    return f"items: {count}, keys: {keys}, source: {source}"


def new_task_id() -> str:
    """Return a task id as Celery makes them."""
    return str(uuid.uuid4())


class Item(NamedTuple):
    """One input to compute, and the flight that it is computed for.

    Attributes:
        key: of the input.
        token: of the flight that the message was sent for.
        opened: order of that flight's opening.
        deadline_ms: by the server's clock, 0 = none.
        canonical: the input.
        expiry_ms: how long the outcome is kept at most; 0 = not at all, None = as its model says.
        context: of who asked.
    """

    key: Key
    token: str
    opened: int
    deadline_ms: int
    canonical: CanonicalInput
    expiry_ms: int | None = None
    context: Context = NO_CONTEXT


@dataclass(frozen=True, slots=True)
class Message:
    """A task: items of one model.

    Attributes:
        model_id: `model@version`, which names the queue too.
        items: at least one.
        sent_ms: when it was sent, by the cache server's clock; 0 = out of turn.
        priority: 0 to 9, 9 first.
        id: of the task.
        copies: its number among the copies of one message; 0 = the first.
        due_s: hold it this long before it is begun; at most one lease.
        reply_to: queue to which outcomes are sent, without the cache; or `AUDIT`; empty: they go to those who joined
            the flights.
    """

    model_id: str
    items: tuple[Item, ...]
    sent_ms: int
    priority: int
    id: str = field(default_factory=new_task_id)
    copies: int = 0
    due_s: float = 0.0
    reply_to: str = ""

    @property
    def is_audit(self) -> bool:
        """Whether its items are computed only to be compared with their entries."""
        return self.reply_to == AUDIT

    def queue(self, space: KeySpace) -> str:
        """Return the queue that it belongs in."""
        return space.queue(self.model_id)

    def body(self) -> bytes:
        """Return the task's arguments, as they travel."""
        items: list[list[Any]] = [
            [item.key.digest, item.token, item.opened, item.deadline_ms, item.canonical.text, item.canonical.blobs]
            for item in self.items
        ]
        layout = LAYOUT
        if any(item.expiry_ms is not None for item in self.items):
            layout = EXPIRING_LAYOUT
            items = [[*fields, item.expiry_ms] for fields, item in zip(items, self.items, strict=True)]
        arguments = [layout, self.model_id, self.sent_ms, self.priority, items, self.copies]
        return cast("bytes", msgpack.packb([arguments, {}, {}], use_bin_type=True))

    def headers(self) -> dict[str, Any]:
        """Return the headers that Celery expects; what they show of an input is its short key."""
        keys = ", ".join(item.key.digest[:8] for item in self.items[:_SHOWN_KEYS])
        more = ", …" if len(self.items) > _SHOWN_KEYS else ""
        headers: dict[str, Any] = {
            "lang": "py",
            "task": TASK_NAME,
            "shadow": self.model_id,  # what logs, events and Flower call it
            "id": self.id,
            "root_id": self.id,
            "parent_id": None,
            "group": None,
            "eta": None,  # which Celery compares with the receiver's clock; that one knows what to do with the next
            "due_s": self.due_s or None,
            "reply_to": self.reply_to or None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": describe(len(self.items), f"{keys}{more}", AUDIT if self.is_audit else "computed"),
            "kwargsrepr": "",
            "ignore_result": True,
        }
        if (contexts := pack([item.context for item in self.items])) is not None:
            headers[CONTEXTS] = contexts
        return headers

    def within(self, contexts: Any) -> Message:
        """Return the same with the contexts that a header tells of."""
        if contexts is None:
            return self
        told = read_contexts(contexts, len(self.items))
        items = tuple(item._replace(context=each) for item, each in zip(self.items, told, strict=True))
        return replace(self, items=items)

    def again(self, items: Sequence[Item], due_s: float = 0.0) -> Message:
        """Return a copy with some of the items, under an id of its own, out of the queue's turn."""
        return replace(self, items=tuple(items), id=new_task_id(), due_s=due_s, sent_ms=0, copies=self.copies + 1)

    @classmethod
    def read(cls, task_id: str, arguments: Any, *, is_checked: bool = False) -> Message:
        """Read a task's arguments.

        Args:
            task_id: of the task.
            arguments: as they were decoded.
            is_checked: each item was looked at before, when the message was taken, and is believed.

        Raises:
            UnsupportedLayout: another release wrote it.
            MalformedMessage: a field is missing or is not what it claims to be, or a digest is not its input's.
        """
        match arguments:
            case [int(layout), *_] if layout not in LAYOUTS:
                message = f"message {task_id} has layout {layout}; this release reads {sorted(LAYOUTS)}: upgrade it"
                raise UnsupportedLayout(message)
            case [int(layout), str(model_id), sent_ms, priority, list(items), copies] if (
                items and all(map(_is_count, (sent_ms, priority, copies))) and priority <= MAX_PRIORITY
            ):
                model, _, version = model_id.partition("@")
                if is_checked:
                    read = tuple([_item(model, version, fields) for fields in items])
                else:
                    read = tuple([_read_item(task_id, model, version, item, layout) for item in items])
                return cls(model_id, read, sent_ms, priority, task_id, copies)
            case _:
                message = f"message {task_id} is not [layout, model_id, sent_ms, priority, items, copies]"
                raise MalformedMessage(message)


def _is_count(value: Any) -> bool:
    """Tell whether it is a number that scripts can count and compare with: an integer that a double holds exactly."""
    return type(value) is int and 0 <= value < 2**53


def _read_item(task_id: str, model: str, version: str, fields: Any, layout: int) -> Item:
    item = fields
    if layout == EXPIRING_LAYOUT:
        match fields:
            case [*item, expiry_ms] if expiry_ms is None or _is_count(expiry_ms):
                pass
            case _:
                message = f"message {task_id} holds an item that is kept for no time"
                raise MalformedMessage(message)
    match item:
        case [str(digest), str(token), opened, deadline_ms, bytes(text), list(blobs)] if (
            _TOKEN.fullmatch(token)
            and _is_count(opened)
            and _is_count(deadline_ms)
            and _BYTES.issuperset(map(type, blobs))
        ):
            pass
        case _:
            message = f"message {task_id} holds an item that is not [digest, token, opened, deadline_ms, text, blobs]"
            raise MalformedMessage(message)
    try:
        if digest_of(model, version, text) != digest:
            key = Key.parse(str(Key(model, version, digest)))  # it may be none at all
            message = f"message {task_id}: the input under {key.short} has another digest"
            raise MalformedMessage(message)
    except (InvalidKey, InvalidInput) as error:
        message = f"message {task_id}: {error}"
        raise MalformedMessage(message) from None
    return _item(model, version, fields)


def _item(model: str, version: str, fields: Sequence[Any]) -> Item:
    """Return the item of fields that are those of one."""
    digest, token, opened, deadline_ms, text, blobs, *expiring = fields
    expiry_ms = expiring[0] if expiring else None
    return Item(Key(model, version, digest), token, opened, deadline_ms, CanonicalInput(text, tuple(blobs)), expiry_ms)


def pack_items(
    model_id: str, items: Sequence[tuple[Item, int]], sent_ms: int, batch_size: int, max_bytes: int, reply_to: str = ""
) -> list[Message]:
    """Put items, each with its priority, into few messages: of one priority, `batch_size` items, `max_bytes` of inputs.

    Those with an expiry of their own travel apart: a release that does not know it would refuse the others too.
    An item that is larger than `max_bytes` alone travels alone.
    """
    groups: dict[tuple[int, bool], list[Item]] = {}
    for item, priority in items:
        groups.setdefault((priority, item.expiry_ms is None), []).append(item)
    size = min(batch_size, MAX_ITEMS)
    return [
        Message(model_id, part, sent_ms, priority, reply_to=reply_to)
        for (priority, _), group in groups.items()
        for part in _parts(group, size, max_bytes)
    ]


def _parts(group: Sequence[Item], size: int, max_bytes: int) -> Iterator[tuple[Item, ...]]:
    part: list[Item] = []
    n_bytes = 0
    for item in group:
        of_item = len(item.canonical.text) + sum(map(len, item.canonical.blobs))
        if part and (len(part) == size or n_bytes + of_item > max_bytes):
            yield tuple(part)
            part, n_bytes = [], 0
        part.append(item)
        n_bytes += of_item
    if part:
        yield tuple(part)
