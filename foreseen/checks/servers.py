"""Checks of the broker and the cache: what they say of themselves, and what they let us do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from foreseen.broker import transport_options
from foreseen.checks.check import Seen, Severity, Yield, check, per_server
from foreseen.checks.facts import Facts, NotTold, Server

__all__ = ["AT_START", "CHECKS", "FATAL"]

#: The tests run on Redis 7 and Valkey, which calls itself Redis 7.2.
_OLDEST: Final = 7
#: Clocks of machines that ask a time server agree to milliseconds.
_CLOCK_S: Final = 1.0
#: A pool of producers that starts may open dozens of connections at once.
_CONNECTED_SHARE: Final = 0.8
_FULL_SHARE: Final = 0.9
#: Redis's own bounds for subscribers; a soft bound counts once it was passed for a while.
_PUSH_HARD_BYTES: Final = 32 * 2**20
_PUSH_SOFT_BYTES: Final = 8 * 2**20
#: A user who may touch no key is refused a dozen commands.
_LISTED: Final = 4
#: What a worker that restores may be late by.
_RESTORE_LATE_S: Final = 10.0


@check(
    Severity.PROBLEM,
    of="whether the servers answer",
    means="Nothing can be asked, or nothing computed, until it does.",
    fix="Start it, or set FORESEEN_BROKER_URL and FORESEEN_CACHE_URL to where it is.",
)
def unavailable_server(facts: Facts) -> Iterator[Yield]:
    """Redis, Valkey or another broker that does not answer."""
    for server in (facts.broker, facts.cache):
        if server.unavailable is not None:
            yield Seen(f"the {server.role} at {server.where} does not answer: {server.unavailable}")


@check(
    Severity.PROBLEM,
    of="broker in a cluster",
    means="kombu reads several lists with one command, which a cluster refuses: no worker would get a task.",
    fix="Set FORESEEN_BROKER_URL to a single Redis or Valkey, or to RabbitMQ; only the cache can be a cluster.",
)
def clustered_broker(facts: Facts) -> Iterator[Yield]:
    """Kombu has no transport for Redis Cluster."""
    if facts.broker.told("cluster_enabled") == "1":
        yield Seen(f"the broker at {facts.broker.where} is part of a cluster")


@check(
    Severity.PROBLEM,
    of="broker's eviction",
    means="When its memory is full it throws queues away, and the tasks in them are lost.",
    fix="At the broker: CONFIG SET maxmemory-policy noeviction, and the same in its configuration file.",
)
def evicting_broker(facts: Facts) -> Iterator[Yield]:
    """A policy `volatile-…` takes only keys with an expiry, and no queue has one."""
    policy, bound = facts.broker.told("maxmemory_policy"), facts.broker.number("maxmemory")
    if not policy.startswith("allkeys-"):
        return
    shared = (
        "Give the broker a server of its own, with maxmemory-policy noeviction; or, on this one: CONFIG SET "
        "maxmemory-policy volatile-lfu, which evicts entries and no queue."
    )
    seen = f"the broker at {facts.broker.where} has maxmemory-policy {policy}"
    seen += f" and maxmemory {_size(bound)}" if bound else ", though no maxmemory yet"
    seen += "; it is the cache's server, too" if facts.is_shared else ""
    yield Seen(seen, shared if facts.is_shared else None, None if bound else Severity.WARNING)


@check(
    Severity.WARNING,
    of="broker's persistence",
    means="A restart of the broker loses what is queued: waiters ask again, but what was only submitted is gone.",
    fix="At the broker: CONFIG SET appendonly yes, and the same in its configuration file.",
)
def forgetful_broker(facts: Facts) -> Iterator[Yield]:
    """Neither an append-only file nor snapshots."""
    broker = facts.broker
    if broker.told("aof_enabled") == "0" and not broker.configured("save").strip():
        yield Seen(f"the broker at {broker.where} writes nothing to disk (appendonly no, save empty)")


@check(
    Severity.WARNING,
    of="broker's memory",
    means="A full broker refuses tasks: producers get BrokerUnavailable.",
    fix="Start more workers, or raise the broker's maxmemory.",
)
def full_broker(facts: Facts) -> Iterator[Yield]:
    """It refuses rather than evicts, as it should."""
    broker = facts.broker
    used, bound = broker.number("used_memory"), broker.number("maxmemory")
    if bound and used > _FULL_SHARE * bound and not broker.told("maxmemory_policy").startswith("allkeys-"):
        yield Seen(f"the broker at {broker.where} uses {_size(used)} of its maxmemory {_size(bound)}")


@check(
    Severity.WARNING,
    of="cache's bound",
    means="It grows until the machine has no memory left, and the kernel then kills it or something else.",
    fix="At the cache: CONFIG SET maxmemory 1gb and CONFIG SET maxmemory-policy allkeys-lfu.",
)
def unbounded_cache(facts: Facts) -> Iterator[Yield]:
    """No `maxmemory`, which is Redis's default."""
    if facts.cache.number("maxmemory") == 0:
        yield Seen(f"the cache at {facts.cache.where} has no maxmemory", _BOUND_SHARED if facts.is_shared else None)


