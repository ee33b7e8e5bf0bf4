"""Sentinels as they are asked who is master, by threads and by tasks; loaded where the cache is under Sentinel.

redis-py puts the Sentinel that answered at the head of its list, in two steps during which another thread or task may
do the same, and one of them is lost from the list for good. Each look-up works on a list of its own instead.
"""

from __future__ import annotations

import copy
from typing import Any

import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from foreseen.cache_server import Service
from foreseen.settings import Settings

__all__ = ["AsyncSentinels", "Sentinels"]


class Sentinels(redis.sentinel.Sentinel):
    """redis-py's, safe for threads; a Sentinel that is gone costs one connect timeout, and no retries."""

    def __init__(self, service: Service, settings: Settings) -> None:
        kwargs: dict[str, Any] = {
            **_bounds(settings),
            **service.sentinel_login,
            **service.tls,
            "retry": Retry(NoBackoff(), 0),
        }
        make: Any = super().__init__
        make(service.sentinels, sentinel_kwargs=kwargs)

    def discover_master(self, service_name: str) -> Any:
        """Return host and port of the service's master."""
        own: Any = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            discover: Any = redis.sentinel.Sentinel.discover_master
            found = discover(own, service_name)
        except redis.sentinel.MasterNotFoundError as error:
            raise redis.sentinel.MasterNotFoundError(_nobody(service_name, len(own.sentinels))) from error
        self.sentinels = own.sentinels
        return found


class AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """The same, safe for tasks."""

    def __init__(self, service: Service, settings: Settings) -> None:
        kwargs: dict[str, Any] = {
            **_bounds(settings),
            **service.sentinel_login,
            **service.tls,
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        make: Any = super().__init__
        make(service.sentinels, sentinel_kwargs=kwargs)

    async def discover_master(self, service_name: str) -> Any:
        """Return host and port of the service's master."""
        own: Any = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            discover: Any = redis.asyncio.sentinel.Sentinel.discover_master
            found = await discover(own, service_name)
        except redis.asyncio.sentinel.MasterNotFoundError as error:
            raise redis.asyncio.sentinel.MasterNotFoundError(_nobody(service_name, len(own.sentinels))) from error
        self.sentinels = own.sentinels
        return found


def _bounds(settings: Settings) -> dict[str, float]:
    return {"socket_connect_timeout": settings.connect_timeout_s, "socket_timeout": settings.reply_timeout_s}


def _nobody(service_name: str, n_sentinels: int) -> str:
    return f"of {n_sentinels} Sentinels none names a live master of {service_name!r}"
