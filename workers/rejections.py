"""Messages that this worker refused: counted by model for `foreseen stats`, and told in the log now and then.

Whoever floods a queue with garbage is not to flood the log with it; and of what was refused nothing is shown, since it
may be somebody's input.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from foreseen.flights import KEEP_MS
from foreseen.keys import BUCKETS, KeySpace
from foreseen.parcels import Command

__all__ = ["Rejections", "rejections"]

log = logging.getLogger("foreseen.worker")

#: Between two lines of the log.
_EVERY_S: Final = 10.0


class Rejections:
    """Counts them; safe for threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._untold = 0
        self._told_at = -_EVERY_S

    def note(self, reason: str, queue: str) -> None:
        """Note that a message of a queue was refused.

        Args:
            reason: why, without anything of its content.
            queue: that it came from, as far as anybody can tell.
        """
        with self._lock:
            self._counts[queue] += 1
            self._untold += 1
            if self._clock() - self._told_at < _EVERY_S:
                return
            count, self._untold, self._told_at = self._untold, 0, self._clock()
        log.error("refused a message: %s%s", reason, f" ({count} since the last line like this)" if count > 1 else "")

    def commands(self, space: KeySpace, model_ids: Sequence[str]) -> list[Command]:
        """Return the commands that add to the statistics what was refused since the last call.

        What came from no queue of these models is counted for the first of them.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts or not model_ids:
            return []
        by_queue = {space.queue(model_id): model_id for model_id in model_ids}
        commands: list[Command] = []
        for queue, count in counts.items():
            key = space.statistics_of(by_queue.get(queue, model_ids[0]), BUCKETS[0])
            commands += [("HINCRBY", key, "rejected", count), ("PEXPIRE", key, KEEP_MS)]
        return commands


#: Of this process: Celery builds consumers and strategies itself, and there is nothing to hand them.
rejections: Final = Rejections()
