"""The one task: a message of items in, every item settled, then the ack."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from typing import Any, Final

from celery import Task
from celery.exceptions import Reject

from foreseen.context import HEADER as CONTEXTS
from foreseen.errors import BrokerUnavailable, CacheUnavailable, UnsupportedLayout
from foreseen.message import TASK_NAME, Message
from workers import runtime
from workers.celery import app
from workers.engine import Engine, NotServed
from workers.quiet import CACHE_AWAY, NOT_SERVED, be_quiet

__all__ = ["predict"]

log = logging.getLogger("foreseen.worker")
be_quiet()

#: For so long a process keeps a message of a model that it does not have: by then its worker takes no more of them.
_UNSERVED_S: Final = 1.0


@app.task(  # pyright: ignore[reportUntypedFunctionDecorator] - Celery is not typed
    name=TASK_NAME,
    bind=True,
    typing=False,
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    acks_on_timeout=False,
    Request="workers.request:PredictionRequest",
    Strategy="workers.request:strategy",
)
def predict(self: Task[Any, Any], *arguments: Any) -> dict[str, int]:
    """Begin, compute and finish the items of a message; return how many came to what, for Flower and the log."""
    # Without a holder another task has called this one, past the door where messages are looked at.
    if not isinstance(self.request.get("holder"), str):
        raise Reject("no message was delivered", requeue=False)
    message = Message.read(self.request.id, list(arguments), is_checked=True)
    message = replace(message, reply_to=self.request.reply_to or "").within(self.request.get(CONTEXTS))
    engine = Engine(runtime.current())
    try:
        try:
            came_back = bool((self.request.delivery_info or {}).get("redelivered"))
            report = asdict(engine.handle(message, self.request.holder, came_back=came_back))
            return {what: number for what, number in report.items() if number}
        except (CacheUnavailable, BrokerUnavailable, UnsupportedLayout):
            raise
        except NotServed as error:
            log.warning("task %s goes back to the broker: %s", message.id, error)
            time.sleep(_UNSERVED_S)
            raise Reject(NOT_SERVED, requeue=True) from None
        except Exception as error:  # out of memory or time, or a defect: the same as a death, and bounded as deaths are
            log.exception("task %s failed", message.id)
            engine.give_up(message, self.request.holder, f"{self.request.hostname}: {type(error).__name__}")
            raise Reject("handed back", requeue=True) from None
    except (CacheUnavailable, BrokerUnavailable, UnsupportedLayout) as error:
        if isinstance(error, CacheUnavailable):  # that the cache is away is said once, and not of each task
            raise Reject(CACHE_AWAY, requeue=True) from error
        log.warning("task %s goes back to the broker: %s", message.id, error)
        raise Reject(str(error), requeue=True) from error
