"""Where the cache server is: a server's own URL, the name of a service that Sentinels watch over, or a cluster's nodes.

    redis://host:6379/1                                 also rediss:// and unix://, as redis-py reads them
    sentinel://host:26379,host2:26379/service/1         the master of that service, whoever that is; also sentinels://
    cluster://host:6379,host2:6379                      any nodes of a cluster, which name the others; also clusters://

Each new connection under Sentinel asks the Sentinels who is master; so a failover is followed as soon as connections to
the old master are dropped, which its death does, and its first refusal to write.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url
from redis.exceptions import RedisError

from foreseen.errors import Misconfigured
from foreseen.nodes import Node
from foreseen.settings import Settings

if TYPE_CHECKING:
    from foreseen.sentinels import AsyncSentinels, Sentinels

__all__ = [
    "AsyncCacheServer",
    "CacheServer",
    "Nodes",
    "Service",
    "check_url",
    "read_nodes",
    "read_service",
    "without_password",
]

#: Of a service, and whether servers and Sentinels are talked to encrypted.
_SERVICES: Final = {"sentinel": False, "sentinels": True}
_LOGIN_OPTIONS: Final = ("sentinel_username", "sentinel_password")
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs")
_SENTINEL_PORT: Final = 26379
_FORM: Final = "sentinel://host:26379,host2:26379/service/1"
_HOSTLESS: Final = f"a Sentinel without a host; its form is {_FORM}"
#: Of a cluster, and what redis-py calls a connection to one server of it.
_CLUSTERS: Final = {"cluster": "redis", "clusters": "rediss"}
_PORT: Final = 6379
_CLUSTER_FORM: Final = "cluster://host:6379,host2:6379"


class Service(NamedTuple):
    """What a `sentinel://` or `sentinels://` URL says.

    Attributes:
        sentinels: host and port of each.
        name: of the service, as the Sentinels know it.
        login: db, username and password at the servers.
        sentinel_login: username and password at the Sentinels.
        tls: redis-py's options of encrypted connections to both; empty if they are not.
    """

    sentinels: tuple[tuple[str, int], ...]
    name: str
    login: dict[str, Any]
    sentinel_login: dict[str, Any]
    tls: dict[str, Any]


def read_service(url: str) -> Service | None:
    """Read a `sentinel://` or `sentinels://` URL; None if it is another kind of URL.

    Raises:
        ValueError: a part is missing or wrong; the text says which, and does not quote passwords.
    """
    scheme, _, address = url.partition("://")
    if scheme not in _SERVICES:
        return None
    authority, _, rest = address.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    path, _, query = rest.partition("?")
    username, _, password = userinfo.partition(":")
    name, _, db = path.partition("/")
    if not name:
        raise ValueError(f"no service is named; its form is {_FORM}")
    if db and not db.isdecimal():
        raise ValueError(f"{db!r} after the service is no database number; its form is {_FORM}")
    options = parse_qs(query, strict_parsing=bool(query))
    known = (*_LOGIN_OPTIONS, *_TLS_OPTIONS) if _SERVICES[scheme] else _LOGIN_OPTIONS
    if unknown := sorted(options.keys() - {*known}):
        hint = "; for TLS it is sentinels://" if unknown[0] in _TLS_OPTIONS else ""
        raise ValueError(f"{unknown[0]!r} is no option; there are {', '.join(known)}{hint}")
    login = {"db": int(db or 0), "username": unquote(username) or None, "password": unquote(password) or None}
    sentinel_login = {
        key.removeprefix("sentinel_"): values[-1] for key, values in options.items() if key in _LOGIN_OPTIONS
    }
    tls = _tls({key: values[-1] for key, values in options.items() if key in _TLS_OPTIONS}) if _SERVICES[scheme] else {}
    return Service(
        tuple(_address(host, _SENTINEL_PORT, _HOSTLESS) for host in hosts.split(",")),
        unquote(name),
        login,
        sentinel_login,
        tls,
    )


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Return what redis-py makes of the options of an encrypted URL."""
    read = parse_url(f"rediss://host?{urlencode(options)}")
    return {"ssl": True, **{name: value for name, value in read.items() if name in _TLS_OPTIONS}}


class Nodes(NamedTuple):
    """What a `cluster://` URL says.

    Attributes:
        seeds: nodes to ask for the others.
        scheme: redis-py's, of a connection to a node.
        login: user part of the URL, with its `@`; empty without.
        options: query of the URL, with its `?`; empty without.
    """

    seeds: tuple[Node, ...]
    scheme: str
    login: str
    options: str

    def url(self, node: Node) -> str:
        """Return the URL of one node, as redis-py reads it."""
        return f"{self.scheme}://{self.login}{node}/0{self.options}"


