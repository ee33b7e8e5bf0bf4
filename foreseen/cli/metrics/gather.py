"""What `foreseen metrics` asks the cache and the broker, at each scrape."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import kombu
import msgpack
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from foreseen import measures, statistics
from foreseen.broker import is_redis, open_connection
from foreseen.cache import Cache
from foreseen.cli.deployment import read_versions
from foreseen.errors import BrokerUnavailable, CacheUnavailable
from foreseen.keys import KeySpace
from foreseen.measures import Histogram, Measured
from foreseen.queues import depth
from foreseen.settings import Settings
from foreseen.statistics import Counts, ServerMemory

__all__ = ["Broker", "CacheServer", "Facts", "ModelFacts", "gather"]

#: kombu's own keys, of all queues of a database.
_UNACKED: Final = "unacked"
_UNACKED_INDEX: Final = "unacked_index"
#: Where a message's arguments say when it was sent.
_SENT: Final = 2


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a version of a model.

    Attributes:
        is_served: a worker publishes its card.
        counts: what scripts and producers counted.
        measured: by histogram and label.
    """

    is_served: bool
    counts: Counts
    measured: Mapping[tuple[Histogram, str], Measured]


@dataclass(frozen=True, slots=True)
class CacheServer:
    """What the cache says.

    Attributes:
        models: by `model@version`.
        workers: that live; None if it does not tell.
        keys: in its database.
        memory: of the whole server.
        now_ms: its clock.
    """

    models: Mapping[str, ModelFacts]
    workers: int | None
    keys: int
    memory: ServerMemory
    now_ms: int


@dataclass(frozen=True, slots=True)
class Broker:
    """What the broker says; of what only Redis can be asked, None elsewhere.

    Attributes:
        depths: messages that wait, by `model@version`.
        sent_ms: when the one was sent that has waited longest, by the cache server's clock; nothing of queues that are
            empty, or whose next message was sent out of turn.
        dead_letters: that are kept.
        unacked: messages that workers have taken, and not acked, of all queues of the database.
        unacked_s: how long the first of them has been with its worker.
        memory: of the whole server.
    """

    depths: Mapping[str, int]
    sent_ms: Mapping[str, int] = field(default_factory=dict[str, int])
    dead_letters: int = 0
    unacked: int | None = None
    unacked_s: float | None = None
    memory: ServerMemory | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything; None for a server that does not answer."""

    cache: CacheServer | None
    broker: Broker | None


def gather(cache: Cache, settings: Settings, known: Sequence[str]) -> Facts:
    """Ask both servers.

    Args:
        cache: where it is asked.
        settings: of the deployment.
        known: models whose queues are looked at even if the cache cannot be asked.
    """
    told: CacheServer | None = None
    with suppress(CacheUnavailable):
        told = _ask_cache(cache, KeySpace(settings.namespace))
    try:
        broker = _ask_broker(settings, list(told.models) if told is not None else known)
    except BrokerUnavailable:
        broker = None
    return Facts(told, broker)


def _ask_cache(cache: Cache, space: KeySpace) -> CacheServer:
    versions = read_versions(cache, space)
    models: dict[str, ModelFacts] = {}
    for each in versions:
        counts = statistics.parse(cache.commands(statistics.read(space, each.model_id)))
        measured: Mapping[tuple[Histogram, str], Measured] = {}
        with suppress(CacheUnavailable):  # somebody may have put another type in its place, which no script minds
            measured = measures.parse(cache.commands(measures.read(space, each.model_id)))
        models[each.model_id] = ModelFacts(each.card is not None, counts, measured)
    commands = [*statistics.read_server(), ("DBSIZE",), ("TIME",), ("PUBSUB", "CHANNELS", space.worker("*"))]
    told = cache.of_each(commands)  # of a cluster, every master
    memory = statistics.parse_server([replies[:-3] for replies in told])
    keys = sum(int(replies[-3]) for replies in told)
    now_ms = max(int(seconds) * 1000 + int(micros) // 1000 for *_, (seconds, micros), _ in told)
    workers = {channel for *_, channels in told for channel in channels}
    return CacheServer(models, len(workers), keys, memory, now_ms)


def _ask_broker(settings: Settings, model_ids: Sequence[str]) -> Broker:
    space = KeySpace(settings.namespace)
    connection = open_connection(settings)
    try:
        depths = {model_id: depth(connection, space.queue(model_id)) for model_id in model_ids}
        dead = depth(connection, space.dead_letters())
        if not is_redis(settings.broker_url):
            return Broker(depths, dead_letters=dead)
        channel = connection.default_channel
        return _ask_redis(channel, channel.client, space, depths, dead)
    except (OSError, KombuError, RedisError, *connection.connection_errors) as error:
        where = kombu.Connection(settings.broker_url).as_uri()
        raise BrokerUnavailable(f"The broker at {where} does not answer: {error}") from error
    finally:
        connection.release()


def _ask_redis(channel: Any, client: Any, space: KeySpace, depths: Mapping[str, int], dead: int) -> Broker:
    sent_ms: dict[str, int] = {}
    for model_id in (each for each, count in depths.items() if count):
        queue = space.queue(model_id)
        oldest = [client.lindex(channel._q_for_pri(queue, step), -1) for step in channel.priority_steps]  # noqa: SLF001 - there is no other way
        sent = [at for at in map(_sent_ms, oldest) if at]
        if sent:
            sent_ms[model_id] = min(sent)
    first = client.zrange(_UNACKED_INDEX, 0, 0, withscores=True)
    unacked_s = max(0.0, time.time() - float(first[0][1])) if first else 0.0
    lines = chain.from_iterable(client.info(section).items() for section in ("memory", "stats"))
    memory = statistics.parse_server([["\n".join(f"{name}:{value}" for name, value in lines).encode()]])
    return Broker(depths, sent_ms, dead, int(client.hlen(_UNACKED)), unacked_s, memory)


def _sent_ms(envelope: bytes | None) -> int:
    """Return when a message in a queue was sent; 0 if it does not say: it is a copy, or none of ours."""
    if envelope is None:
        return 0
    try:
        arguments = msgpack.unpackb(base64.b64decode(json.loads(envelope)["body"]))[0]
        sent = arguments[_SENT]
    except Exception:  # noqa: BLE001 - whoever reaches the broker can send anything
        return 0
    return sent if type(sent) is int and sent > 0 else 0
