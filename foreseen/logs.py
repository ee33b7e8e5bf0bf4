"""Logs as JSON, an object on each line, for who collects them: the standard library's, and nothing to learn.

A worker writes its log so if `FORESEEN_LOG_FORMAT` is `json`. An application, whose logs are its own, may do the same:

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["FIELDS", "JsonFormatter"]

#: What foreseen's records say beside their message. No others are written: what libraries attach may be an input.
FIELDS: Final = (
    "key", "source", "duration_s", "error", "outcome", "task_id", "correlation_id", "trace_id",
)  # fmt: skip


class JsonFormatter(logging.Formatter):
    """Formats records as JSON objects, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        told |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)
