"""The worker's sign that it lives: a subscription that ends with its process, whatever ends that.

A lease that lapses says that its holder is silent, not that it is dead: it may be stopped, or its model does not let go
of the interpreter. The system closes a dead process's connections at once, so scripts ask the cache server whether
anybody still listens to the worker's channel.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from foreseen.cache import Cache

if TYPE_CHECKING:
    from redis.client import PubSub

__all__ = ["Presence"]

log = logging.getLogger("foreseen.worker")

_RETRY_S: Final = 0.1
_HEALTH_CHECK_S: Final = 5.0


class Presence:
    """A thread that keeps a subscription to the worker's channel.

    Args:
        cache: of this process.
        channel: the worker's.
    """

    def __init__(self, cache: Cache, channel: str) -> None:
        self._cache = cache
        self._channel = channel
        self._pubsub: PubSub | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseen-presence", daemon=True)

    def start(self) -> None:
        """Subscribe, and stay subscribed."""
        self._thread.start()
        os.register_at_fork(after_in_child=self._close_copy)

    def stop(self) -> None:
        """End the subscription."""
        self._stopping.set()

    def _close_copy(self) -> None:
        """Close what a forked child has of the connection: it would outlive this process with the child."""
        connection: Any = getattr(self._pubsub, "connection", None)  # its pool forgets it in another process
        if connection is not None:
            connection.disconnect()  # which there only closes

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._pubsub = pubsub = self._cache.pubsub(health_check_s=_HEALTH_CHECK_S)
            try:
                pubsub.subscribe(self._channel)
                while not self._stopping.is_set():
                    pubsub.get_message(timeout=1.0)
            except (RedisError, OSError) as error:
                log.debug("the cache lost sight of this worker, telling it again: %s", error)
                self._stopping.wait(_RETRY_S)
            except Exception:
                log.exception("the worker's presence failed, trying again")
                self._stopping.wait(_RETRY_S)
            finally:
                with suppress(RedisError, OSError):
                    pubsub.connection_pool.disconnect()
                    pubsub.close()
