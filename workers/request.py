"""A delivery in the worker's own process: who holds it, its leases, what happens when its child dies.

Celery requeues the message of a child that was killed within moments, well inside the dead child's lease; handing the
flights back first lets that redelivery begin at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.exceptions import InvalidTaskError
from celery.worker.request import Request
from celery.worker.strategy import default as default_strategy
from kombu.exceptions import ContentDisallowed

from foreseen.errors import CacheUnavailable, Malformed, UnsupportedLayout
from foreseen.flights import nonce
from foreseen.message import Message
from workers import runtime
from workers.engine import Engine
from workers.leases import Holding, Leases

__all__ = ["PredictionRequest", "strategy", "use_leases"]

log = logging.getLogger("foreseen.worker")

_leases: Leases | None = None

#: Far longer than any lease: beyond it, it is not of this protocol.
_MAX_DUE_S: Final = 86400.0


def use_leases(leases: Leases) -> None:
    """Renew the leases of deliveries that are accepted from now on with `leases`."""
    global _leases  # noqa: PLW0603 - Celery builds requests itself: there is nothing to hand it to
    _leases = leases


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's handler of messages for the task, with a look at each message before it.

    Celery expects well-formed messages; one that is not would end the worker, come back, and end the next.
    """
    handle = default_strategy(task, app, consumer, **options)

    def handle_if_well_formed(message: Any, *arguments: Any, **more: Any) -> Any:
        problem = _problem_of(message)
        if problem:
            raise InvalidTaskError(problem)  # the consumer logs it and drops the message
        _hold_by_own_clock(message.headers)
        return handle(message, *arguments, **more)

    return handle_if_well_formed


def _hold_by_own_clock(headers: dict[str, Any]) -> None:
    """Say until when a copy is held by this process's clock: Celery compares with it what the sender's clock said."""
    match headers.get("due_s"):
        case int() | float() as due_s if 0 < due_s <= _MAX_DUE_S:
            headers["eta"] = (datetime.now(UTC) + timedelta(seconds=due_s)).isoformat()
        case _:
            pass


def _problem_of(message: Any) -> str | None:
    """Return what keeps a message from being a task in Celery's protocol 2; it is decoded here and not again."""
    try:
        payload = message.payload
    except ContentDisallowed:
        raise  # the consumer knows this one
    except Exception as error:  # noqa: BLE001 - decoders raise anything
        return f"a body that cannot be decoded: {type(error).__name__}"
    match payload:
        case [list(), dict(), dict() | None] if isinstance(message.headers.get("id"), str):
            return None
        case _:
            return "not a task of message protocol 2"


class PredictionRequest(Request):
    """A request for the prediction task."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        holder = nonce()
        self._prediction: Message | None = None
        with suppress(Malformed):  # the task says so, and drops it
            self._prediction = Message.read(self.id, self._args)
        items = self._prediction.items if self._prediction is not None else ()
        self._holding = Holding(holder, [item.key for item in items])
        self._request_dict["holder"] = holder
        self._request_dict["args"] = ()  # the pool gets the body itself; no need to send the inputs twice

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Begin to renew: a process of the pool has taken it."""
        if _leases is not None:
            _leases.add(self._holding)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
        """Hand its flights back before Celery requeues it, if its process died."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):  # how billiard wraps what it raises for a process that is lost
            error = error.exc
        died = isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
        if died and _leases is not None:
            _leases.give_up(self._holding, died=True)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Hand its flights back when its process is killed for taking too long."""
        if not soft and _leases is not None:
            _leases.give_up(self._holding, died=True)
        super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's signature
        """End its flights before Celery acks it: everyone who waits is told, and nothing sends it again."""
        if self._prediction is not None:
            try:
                Engine(runtime.current()).revoke(self._prediction, self._holding.holder)
            except (CacheUnavailable, UnsupportedLayout) as error:
                log.warning("task %s is revoked, but the cache could not be told: %s", self.id, error)
        super()._announce_revoked(reason, terminated, signum, expired)

    def acknowledge(self) -> None:
        """Stop renewing: every item is settled."""
        self._let_go()
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """Stop renewing: it is to be delivered again."""
        self._let_go()
        super().reject(requeue)

    def _let_go(self) -> None:
        if _leases is not None:
            _leases.remove(self._holding.holder)