def read_nodes(url: str) -> Nodes | None:
    """Read a `cluster://` URL; None if it is another kind of URL.

    Raises:
        ValueError: a part is missing or wrong; the text says which, and does not quote passwords.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _CLUSTERS:
        return None
    address, _, query = rest.partition("?")
    authority, _, db = address.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    if db not in {"", "0"}:
        raise ValueError(f"a cluster has no databases, so {db!r} names none; its form is {_CLUSTER_FORM}")
    seeds = tuple(Node(*_address(host, _PORT, f"a node without a host; its form is {_CLUSTER_FORM}"))
                  for host in hosts.split(","))  # fmt: skip
    nodes = Nodes(seeds, _CLUSTERS[scheme], userinfo + at, f"?{query}" if query else "")
    parse_url(nodes.url(seeds[0]))
    return nodes


def check_url(url: str) -> None:
    """Refuse a URL that names no cache server.

    Raises:
        Misconfigured: the message says what is wrong with it.
    """
    try:
        if read_service(url) is None and read_nodes(url) is None:
            parse_url(url)
    except ValueError as error:
        raise Misconfigured(f"FORESEEN_CACHE_URL: {error}") from None


def without_password(url: str) -> str:
    """Return the URL without its user part, and without options if a password is among them: fit for messages."""
    scheme, _, rest = url.partition("://")
    rest = rest.rpartition("@")[2]
    return f"{scheme}://{rest.partition('?')[0] if 'password' in rest else rest}"


class CacheServer:
    """Makes pools of connections to the cache server, for threads.

    Args:
        settings: where the server is, and the bounds on waiting for it.

    Attributes:
        nodes: of a cluster, as the URL names them; None if it is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.cache_url
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_timeout": settings.reply_timeout_s,
        }
        self.nodes = read_nodes(settings.cache_url)
        self._service = read_service(settings.cache_url)
        self._sentinels: Sentinels | None = None
        if self._service is not None:
            from foreseen.sentinels import Sentinels

            self._sentinels = Sentinels(self._service, settings)

    def pool(self, node: Node | None = None, **options: Any) -> redis.ConnectionPool:
        """Return a pool of its own; `node` is one of a cluster's, `options` are redis-py's, for each connection."""
        options = {**self._options, **options}
        if self.nodes is not None:
            return redis.ConnectionPool.from_url(self.nodes.url(node or self.nodes.seeds[0]), **options)
        if self._service is None:
            return redis.ConnectionPool.from_url(self._url, **options)
        pool: Any = redis.sentinel.SentinelConnectionPool
        made: redis.ConnectionPool = pool(
            self._service.name, self._sentinels, **self._service.login, **self._service.tls, **options
        )
        return made

    def close(self) -> None:
        """Close connections to the Sentinels."""
        if self._sentinels is not None:
            with suppress(RedisError, OSError):
                self._sentinels.close()


class AsyncCacheServer:
    """Makes pools of connections to the cache server, for one event loop.

    Args:
        settings: where the server is, and the bounds on waiting for it.

    Attributes:
        nodes: of a cluster, as the URL names them; None if it is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.cache_url
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": settings.connect_timeout_s,
            # Whoever waits bounds the whole exchange. redis-py's own bound, five seconds unless told, makes a task of
            # every command that it sends, and on Python 3.11 that can swallow a cancellation (asyncio.wait_for does).
            "socket_timeout": None,
        }
        self.nodes = read_nodes(settings.cache_url)
        self._service = read_service(settings.cache_url)
        self._sentinels: AsyncSentinels | None = None
        if self._service is not None:
            from foreseen.sentinels import AsyncSentinels

            self._sentinels = AsyncSentinels(self._service, settings)

    def pool(self, node: Node | None = None, **options: Any) -> redis.asyncio.ConnectionPool:
        """Return a pool of its own; `node` is one of a cluster's, `options` are redis-py's, for each connection."""
        options = {**self._options, **options}
        if self.nodes is not None:
            return redis.asyncio.ConnectionPool.from_url(self.nodes.url(node or self.nodes.seeds[0]), **options)
        if self._service is None:
            return redis.asyncio.ConnectionPool.from_url(self._url, **options)
        pool: Any = redis.asyncio.sentinel.SentinelConnectionPool
        made: redis.asyncio.ConnectionPool = pool(
            self._service.name, self._sentinels, **self._service.login, **self._service.tls, **options
        )
        return made

    async def close(self) -> None:
        """Close connections to the Sentinels."""
        if self._sentinels is not None:
            with suppress(RedisError, OSError):
                await self._sentinels.aclose()


def _address(text: str, port: int, hostless: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(hostless)
    return parts.hostname, parts.port or port