@check(
    Severity.WARNING,
    of="cache's eviction",
    means="When its memory is full it keeps no new result and opens no flight, until old entries expire.",
    fix="At the cache: CONFIG SET maxmemory-policy allkeys-lfu.",
)
def unforgetting_cache(facts: Facts) -> Iterator[Yield]:
    """`noeviction` with a bound."""
    cache = facts.cache
    if (bound := cache.number("maxmemory")) and cache.told("maxmemory_policy") == "noeviction":
        seen = f"the cache at {cache.where} has maxmemory {_size(bound)} and maxmemory-policy noeviction"
        yield Seen(seen, "CONFIG SET maxmemory-policy volatile-lfu" if facts.is_shared else None)


@check(
    Severity.WARNING,
    of="what the cache evicts first",
    means="It throws away first what expires soonest: cards and running flights, before entries nobody asks for.",
    fix="At the cache: CONFIG SET maxmemory-policy allkeys-lfu; volatile-lfu if it shares a server with the broker.",
)
def hasty_cache(facts: Facts) -> Iterator[Yield]:
    """Every key has an expiry, and a card's or an outcome's is the shortest."""
    if facts.cache.told("maxmemory_policy") == "volatile-ttl":
        yield Seen(f"the cache at {facts.cache.where} has maxmemory-policy volatile-ttl")


@check(
    Severity.PROBLEM,
    of="replicas",
    means="A replica refuses writes, or loses them at its next synchronisation.",
    fix="Set the URL to the primary.",
)
def replica(facts: Facts) -> Iterator[Yield]:
    """Broker or cache is a replica of another server."""

    def look(server: Server) -> Iterator[Seen]:
        if server.told("role") == "slave":
            primary = f"{server.info.get('master_host', '?')}:{server.info.get('master_port', '?')}"
            fix = f"Set FORESEEN_{server.role.upper()}_URL to the primary, {primary}."
            yield Seen(f"the {server.role} at {server.where} is a replica", fix)

    return per_server(facts, look)


@check(
    Severity.WARNING,
    of="server versions",
    means="What foreseen relies on is tested on Redis 7 and Valkey only.",
    fix="Upgrade the server to Redis 7 or later, or to Valkey.",
)
def old_server(facts: Facts) -> Iterator[Yield]:
    """Valkey says it is Redis 7.2."""

    def look(server: Server) -> Iterator[Seen]:
        version = server.told("redis_version")
        if int(version.partition(".")[0]) < _OLDEST:
            yield Seen(f"the {server.role} at {server.where} is Redis {version}")

    return per_server(facts, look)


@check(
    Severity.PROBLEM,
    of="permissions",
    means="The protocol needs these commands; without one of them submissions fail, or their outcomes arrive late.",
    fix="ACL SETUSER <name> ~* &* +@all -@dangerous +info; and no rename-command in its configuration.",
)
def refused_commands(facts: Facts) -> Iterator[Yield]:
    """Tried on keys and a channel of the check's own, or so that they change nothing."""

    def look(server: Server) -> Iterator[Seen]:
        if refused := server.refusals():
            fix = None
            if server.role == "cache":
                namespace = facts.settings.namespace
                fix = f"ACL SETUSER <name> ~{namespace}:* &{namespace}:* +@all -@dangerous +info"
            more = f" and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
            yield Seen(f"the {server.role} at {server.where} refuses {', '.join(refused[:_LISTED])}{more}", fix)

    return per_server(facts, look)


@check(
    Severity.WARNING,
    of="clocks",
    means="Times in logs, in Flower and of dead letters do not fit together; the protocol goes by the servers' clocks.",
    fix="Run a time service on each host: timedatectl set-ntp true.",
)
def differing_clocks(facts: Facts) -> Iterator[Yield]:
    """The server's against this host's, and the servers' against each other."""

    def look(server: Server) -> Iterator[Seen]:
        ahead_s = server.clock_ahead_s()
        if abs(ahead_s) - server.within_s > _CLOCK_S:
            side = "ahead of" if ahead_s > 0 else "behind"
            yield Seen(f"the clock of the {server.role} at {server.where} is {abs(ahead_s):.1f} s {side} this host's")

    seen = list(per_server(facts, look))
    yield from seen
    broker, cache = facts.broker, facts.cache
    if seen or facts.is_shared or broker.ahead_s is None or cache.ahead_s is None:
        return
    apart_s = abs(broker.ahead_s - cache.ahead_s)
    if apart_s - broker.within_s - cache.within_s > _CLOCK_S:
        yield Seen(f"the broker's and the cache's clocks are {apart_s:.1f} s apart")


