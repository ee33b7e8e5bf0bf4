"""kombu's Redis transport with one thing changed: a channel keeps its client.

kombu builds a redis-py client for each command it sends, which costs some 90 µs, more than the round trip itself. A
client holds nothing but its pool; when the channel gets a new pool, a new client is built here as well.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

__all__ = ["Channel", "Transport"]


class Channel(redis.Channel):
    """A channel that builds its client once for each pool."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept


class Transport(redis.Transport):
    """The transport that makes such channels."""

    Channel = Channel
