"""Celery's consumer, which shows nothing of messages that it refuses, and is soon there when the broker is back.

Celery's own writes headers and the first kilobyte of the body into the log, which is somebody's input; and what it
takes for granted of headers ends the worker, comes back, and ends the next.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from celery import signals
from celery.worker import consumer
from celery.worker.consumer.consumer import logger

from foreseen.errors import Malformed
from workers.rejections import rejections

__all__ = ["Consumer", "refuse"]


#: Pauses between two tries to reach a broker that is away: each is longer by the step. Celery's grow to half a minute.
_STEP_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 2.0


class Consumer(consumer.Consumer):
    """Refuses without showing, and tries soon again."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and try for as long as that takes."""
        # Celery calls this without pauses of its own, and has no setting for them.
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=_STEP_S, interval_step=_STEP_S, interval_max=_LONGEST_PAUSE_S,
        )  # fmt: skip
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection  # it holds the connection

    def create_task_handler(self, *arguments: Any, **options: Any) -> Any:
        """Return what takes each message; one that names no task is refused before Celery looks it up."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_if_named(message: Any) -> Any:
            task = message.headers.get("task") if isinstance(message.headers, dict) else None
            if not isinstance(task, str):
                return self.on_unknown_message(None, message)
            return handle(message)

        return handle_if_named

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop what names no task."""
        del body
        refuse(self, message, "it names no task")
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a task that is not known here."""
        del body
        name, task_id = message.headers.get("task"), message.headers.get("id")
        refuse(self, message, f"no task is called {name!r:.80} here")
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a task that is not what it claims to be."""
        del body
        refuse(self, message, f"it is no task: {type(exc).__name__}")
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop what cannot be decoded."""
        refuse(self, message, str(exc) if isinstance(exc, Malformed) else f"it cannot be decoded: {type(exc).__name__}")


def refuse(by: Any, message: Any, reason: str) -> None:
    """Drop a message: it is counted, and told without its content."""
    message.reject_log_error(logger, by.connection_errors)
    delivery = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    rejections.note(reason, str(delivery.get("routing_key", ""))[:300])
