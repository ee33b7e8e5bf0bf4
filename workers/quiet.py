"""What Celery need not say of each task while the cache is away: that is said once, by who asks the cache."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["CACHE_AWAY", "be_quiet"]

#: The reason with which a task goes back to the broker then.
CACHE_AWAY: Final = "back to the broker: the cache is away"


class _SaidOnce(logging.Filter):
    """Lets pass what says something else than that a task went back for want of the cache."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Celery attaches what it formats as `data`."""
        task = getattr(record, "data", None)
        return not (isinstance(task, dict) and CACHE_AWAY in str(task.get("exc")))


def be_quiet() -> None:
    """Have Celery's log of rejected tasks leave these out."""
    logging.getLogger("celery.app.trace").addFilter(_SaidOnce())
