"""What Flower is shown of what no worker sees: hits and joins, as Celery events.

Each is a task of its own there: `task-sent`, then `task-cached` or `task-coalesced`, which Celery takes for the
states CACHED and COALESCED. Noting one costs a hit a few tenths of a microsecond; all else is done by a thread,
once a second, in one message. What is shown is a sample for people: counts are the statistics' business.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import kombu

from foreseen.broker import is_redis, open_connection
from foreseen.client.submission import Source
from foreseen.keys import Key
from foreseen.message import describe, new_task_id
from foreseen.settings import Settings

__all__ = ["Events", "Sender", "Sighting", "events_of"]

log = logging.getLogger("foreseen.client")

#: Between two messages.
_BEAT_S: Final = 1.0
#: Answers that one message tells of, two events each; 100 kB. Of a process that is faster the first of each beat are
#: shown: Flower keeps 10,000 tasks, and takes in some thousand events a second, of all processes.
_MOST: Final = 256
#: After a message that could not be sent, no other is tried for so long; doubled up to the last.
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
#: What is still untold when a producer is closed is worth that much waiting.
_FLUSH_S: Final = 0.5
#: Celery's exchange of events; of a type of its own in Redis (`celery.events.event.get_exchange`).
_EXCHANGE: Final = "celeryev"
#: Who listens to tasks takes lists of events by this routing key.
_ROUTING_KEY: Final = "task.multi"
_SHORT: Final = 8


class Sighting(NamedTuple):
    """An answer that no worker has told of.

    Attributes:
        key: of the input; or the name of its entry, if that is all that is known.
        source: hit, stale or coalesced.
        began: when it was asked for (monotonic seconds).
        ended: when it was answered.
    """

    key: Key | str
    source: Source
    began: float
    ended: float


class Events:
    """Notes what is to be shown, and drops what is too much. Safe for threads.

    Args:
        share: of the answers, above 0.

    Attributes:
        has_room: a look at this is all that an answer pays for once enough are noted.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._noted: deque[Sighting] = deque()
        self.has_room = True

    def note(self, key: Key | str, source: Source, began: float) -> None:
        """Note an answer, by chance and if there is room; threads may together go beyond the bound by one each."""
        if self.has_room and (self._share >= 1 or random.random() < self._share):
            self._noted.append(Sighting(key, source, began, time.monotonic()))
            self.has_room = len(self._noted) < _MOST

    def take(self) -> list[Sighting]:
        """Return what was noted since the last time."""
        taken = [self._noted.popleft() for _ in range(len(self._noted))]  # of those that take, there is one
        self.has_room = True
        return taken


def events_of(sightings: Sequence[Sighting], host: str, epoch: float) -> list[dict[str, Any]]:
    """Return Celery events of answers: two each, in order.

    Args:
        sightings: what was noted.
        host: of this process.
        epoch: the time of day when the monotonic clock was 0, in seconds since 1970.
    """
    events: list[dict[str, Any]] = []
    for key, source, began, ended in sightings:
        before, _, digest = str(key).rpartition(":")
        model_id = before.partition("{")[2].rpartition(":")[0] or before  # of an entry it stands in the hash tag
        task: dict[str, Any] = {
            "uuid": new_task_id(),
            "name": model_id,
            "args": describe(1, digest[:_SHORT], source),
            "kwargs": "",
        }
        # Flower takes who sends anything else than `task-sent` for a worker: that worker is the cache.
        sent = {"type": "task-sent", "hostname": f"producer@{host}", "timestamp": epoch + began}
        answered = {
            "type": "task-coalesced" if source is Source.COALESCED else "task-cached",
            "hostname": f"cache@{host}",
            "timestamp": epoch + ended,
            "received": epoch + began,  # by which Flower sorts
            "runtime": ended - began,
            "result": f"{{'{source}': 1}}",  # as a worker's task tells what became of its items
        }
        events += [task | sent, task | answered]
    return events


class Sender:
    """The thread that sends what was noted; best effort: what the broker does not take is dropped.

    Args:
        settings: where the broker is.
        events: what was noted.
    """

    def __init__(self, settings: Settings, events: Events) -> None:
        self._settings = settings
        self._events = events
        self._host = socket.gethostname()
        kind = "fanout" if is_redis(settings.broker_url) else "topic"
        self._exchange: Any = kombu.Exchange(_EXCHANGE, type=kind)
        self._producer: Any = None
        self._pause_s = 0.0
        self._paused_until = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-events", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Send what is left, unless that takes long."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_FLUSH_S)

    def _run(self) -> None:
        while not self._stopping.wait(_BEAT_S):
            self._send()
        self._send()
        self._hang_up()

    def _send(self) -> None:
        sightings = self._events.take()
        if not sightings or time.monotonic() < self._paused_until:
            return
        try:
            self._publish(events_of(sightings, self._host, time.time() - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody's answer is to suffer
            self._hang_up()
            self._pause_s = min(_LAST_PAUSE_S, 2 * self._pause_s or _FIRST_PAUSE_S)
            self._paused_until = time.monotonic() + self._pause_s
            log.debug("events not sent, trying again in %g s: %s", self._pause_s, error)
        else:
            self._pause_s = 0.0

    def _publish(self, events: list[dict[str, Any]]) -> None:
        if self._producer is None:
            self._producer = kombu.Producer(open_connection(self._settings).channel(), auto_declare=False)
        self._producer.publish(
            events,
            exchange=_EXCHANGE,
            routing_key=_ROUTING_KEY,
            declare=[self._exchange],
            serializer="json",
            headers={"hostname": f"producer@{self._host}"},
            delivery_mode=1,  # who does not listen now need not know later
            timeout=self._settings.reply_timeout_s,
        )

    def _hang_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.release()
            except Exception as error:  # noqa: BLE001 - it is broken as often as not
                log.debug("the connection for events did not close: %s", error)
