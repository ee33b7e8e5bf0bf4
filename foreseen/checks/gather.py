"""What the broker and the cache say of themselves; each question is bounded by the settings' timeouts.

Nothing here changes anything: what is tried for permission is tried on keys of its own, which are removed, or with
commands that find nothing to do.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from typing import Any, Final

import kombu
import redis
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from foreseen.broker import is_redis, transport_options
from foreseen.cache_server import CacheServer, without_password
from foreseen.checks.facts import Sample, Server
from foreseen.cluster import Cluster
from foreseen.entry import HEADER_BYTES
from foreseen.keys import KeySpace
from foreseen.nodes import Node
from foreseen.settings import Settings
from foreseen.slots import SlotMap
from foreseen.tls import broker_address

__all__ = ["broker_facts", "cache_facts", "refusal", "sample_keys", "shard_facts"]

#: What INFO does not tell.
_CONFIGURED: Final = ("save", "client-output-buffer-limit")
#: How a server says that it refuses a command, rather than what was asked of it. Within scripts Redis 7.0 has words of
#: its own ("can't run this command"), later ones and Valkey others ("ACL failure").
_REFUSAL: Final = re.compile(
    r"NOPERM|ACL failure|no permission|can't (run|access|publish)|unknown (redis )?command", re.IGNORECASE
)
#: Should the server refuse to remove the check's own key.
_LIFE_MS: Final = 10_000
#: Enough to see what another writer leaves; at most twenty round trips to a server that may be busy.
_SAMPLE_KEYS: Final = 2_000
_SCAN_COUNT: Final = 200
_SCANS: Final = 20


def broker_facts(settings: Settings) -> Server:
    """Ask the broker. It is Redis or Valkey, or tells no more than that it answers."""
    where = without_password(settings.broker_url)
    url, ssl = broker_address(settings.broker_url)
    connection: Any = kombu.Connection(
        url,
        ssl=ssl,
        connect_timeout=settings.connect_timeout_s,  # pyright: ignore[reportArgumentType] - seconds, as a float too
        transport_options=transport_options(settings),
    )
    ours = is_redis(settings.broker_url)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
        if not ours:
            return Server("broker", where, is_redis=False)
        with connection.channel() as channel:
            client = channel.client
            tried = _tried(_broker_commands(client, settings))
            ahead_s, within_s = _clock(client)
            unacked_s = _oldest_unacked_s(client, ahead_s or 0.0)
            info, config = _info(client), _config(client)
            return Server("broker", where, None, True, info, config, tried, ahead_s, within_s, unacked_s)  # noqa: FBT003 - in order
    except (OSError, KombuError, RedisError, *connection.connection_errors) as error:
        return Server("broker", where, unavailable=str(error.__cause__ or error), is_redis=ours)
    finally:
        connection.release()


def cache_facts(settings: Settings) -> Server:
    """Ask the cache; of a cluster, a master that answers, if any does."""
    told = shard_facts(settings)
    return next((each for each in told if each.unavailable is None), told[0])


def shard_facts(settings: Settings) -> list[Server]:
    """Ask every master of a cluster; or the one server that there is."""
    where = without_password(settings.cache_url)
    try:
        slots = _read_slots(settings)
    except (RedisError, OSError) as error:
        return [Server("cache", where, unavailable=str(error))]
    if slots is None:
        return [_shard_facts(settings, where, None, None)]
    return [_shard_facts(settings, f"redis://{node}", node, slots) for node in slots.masters]


def _shard_facts(settings: Settings, where: str, node: Node | None, slots: SlotMap | None) -> Server:
    try:
        with _open_cache(settings, node) as client:
            client.ping()
            tried = _tried_in_cache(client, KeySpace(settings.namespace), node, slots)
            ahead_s, within_s = _clock(client)
            return Server("cache", where, None, True, _info(client), _config(client), tried, ahead_s, within_s)  # noqa: FBT003 - in order
    except (RedisError, OSError) as error:
        return Server("cache", where, unavailable=str(error))


def _read_slots(settings: Settings) -> SlotMap | None:
    """Return who holds what in a cluster; None if the cache is none."""
    server = CacheServer(settings)
    try:
        return None if server.nodes is None else Cluster(server).slots
    finally:
        server.close()


def sample_keys(settings: Settings) -> Sample | None:
    """Look at some of the namespace's keys in the cache, on every master of a cluster; None if it does not let us."""
    try:
        slots = _read_slots(settings)
        samples = [_sample_of(settings, node) for node in (slots.masters if slots is not None else (None,))]
    except (RedisError, OSError):
        return None
    return Sample(
        sum(each.n_keys for each in samples),
        [name for each in samples for name in each.without_expiry],
        max(each.longest_s for each in samples),
    )


def _sample_of(settings: Settings, node: Node | None) -> Sample:
    with _open_cache(settings, node) as client:
        keys = list(dict.fromkeys(islice(_scan(client, f"{settings.namespace}:*"), _SAMPLE_KEYS)))
        entries = [key for key in keys if key.startswith(f"{settings.namespace}:e:".encode())]
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            for key in entries:
                pipeline.getrange(key, 0, HEADER_BYTES - 1)
            replies = pipeline.execute()
    lasting = [key.decode(errors="replace") for key, life_ms in zip(keys, replies, strict=False) if life_ms == -1]
    costs_us = [_cost_us(header) for header in replies[len(keys) :]]
    return Sample(len(keys), lasting, max(costs_us, default=0) / 1e6)


