"""Which queues a worker takes messages from, changed while it runs."""

from __future__ import annotations

import logging
from typing import Any

from foreseen.broker import queue_for
from foreseen.settings import Settings

__all__ = ["Consuming"]

log = logging.getLogger("foreseen.worker")


class Consuming:
    """Celery's consumer, told from any thread; it does so on its own.

    Args:
        consumer: Celery's.
        settings: of the deployment.
    """

    def __init__(self, consumer: Any, settings: Settings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._queues = consumer.app.amqp.queues

    def start(self, queue: str) -> None:
        """Take messages from a queue."""
        self._consumer.call_soon(self._start, queue)

    def stop(self, queue: str) -> None:
        """Take no more from it; what was taken is worked off."""
        self._consumer.call_soon(self._stop, queue)

    def _start(self, name: str) -> None:
        queue = queue_for(self._settings, name)
        self._queues.select_add(queue)  # which a new connection begins with
        tasks = self._consumer.task_consumer  # None while there is none
        if tasks is not None and not tasks.consuming_from(name):
            tasks.add_queue(queue)
            tasks.consume()

    def _stop(self, name: str) -> None:
        self._queues.deselect([name])
        tasks = self._consumer.task_consumer
        if tasks is not None and tasks.consuming_from(name):
            tasks.cancel_by_queue(name)
