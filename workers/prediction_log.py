"""One line of the log for each prediction that a worker computed, at level DEBUG."""

from __future__ import annotations

import logging
from typing import Final

from foreseen.errors import PredictionFailed
from workers.run import Run

__all__ = ["log_prediction"]

#: A logger of its own, so that it can be turned on alone.
log: Final = logging.getLogger("foreseen.worker.predictions")


def log_prediction(run: Run) -> None:
    """Write what was computed for whom, and what it came to; nothing of the input or the output."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    key, message, context = run.item.key.short, run.delivery.message, run.item.context
    error = type(run.outcome).__name__ if isinstance(run.outcome, PredictionFailed) else None
    told = {
        "key": key,
        "source": "audit" if run.is_audit else "computed",
        "duration_s": round(run.cost_us / 1e6, 6),
        "error": error,
        "outcome": run.finished.code.name.lower() if run.finished is not None else None,
        "task_id": message.id,
        "correlation_id": context.correlation or None,
        "trace_id": context.trace[3:35] or None,
    }
    log.debug(
        "%s %s in %.1f ms", key, error or told["source"], run.cost_us / 1000,
        extra={name: value for name, value in told.items() if value is not None},
    )  # fmt: skip
