"""A delivery in the worker's own process: who holds it, its leases, what happens when its child dies.

Celery requeues the message of a child that was killed within moments, well inside the dead child's lease; handing the
flights back first lets that redelivery begin at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import signals
from celery.worker.request import Request
from celery.worker.strategy import default as default_strategy

from foreseen.errors import BrokerUnavailable, CacheUnavailable, Malformed, UnsupportedLayout
from foreseen.flights import nonce
from foreseen.message import Message
from workers import runtime
from workers.arrival import admit
from workers.engine import Engine
from workers.leases import Holding, Leases
from workers.rejections import rejections

__all__ = ["PredictionRequest", "strategy", "use_leases"]

log = logging.getLogger("foreseen.worker")

_leases: Leases | None = None


def use_leases(leases: Leases) -> None:
    """Renew the leases of deliveries that are accepted from now on with `leases`."""
    global _leases  # noqa: PLW0603 - Celery builds requests itself: there is nothing to hand it to
    _leases = leases


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's handler of messages for the task, with a look at each message before it.

    Celery expects well-formed messages; one that is not would end the worker, come back, and end the next.
    """
    handle = default_strategy(task, app, consumer, **options)
    settings = runtime.current().settings
    keyring = settings.keyring()

    def handle_if_admitted(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        try:
            message.prediction = admit(message, settings, keyring)
        except Malformed as error:
            rejections.note(str(error), str(message.delivery_info.get("routing_key", ""))[:300])
            reject(log, consumer.connection_errors)
            signals.task_rejected.send(sender=consumer, message=message, exc=error)
            return None
        return handle(message, body, ack, reject, callbacks)

    return handle_if_admitted


class PredictionRequest(Request):
    """A request for the prediction task."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        holder = nonce()
        self._prediction: Message | None = getattr(message, "prediction", None)
        items = self._prediction.items if self._prediction is not None else ()
        reply_to = self._prediction.reply_to if self._prediction is not None else ""
        self._holding = Holding(holder, [] if reply_to else [item.key for item in items])
        self._request_dict["holder"] = holder
        self._request_dict["reply_to"] = reply_to
        self._request_dict["args"] = ()  # the pool gets the body itself; no need to send the inputs twice
        self._args = self._argsrepr  # what `celery inspect` and Flower show of a task that waits or runs

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
            _leases.give_up(self._holding, died=self._where(str(error).partition(" Job:")[0] or type(error).__name__))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Hand its flights back when its process is killed for taking too long."""
        if not soft and _leases is not None:
            _leases.give_up(self._holding, died=self._where(f"ended after {timeout:g} s, its time limit"))
        super().on_timeout(soft, timeout)

    def _where(self, died: str) -> str:
        """Return how a process died, and in which worker: what an operator looks for."""
        return f"{self.hostname}: {died}"

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's signature
        """End its flights before Celery acks it: everyone who waits is told, and nothing sends it again."""
        if self._prediction is not None:
            try:
                Engine(runtime.current()).revoke(self._prediction, self._holding.holder)
            except (BrokerUnavailable, CacheUnavailable, UnsupportedLayout) as error:
                log.warning("task %s is revoked, but who waits could not be told: %s", self.id, error)
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