@check(
    Severity.WARNING,
    of="room for pushes",
    means="A server that cuts off a slow subscriber loses its pushes; outcomes are then found later, by looking.",
    fix='At the cache: CONFIG SET client-output-buffer-limit "pubsub 32mb 8mb 60".',
)
def small_push_buffer(facts: Facts) -> Iterator[Yield]:
    """The output buffer of subscribers is smaller than Redis's own default."""
    words = facts.cache.configured("client-output-buffer-limit").split()
    if "pubsub" not in words:
        raise NotTold("the cache does not tell: CONFIG GET client-output-buffer-limit")
    at = words.index("pubsub")
    hard, soft = int(words[at + 1]), int(words[at + 2])
    if 0 < hard < _PUSH_HARD_BYTES or 0 < soft < _PUSH_SOFT_BYTES:
        yield Seen(
            f"the cache at {facts.cache.where} cuts a subscriber off at {_size(hard)}, or {_size(soft)} for long"
        )


@check(
    Severity.WARNING,
    of="connections left",
    means="At its maxclients a server refuses connections: the next producer or worker does not get in.",
    fix="Raise the server's maxclients, or lower FORESEEN_MAX_CONNECTIONS in each process.",
)
def few_connections_left(facts: Facts) -> Iterator[Yield]:
    """Every producer has a subscription and a pool; every child of a worker a pool."""

    def look(server: Server) -> Iterator[Seen]:
        connected, bound = server.number("connected_clients"), server.number("maxclients")
        if connected > _CONNECTED_SHARE * bound:
            yield Seen(f"the {server.role} at {server.where} has {connected:,} of at most {bound:,} connections")

    return per_server(facts, look)


@check(
    Severity.WARNING,
    of="unacked messages",
    means="No worker restores it, or clocks disagree: what was only submitted waits; waiters asked again meanwhile.",
    fix="Start a worker on this broker; each restores for all. If one runs, look for its errors.",
)
def stale_unacked(facts: Facts) -> Iterator[Yield]:
    """Messages that were taken longer ago than the visibility timeout."""
    age_s, settings = facts.broker.unacked_s(), facts.settings
    bound_s = settings.visibility_timeout_s + 2 * transport_options(settings)["unacked_restore_interval"]
    if age_s > bound_s + _RESTORE_LATE_S:
        yield Seen(
            f"the broker at {facts.broker.where} has an unacked message from {age_s:,.0f} s ago; "
            f"after {settings.visibility_timeout_s:g} s it should have been delivered again"
        )


@check(
    Severity.WARNING,
    of="keys without expiry",
    means="Nothing of foreseen's writes such keys: something else does under this prefix, and they stay for ever.",
    fix="Give the other writer another prefix, or set FORESEEN_NAMESPACE here and on every worker and producer.",
)
def lasting_keys(facts: Facts) -> Iterator[Yield]:
    """In a sample of the namespace's keys."""
    sample = facts.keys()
    if sample.without_expiry:
        some = ", ".join(sample.without_expiry[:3])
        seen = f"{len(sample.without_expiry):,} of {sample.n_keys:,} keys that were looked at never expire: {some}"
        yield Seen(seen + (", …" if len(sample.without_expiry) > 3 else ""))  # noqa: PLR2004 - the three above


@check(
    Severity.WARNING,
    of="length of computations",
    means="The broker delivers a task again while it still runs. It is not computed twice, but is work for nothing.",
    fix="Set FORESEEN_VISIBILITY_TIMEOUT_S to twice the longest batch, on every worker and producer.",
)
def long_computations(facts: Facts) -> Iterator[Yield]:
    """Of the entries in the sample; an entry notes what an input cost, and a message holds a batch of inputs."""
    longest_s, bound_s = facts.keys().longest_s, facts.settings.visibility_timeout_s
    if longest_s >= bound_s:
        yield Seen(f"an input took {longest_s:,.0f} s to compute; the visibility timeout is {bound_s:g} s")


_BOUND_SHARED: Final = (
    "CONFIG SET maxmemory 1gb and CONFIG SET maxmemory-policy volatile-lfu: the broker is on this server, too, and "
    "volatile-… evicts no queue."
)

CHECKS: Final = (
    unavailable_server, clustered_broker, evicting_broker, forgetful_broker, full_broker, unbounded_cache,
    unforgetting_cache, hasty_cache, replica, old_server, refused_commands, differing_clocks, small_push_buffer,
    few_connections_left, stale_unacked, lasting_keys, long_computations,
)  # fmt: skip
#: What a worker looks at when it starts: what two short visits tell, and Celery does not tell by itself.
AT_START: Final = (
    clustered_broker, evicting_broker, forgetful_broker, full_broker, unbounded_cache, unforgetting_cache, hasty_cache,
    replica, old_server, refused_commands, differing_clocks, small_push_buffer, few_connections_left,
)  # fmt: skip
#: With these the protocol cannot hold at all, whatever else happens: a worker does not start.
FATAL: Final = frozenset({clustered_broker.name})


def _size(count: int) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
