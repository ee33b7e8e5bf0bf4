"""What Celery need not say of each task that goes back to the broker: the worker has said it, once or in one line."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["CACHE_AWAY", "NOT_SERVED", "be_quiet"]

#: The reason with which a task goes back to the broker then.
CACHE_AWAY: Final = "back to the broker: the cache is away"
#: The reason where a process does not have the message's model.
NOT_SERVED: Final = "back to the broker: the model is not served here"


class _SaidOnce(logging.Filter):
    """Lets pass what says something else than that a task went back for want of the cache, or of its model."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Celery attaches what it formats as `data`."""
        task = getattr(record, "data", None)
        reason = str(task.get("exc")) if isinstance(task, dict) else ""
        return CACHE_AWAY not in reason and NOT_SERVED not in reason


def be_quiet() -> None:
    """Have Celery's log of rejected tasks leave these out."""
    logging.getLogger("celery.app.trace").addFilter(_SaidOnce())
