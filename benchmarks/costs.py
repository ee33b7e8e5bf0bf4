"""What takes time, for foreseen's models and bare Celery's tasks alike.

They sleep: what they stand for computes on an accelerator, and leaves the processors alone.
"""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["SLEEP_S", "compute_on_device"]

SLEEP_S: Final = 0.020

_device: Final = threading.Lock()


def compute_on_device(items: int) -> None:
    """Take 5 ms, and 0.2 ms for each item of a batch; a process has one device, which computes one batch at a time."""
    with _device:
        time.sleep(0.005 + 0.0002 * items)
