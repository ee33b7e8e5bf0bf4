"""The worker's sign that it lives: a subscription that ends with its process, whatever ends that.

A lease that lapses says that its holder is silent, not that it is dead: it may be stopped, or its model does not let go
of the interpreter. The system closes a dead process's connections at once, so scripts ask the cache server whether
anybody still listens to the worker's channel. A node of a cluster knows only who listens to itself: there it is one
subscription with each, replicas too, which may be masters by the time they are asked.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from foreseen.cache import Cache
from foreseen.nodes import Node

if TYPE_CHECKING:
    from redis.client import PubSub

__all__ = ["Presence"]

log = logging.getLogger("foreseen.worker")

_RETRY_S: Final = 0.1
_HEALTH_CHECK_S: Final = 5.0
#: In which every subscription is looked at.
_TURN_S: Final = 1.0


class Presence:
    """A thread that keeps a subscription to the worker's channel.

    Args:
        cache: of this process.
        channel: the worker's.
    """

    def __init__(self, cache: Cache, channel: str) -> None:
        self._cache = cache
        self._channel = channel
        self._pubsubs: dict[Node | None, PubSub] = {}
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
        """Close what a forked child has of the connections: they would outlive this process with the child."""
        for pubsub in self._pubsubs.values():
            connection: Any = getattr(pubsub, "connection", None)  # its pool forgets it in another process
            if connection is not None:
                connection.disconnect()  # which there only closes

    def _run(self) -> None:
        while not self._stopping.is_set():
            nodes = self._cache.nodes()
            for node in set(self._pubsubs).difference(nodes):
                self._drop(node)
            is_lost = False
            for node in nodes:
                try:
                    self._hear(node, _TURN_S / len(nodes))
                except (RedisError, OSError) as error:
                    log.debug("the cache lost sight of this worker, telling it again: %s", error)
                    is_lost = True
                    self._drop(node)
                except Exception:
                    log.exception("the worker's presence failed, trying again")
                    is_lost = True
                    self._drop(node)
            if is_lost:
                self._stopping.wait(_RETRY_S)
        for node in tuple(self._pubsubs):
            self._drop(node)

    def _hear(self, node: Node | None, wait_s: float) -> None:
        """Be subscribed there, and notice if that is lost."""
        pubsub = self._pubsubs.get(node)
        if pubsub is None:
            pubsub = self._pubsubs[node] = self._cache.pubsub(_HEALTH_CHECK_S, node)
            pubsub.subscribe(self._channel)
        pubsub.get_message(timeout=wait_s)

    def _drop(self, node: Node | None) -> None:
        pubsub = self._pubsubs.pop(node, None)
        if pubsub is not None:
            with suppress(RedisError, OSError):
                pubsub.connection_pool.disconnect()
                pubsub.close()
