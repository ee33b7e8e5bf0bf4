"""What is looked at before a message is taken for a task; whatever can reach the broker can send anything.

Its parts are looked at in the order of what looking costs: headers, size, content type, signature; only then is it
decoded. Of Celery's headers nothing is believed but the id and when it is due: the rest is made anew from the message
itself, so that no log, event or time limit is a stranger's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from foreseen.context import HEADER as CONTEXTS
from foreseen.errors import MalformedMessage
from foreseen.keys import KeySpace
from foreseen.message import AUDIT, CONTENT_TYPE, MAX_ITEMS, Message, largest_body
from foreseen.settings import Settings
from foreseen.signing import Keyring
from foreseen.skim import skim

__all__ = ["admit"]

_TASK_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
#: A copy is due after at most one lease; the sender may have another setting.
_LEASES_APART_S: Final = 60.0
_MAX_ORIGIN: Final = 256


def admit(message: Any, settings: Settings, keyring: Keyring) -> Message:
    """Return the message that a delivery carries, and leave in its place only headers that were made from it.

    Args:
        message: kombu's, of the prediction task.
        settings: of the worker.
        keyring: with which it must be signed, if there are keys.

    Raises:
        UnsupportedLayout: another release wrote it.
        MalformedMessage: anything else is wrong with it; the text says what, and nothing of its content.
    """
    headers = message.headers
    task_id = headers.get("id")
    if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
        raise MalformedMessage("a message without an id")
    if message.content_type != CONTENT_TYPE:
        raise MalformedMessage(f"message {task_id} is not {CONTENT_TYPE}")
    body = message.body
    if not isinstance(body, bytes):
        raise MalformedMessage(f"message {task_id} has no body of bytes")
    if len(body) > largest_body(settings.max_input_bytes):
        raise MalformedMessage(
            f"message {task_id} has {len(body)} bytes; FORESEEN_MAX_INPUT_BYTES is {settings.max_input_bytes}"
        )
    if keyring:
        keyring.check_message(headers, body)
    skim(body, MAX_ITEMS)
    try:
        decoded = message.payload
    except Exception as error:  # noqa: BLE001 - decoders raise anything
        raise MalformedMessage(f"message {task_id} cannot be decoded: {type(error).__name__}") from None
    reply_to = _reply_to(task_id, headers.get("reply_to"), settings)
    match decoded:
        case [list(arguments), {} as keywords, dict() | None as embedded] if not keywords and not any(
            (embedded or {}).values()  # callbacks, chains and chords would have this worker send tasks of theirs
        ):
            read = replace(Message.read(task_id, arguments), reply_to=reply_to).within(headers.get(CONTEXTS))
        case _:
            raise MalformedMessage(f"message {task_id} is not a task with arguments alone")
    for item in read.items:
        size = len(item.canonical.text) + sum(map(len, item.canonical.blobs))
        if size > settings.max_input_bytes:
            raise MalformedMessage(
                f"message {task_id}: {item.key.short} has {size} bytes; "
                f"FORESEEN_MAX_INPUT_BYTES allows {settings.max_input_bytes}"
            )
    due = _due(task_id, headers.get("due_s"), settings)
    origin = headers.get("origin")
    message.headers = {
        **read.headers(),
        "eta": due,
        "origin": origin if isinstance(origin, str) and len(origin) <= _MAX_ORIGIN and origin.isprintable() else None,
    }
    return read


def _reply_to(task_id: str, queue: Any, settings: Settings) -> str:
    """Return to which queue of a producer's outcomes are sent; nowhere else is anything sent for a stranger."""
    if queue is None:
        return ""
    if queue == AUDIT:
        return AUDIT
    if not isinstance(queue, str) or not KeySpace(settings.namespace).is_replies(queue):
        raise MalformedMessage(f"message {task_id} wants its outcomes sent to what is no producer's queue")
    return queue


def _due(task_id: str, due_s: Any, settings: Settings) -> str | None:
    """Return until when a message is held, by this worker's clock, which Celery looks at; None is not at all."""
    if due_s is None:
        return None
    if type(due_s) not in (int, float) or not 0 <= due_s <= settings.lease_s + _LEASES_APART_S:
        raise MalformedMessage(f"message {task_id} is due at no time, or more than a lease from now")
    return (datetime.now(UTC) + timedelta(seconds=due_s)).isoformat()