@contextmanager
def _open_cache(settings: Settings, node: Node | None) -> Generator[Any]:
    server = CacheServer(settings)
    pool = server.pool(node, retry=Retry(NoBackoff(), 0))
    try:
        with redis.Redis(connection_pool=pool) as client:
            yield client
    finally:
        pool.disconnect()
        server.close()


def _scan(client: Any, pattern: str) -> Iterator[bytes]:
    cursor = 0
    for _ in range(_SCANS):
        cursor, keys = client.scan(cursor, match=pattern, count=_SCAN_COUNT)
        yield from keys
        if not cursor:
            return


def _cost_us(header: bytes) -> int:
    """Read what an entry notes of its computation; 0 of what has expired meanwhile."""
    return int.from_bytes(header[HEADER_BYTES - 8 : HEADER_BYTES - 4]) if len(header) == HEADER_BYTES else 0


def _info(client: Any) -> Mapping[str, str]:
    try:
        return {name: str(value) for name, value in client.info().items()}
    except ResponseError:
        return {}


def _config(client: Any) -> Mapping[str, str]:
    told: dict[str, str] = {}
    for name in _CONFIGURED:
        try:
            told |= {_text(key): _text(value) for key, value in client.config_get(name).items()}
        except ResponseError:
            continue
    return told


def _clock(client: Any) -> tuple[float | None, float]:
    """Return how far the server's clock is ahead of this host's, and how far that may be off."""
    before = time.time()
    try:
        seconds, microseconds = client.time()
    except ResponseError:
        return None, 0.0
    after = time.time()
    return seconds + microseconds / 1e6 - (before + after) / 2, (after - before) / 2


def _oldest_unacked_s(client: Any, ahead_s: float) -> float | None:
    try:
        oldest = client.zrange("unacked_index", 0, 0, withscores=True)
    except ResponseError:
        return None
    return max(0.0, time.time() + ahead_s - float(oldest[0][1])) if oldest else 0.0


def _tried(commands: Sequence[tuple[str, Callable[[], Any]]]) -> tuple[str, ...]:
    """Run commands; return those that the server refused, each with the reason if there is a special one."""
    refused: dict[str, None] = {}
    for name, run in commands:
        try:
            run()
        except ResponseError as error:  # others are a full server's, or a replica's: checks of their own
            if (named := refusal(name, str(error))) is not None:
                refused[named] = None
    return tuple(refused)


def refusal(command: str, said: str) -> str | None:
    """Return the command, and on what it may not be used; None if what the server said is no refusal of it."""
    if not _REFUSAL.search(said):
        return None
    if re.search(r"\bchannel", said):
        return f"{command} on its channel"
    return f"{command} on its keys" if re.search(r"\bkeys?\b", said) else command


def _broker_commands(client: Any, settings: Settings) -> list[tuple[str, Callable[[], Any]]]:
    """Return what kombu sends, on a queue of the check's own and on what holds unacked messages."""
    nonce = secrets.token_hex(8)
    queue, note = f"{settings.namespace}.doctor-{nonce}", f"doctor-{nonce}"
    commands: list[tuple[Any, ...]] = [
        ("LPUSH", queue, ""),
        ("PEXPIRE", queue, _LIFE_MS),
        ("LLEN", queue),
        ("BRPOP", queue, 1),
        ("DEL", queue),
        ("ZADD", "unacked_index", "XX", 0, note),  # no such member: nothing is added
        ("TIME",),
        ("EVAL", "return redis.call('TIME')", 0),
        ("ZREM", "unacked_index", note),
        ("ZREVRANGEBYSCORE", "unacked_index", 0, 0),
        ("HSET", queue, "field", ""),
        ("PEXPIRE", queue, _LIFE_MS),
        ("DEL", queue),
        ("HGET", "unacked", note),
        ("HDEL", "unacked", note),
        ("SMEMBERS", "_kombu.binding.celery.pidbox"),
        ("SADD", queue, ""),
        ("PEXPIRE", queue, _LIFE_MS),
        ("DEL", queue),
    ]

    def send(command: tuple[Any, ...]) -> Callable[[], Any]:
        return lambda: client.execute_command(*command)

    return [(command[0], send(command)) for command in commands]


def _tried_in_cache(client: Any, space: KeySpace, node: Node | None, slots: SlotMap | None) -> tuple[str, ...]:
    """Try what the protocol's scripts do, and what an inbox needs; on a key that this node holds."""
    channel = space.inbox(f"doctor-{secrets.token_hex(8)}")
    key = f"{space.namespace}:doctor:{secrets.token_hex(8)}"
    while slots is not None and slots.owner(key_slot(key.encode())) != node:
        key = f"{space.namespace}:doctor:{secrets.token_hex(8)}"
    script = (files("foreseen.checks") / "permitted.lua").read_text(encoding="utf-8")
    refused: list[str] = []

    def run_script() -> None:
        replies = [_text(each) for each in client.evalsha(client.script_load(script), 1, key, channel, _LIFE_MS)]
        refusals = zip(replies[::2], replies[1::2], strict=True)
        refused.extend(filter(None, (refusal(command, said) for command, said in refusals)))

    def subscribe() -> None:
        with client.pubsub() as inbox:
            inbox.subscribe(channel)
            inbox.get_message(timeout=client.get_connection_kwargs()["socket_timeout"])

    tried = _tried([("EVALSHA", run_script), ("SUBSCRIBE", subscribe)])
    return tuple(dict.fromkeys([*tried, *refused]))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
