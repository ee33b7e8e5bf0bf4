"""The server of `foreseen up`: one that answers already, or the embedded one in its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from foreseen.cache import Cache
from foreseen.cache_server import without_password
from foreseen.embedded import EmbeddedServer
from foreseen.errors import BrokerUnavailable, CacheUnavailable, ForeseenError, Misconfigured
from foreseen.settings import Settings
from foreseen.tls import broker_address

__all__ = ["Place", "server_for", "with_port", "without_password"]

_LOCAL: Final = ("127.0.0.1", "localhost")
_PORT: Final = 6379
#: A server that is up answers in milliseconds, from another continent in a few hundred.
_ANSWER_S: Final = 2.0
_REDIS: Final = ("redis", "rediss", "unix")
#: Where a URL names several servers, of which the cache is one or all.
_SEVERAL: Final = ("sentinel:", "cluster:", "clusters:")
_LOG_TAIL_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where broker and result cache are.

    Attributes:
        told: that, for a person, in lines.
        embedded: the server, if it was started here.
    """

    told: tuple[str, ...]
    embedded: EmbeddedServer | None = None

    def check(self) -> None:
        """Raise `CacheUnavailable` if the server that was started here has ended."""
        if self.embedded is None:
            return
        try:
            os.kill(self.embedded.pid, 0)
        except ProcessLookupError:
            log = self.embedded.directory / "server.log"
            lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:] if log.exists() else []
            tail = "\n".join(f"  {line}" for line in lines)
            raise CacheUnavailable(f"the embedded server ended; its log ends:\n{tail}") from None


def with_port(settings: Settings, port: int) -> Settings:
    """Return the settings with both roles at a port of this machine."""
    urls = {"broker_url": f"redis://127.0.0.1:{port}/0", "cache_url": f"redis://127.0.0.1:{port}/1"}
    return settings.model_copy(update=urls)


@contextmanager
def server_for(settings: Settings) -> Generator[Place]:
    """Yield where the server is; one that had to be started ends with the block.

    Raises:
        Misconfigured: something else listens there, or it wants a password; the message says what to do.
        BrokerUnavailable, CacheUnavailable: nothing answers there, and it is not for this command to start it.
    """
    broker = _answers(settings.broker_url)
    cache = _cache_answers(settings) if settings.cache_url.startswith(_SEVERAL) else _answers(settings.cache_url)
    if broker and cache:
        where = [without_password(url) for url in (settings.broker_url, settings.cache_url)]
        yield Place((f"{broker}, which runs already: {where[0]} (broker), {where[1]} (cache)",))
        return
    port = _port_to_embed(settings)
    if broker is None and cache is None and port is not None:
        with EmbeddedServer(port) as server:
            told = f"Valkey, started on port {port}, where nothing listened; it ends with this command"
            kept = "its data is in memory alone and goes with it; to keep data, start a server yourself"
            yield Place((told, kept), server)
    elif broker is None:
        raise BrokerUnavailable(_no_server("FORESEEN_BROKER_URL", settings.broker_url))
    else:
        raise CacheUnavailable(_no_server("FORESEEN_CACHE_URL", settings.cache_url))


def _cache_answers(settings: Settings) -> str | None:
    """Return what answers where Sentinels say that the cache is, or in a cluster; None if nothing does."""
    cache = Cache(settings)
    try:
        cache.commands([("PING",)])
    except CacheUnavailable:
        return None
    finally:
        cache.close()
    return "a server that Sentinels watch over" if settings.cache_url.startswith("sentinel:") else "a cluster"


def _answers(url: str) -> str | None:
    """Return what answers at a URL, such as "Valkey 9.1.0"; None if nothing listens there."""
    if not url.startswith(_REDIS):
        return _broker_answers(url)
    if not _listens(url):
        return None
    options: dict[str, Any] = {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S, "protocol": 2}
    try:
        with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True, **options) as client:
            client.ping()
            with suppress(redis.RedisError):  # not everybody may ask
                return _name(client.info("server"))
            return "a server"
    except ValueError as error:
        raise Misconfigured(f"{without_password(url)} is no URL of a server: {error}") from error
    except redis.RedisError as error:
        raise _refusal(url, error) from error


def _refusal(url: str, error: redis.RedisError) -> ForeseenError:
    """Return what a driver's error means to somebody who starts this command."""
    where, here = without_password(url), f"at {_address(url)}"
    elsewhere = (
        "or take another port of this machine: foreseen up --port 6390" if _is_local(url) else "or another server"
    )
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in str(error) or "WRONGPASS" in str(error):
        scheme, _, rest = where.partition("://")
        return Misconfigured(
            f"The server {here} wants another login ({error}). Set FORESEEN_BROKER_URL and FORESEEN_CACHE_URL, such as "
            f"{scheme}://:PASSWORD@{rest}, {elsewhere}"
        )
    if isinstance(error, redis.BusyLoadingError):
        return CacheUnavailable(f"The server {here} is still loading its data: try again in a moment")
    if isinstance(error, redis.ResponseError) and not isinstance(error, redis.InvalidResponse):
        return Misconfigured(f"The server {here} refuses {where}: {error}")
    return Misconfigured(
        f"What listens {here} is not a Redis or Valkey ({str(error).rstrip('.')}). Set FORESEEN_BROKER_URL and "
        f"FORESEEN_CACHE_URL to where one is, {elsewhere}"
    )


def _broker_answers(url: str) -> str | None:
    import kombu

    address, ssl = broker_address(url)
    with kombu.Connection(address, ssl=ssl, connect_timeout=round(_ANSWER_S)) as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=_ANSWER_S)
        except Exception:  # noqa: BLE001 - each transport has its own errors
            return None
        return str(connection.transport.driver_type)


def _listens(url: str) -> bool:
    """Whether anything takes a connection there."""
    parts = _parts(url)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(parts.path)
        else:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or _PORT), timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


def _port_to_embed(settings: Settings) -> int | None:
    """Return the one port of this machine at which both URLs point, if they do and ask for no more than that."""
    if settings.cache_url.startswith(_SEVERAL):
        return None
    urls = [_parts(settings.broker_url), _parts(settings.cache_url)]
    ports = {each.port or _PORT for each in urls}
    plain = all(each.scheme == "redis" and _is_local(each.geturl()) and each.password is None for each in urls)
    return ports.pop() if plain and len(ports) == 1 else None


def _no_server(variable: str, url: str) -> str:
    return (
        f"No server answers at {without_password(url)} ({variable}). Start it, or correct the variable. One is started "
        "here only where both variables name one port of this machine, without a password; --port sets them so."
    )


def _is_local(url: str) -> bool:
    return _parts(url).hostname in _LOCAL


def _address(url: str) -> str:
    parts = _parts(url)
    return f"{parts.hostname or '127.0.0.1'}:{parts.port or _PORT}" if parts.scheme != "unix" else without_password(url)


def _parts(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Misconfigured(f"{without_password(url)} is no URL of a server: {error}") from error
    return parts


def _name(information: Any) -> str:
    version = information.get("valkey_version") or information.get("redis_version", "")
    return f"{'Valkey' if 'valkey_version' in information else 'Redis'} {version}".strip()
