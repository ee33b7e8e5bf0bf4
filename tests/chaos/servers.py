"""Where broker and cache are in a run, and what can go wrong with them there.

A single server is reached through a TCP proxy. Nodes of a cluster, and servers that Sentinels name, are reached where
they say that they are, so of those it is the processes that are hit.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import msgpack
import redis
from acceptance.cache_troubles import SERVICE, sentinels
from acceptance.clusters import ClusterOfNodes, Node, cluster_of_nodes
from acceptance.harness import Deployment
from acceptance.rabbitmq import RabbitMQ

from chaos.faults import Hit, Row
from chaos.proxy import Proxy
from foreseen.embedded import EmbeddedServer

__all__ = ["BROKERS", "CACHES", "Broker", "Cache", "broker_of", "cache_of"]

BROKERS: Final = ("server", "rabbitmq")
CACHES: Final = ("server", "sentinel", "cluster")

#: Held up each way; three round trips of it still fit between two renewals of a lease.
DELAY_S: Final = (0.02, 0.12)
#: Filler is written until as many keys were evicted as there were, a piece of this size at a time.
_FILLER: Final = b"x" * 4096
#: Left to the cache when it is to be full: what connections need, which cannot be evicted.
_ROOM_BYTES: Final = 2**20
#: A replica takes its master's place within a few seconds on an idle machine.
_FAILOVER_S: Final = 60.0
_POLL_S: Final = 0.05
#: Servers that Sentinels watch over: a master, and who can follow it.
_WATCHED: Final = 3
_SENTINELS: Final = 3


class Cache(Protocol):
    """Where the cache is."""

    def rows(self) -> list[Row]:
        """Return what can go wrong with it."""
        ...


class Broker(Cache, Protocol):
    """Where the broker is."""

    def unsettled(self) -> int:
        """Return how many messages it holds: queued, and delivered but not acked."""
        ...


# --- one server behind a proxy ----------------------------------------------------------------------------------------


class _Link:
    """Faults of the connections that go through a proxy."""

    def __init__(self, role: str, proxy: Proxy, deployment: Deployment, chance: random.Random) -> None:
        self._role = role
        self._proxy = proxy
        self._chance = chance
        self._lease_s = deployment.settings.lease_s
        self._away_s = self._lease_s + deployment.settings.reply_timeout_s

    def rows(self) -> list[Row]:
        return [
            Row(f"all connections to the {self._role} delayed", self._delay, 2),
            Row(f"all connections to the {self._role} half-open", self._half_open, 2),
        ]

    def _delay(self) -> Hit:
        """Hold up everything, either way, for two leases. Nothing may lapse of that."""
        self._proxy.delay(*DELAY_S, for_s=2 * self._lease_s)
        return Hit(lasts_s=2 * self._lease_s)

    def _half_open(self) -> Hit:
        """Swallow what is sent over the connections that are open, for longer than a reply may take and a lease."""
        lasts_s = self._away_s * self._chance.uniform(1.1, 1.5)
        self._proxy.swallow(lasts_s, also_new=self._chance.random() < 0.5)
        # Who could not renew in time is taken over: as if the cache had been away.
        return Hit(loses=self._role == "cache", lasts_s=lasts_s)


class _OneCache:
    """A single server."""

    def __init__(self, server: EmbeddedServer, link: _Link, deployment: Deployment, chance: random.Random) -> None:
        self._server = server
        self._link = link
        self._chance = chance
        self._lease_s = deployment.settings.lease_s

    def rows(self) -> list[Row]:
        return [
            Row("all connections to the cache cut", lambda: _cut([self._client], self._chance), 4),
            *self._link.rows(),
            Row("FLUSHALL of the cache", lambda: _flush([self._client]), 1),
            Row("a fifth of the cache's keys evicted", lambda: _evict_a_fifth([self._client], self._chance), 2),
            Row("the cache's memory filled, keys evicted", self._fill, 1),
            Row("cache killed, restarted empty", lambda: self._restart(keep_data=False), 1),
            Row("cache restarted with its data", lambda: self._restart(keep_data=True), 1),
        ]

    def _client(self) -> redis.Redis:
        """Return a client of the server itself, not through its proxy."""
        return redis.Redis.from_url(self._server.url(0))

    def _fill(self) -> Hit:
        """Give the cache no more memory than it has, and write until the server itself evicts."""
        with self._client() as client:
            keys: int = client.dbsize()  # type: ignore[assignment]
            policy = self._chance.choice(["allkeys-lru", "allkeys-lfu"])
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", _info(client, "used_memory") + _ROOM_BYTES)
            enough = _info(client, "evicted_keys") + keys
            end = time.monotonic() + self._lease_s
            while _info(client, "evicted_keys") < enough and time.monotonic() < end:
                with client.pipeline(transaction=False) as pipe:
                    for _ in range(100):
                        pipe.set(f"filler:{self._chance.random()}", _FILLER, px=5000)
                    pipe.execute(raise_on_error=False)  # refused while connections' buffers alone are too much
            client.config_set("maxmemory", 0)
        return Hit(loses=True)

    def _restart(self, *, keep_data: bool) -> Hit:
        """End the cache's server and start it again."""
        self._server.restart(keep_data=keep_data)
        return Hit(loses=True)  # with its data, too: it is away while it saves and loads


class _OneBroker:
    """A single Redis or Valkey server, the deployment's own."""

    def __init__(self, link: _Link, deployment: Deployment, chance: random.Random) -> None:
        self._link = link
        self._deployment = deployment
        self._chance = chance

    def rows(self) -> list[Row]:
        return [
            Row("all connections to the broker cut", lambda: _cut([self._client], self._chance), 3),
            *self._link.rows(),
            Row("broker restarted with its data", self._restart, 1),
            Row("broker killed, restarted empty", self._restart_empty, 1),
        ]

    def unsettled(self) -> int:
        return self._deployment.unsettled_messages()

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self._deployment.server.url(0))

    def _restart(self) -> Hit:
        """End the broker and start it again."""
        self._deployment.server.restart(keep_data=True)
        return Hit()

    def _restart_empty(self) -> Hit:
        """Likewise without its data: what nobody waits for may be lost."""
        with self._client() as client:
            inputs = frozenset(_inputs_in(client, self._deployment.settings.namespace))
        self._deployment.server.restart()
        return Hit(inputs=inputs)


# --- RabbitMQ ---------------------------------------------------------------------------------------------------------


class _RabbitBroker:
    """RabbitMQ, behind a proxy: what it has confirmed is there again, however it ends."""

    def __init__(self, server: RabbitMQ, proxy: Proxy, link: _Link) -> None:
        self._server = server
        self._proxy = proxy
        self._link = link

    def rows(self) -> list[Row]:
        return [
            Row("all connections to RabbitMQ reset", self._cut, 3),
            *self._link.rows(),
            Row("RabbitMQ stopped, started", lambda: self._restart(signal.SIGTERM), 1),
            Row("kill -9 of RabbitMQ, started", lambda: self._restart(signal.SIGKILL), 1),
        ]

    def unsettled(self) -> int:
        return self._server.messages()

    def _cut(self) -> Hit:
        self._proxy.swallow(0, also_new=False)
        return Hit()

    def _restart(self, number: signal.Signals) -> Hit:
        self._server.end(number)
        self._server.start()
        return Hit()


# --- several servers --------------------------------------------------------------------------------------------------


class _WatchedCache:
    """A master and its replicas, over which Sentinels watch."""

    def __init__(self, servers: list[EmbeddedServer], pids: list[int], ports: list[int], chance: random.Random) -> None:
        self._servers = servers
        self._sentinel_pids = pids
        self._ports = ports
        self._chance = chance
        self._dead: list[EmbeddedServer] = []

    def rows(self) -> list[Row]:
        here = [lambda: redis.Redis(port=self._master().port)]
        return [
            Row("all connections to the master cut", lambda: _cut(here, self._chance), 3),
            Row("FLUSHALL of the master", lambda: _flush(here), 1),
            Row("a fifth of the master's keys evicted", lambda: _evict_a_fifth(here, self._chance), 1),
            Row("kill -9 of the master, another takes over", self._kill, 3),
            Row("the dead server started again, as a replica in the end", self._bring_back, 3),
            Row("SIGSTOP of the master until another took over, SIGCONT", self._stop, 2),
            Row("SIGSTOP of a Sentinel, SIGCONT", self._stop_a_sentinel, 1),
        ]

    def _kill(self) -> Hit | None:
        """Kill the master; over once the Sentinels name another, and no third takes itself for it.

        Two Sentinels may each have made another one master, of which one is demoted ten seconds later.
        """
        master = self._master()
        if not self._can_be_replaced(master):
            return None
        os.kill(master.pid, signal.SIGKILL)
        self._dead.append(master)
        _wait(lambda: self._master() is not master and self._is_settled())
        return Hit(loses=True, reverts=True)

    def _bring_back(self) -> Hit | None:
        """Start what is dead, empty: it takes itself for whatever it was first, until a Sentinel tells it otherwise."""
        if not self._dead:
            return None
        self._dead.pop().restart()
        return Hit()

    def _stop(self) -> Hit | None:
        """Stop the master until another was named; then it takes writes of who is connected, until it is demoted."""
        master = self._master()
        if not self._can_be_replaced(master):
            return None
        os.kill(master.pid, signal.SIGSTOP)
        try:
            _wait(lambda: self._master() is not master)
        finally:
            os.kill(master.pid, signal.SIGCONT)
        _wait(self._is_settled)
        return Hit(loses=True, reverts=True)

    def _stop_a_sentinel(self) -> Hit:
        """Let a Sentinel take connections, and say nothing for a while."""
        pid = self._chance.choice(self._sentinel_pids)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.5, 1.5))
        os.kill(pid, signal.SIGCONT)
        return Hit()

    def _master(self) -> EmbeddedServer:
        """Return who is master, by the word of most Sentinels that answer."""
        said: list[int] = []
        for port in self._ports:
            with (
                contextlib.suppress(redis.RedisError),
                redis.Redis(port=port, socket_timeout=1, decode_responses=True) as client,
            ):
                told: Any = client.sentinel_get_master_addr_by_name(SERVICE)
                said.append(int(told[1]))
        most = max(set(said), key=said.count)
        return next(server for server in self._servers if server.port == most)

    def _is_settled(self) -> bool:
        """Tell whether no live server but the one that is named takes itself for the master."""
        named = self._master()
        for server in self._servers:
            if server not in self._dead:
                with redis.Redis(port=server.port, socket_timeout=1) as client:
                    if (client.role()[0] == b"master") != (server is named):
                        return False
        return True

    def _can_be_replaced(self, master: EmbeddedServer) -> bool:
        """Tell whether a live replica has all that the master has, more or less, and every Sentinel knows that one."""
        with redis.Redis(port=master.port, socket_timeout=1) as client:
            try:
                told: Any = client.info("replication")
            except redis.RedisError:
                return False
        replicas = [told[f"slave{n}"]["state"] for n in range(told["connected_slaves"])]
        return (
            told["role"] == "master"
            and "online" in replicas
            and all(self._sees_a_replica(port) for port in self._ports)
        )

    def _sees_a_replica(self, port: int) -> bool:
        try:
            with redis.Redis(port=port, socket_timeout=1, decode_responses=True) as client:
                replicas: Any = client.sentinel_slaves(SERVICE)
        except redis.RedisError:
            return False
        return any(each["flags"] == "slave" and each["master-link-status"] == "ok" for each in replicas)


class _ClusteredCache:
    """A cluster of three masters, each with a replica."""

    def __init__(self, cluster: ClusterOfNodes, deployment: Deployment, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._away_s = deployment.settings.lease_s + deployment.settings.reply_timeout_s
        self._dead: list[Node] = []

    def rows(self) -> list[Row]:
        return [
            Row("all connections to the nodes cut", lambda: _cut(self._clients(), self._chance), 3),
            Row("FLUSHALL of every master", lambda: _flush(self._clients(masters=True)), 1),
            Row("a fifth of every master's keys evicted", self._evict_a_fifth, 1),
            Row("kill -9 of a master, its replica takes over", self._kill, 3),
            Row("the dead node started again, as a replica", self._bring_back, 3),
            Row("SIGSTOP of a master until its replica took over, SIGCONT", self._stop, 2),
            Row("a slot moved to another master", self._move_a_slot, 3),
            Row("a master and its replica stopped, continued", self._stop_a_shard, 1),
        ]

    def _clients(self, *, masters: bool = False) -> list[Callable[[], redis.Redis]]:
        nodes = self._cluster.masters_now() if masters else self._cluster.alive()
        return [lambda port=node.port: redis.Redis(port=port) for node in nodes]

    def _evict_a_fifth(self) -> Hit:
        return _evict_a_fifth(self._clients(masters=True), self._chance)

    def _kill(self) -> Hit | None:
        """Kill a master; over once its replica has its slots, and all know."""
        if (master := self._replaceable()) is None:
            return None
        master.kill()
        self._dead.append(master)
        _wait(lambda: self._cluster.is_well() and master not in self._cluster.masters_now())
        return Hit(loses=True, reverts=True)

    def _bring_back(self) -> Hit | None:
        """Start what is dead, without its data."""
        if not self._dead:
            return None
        self._dead.pop().start()
        return Hit()

    def _stop(self) -> Hit | None:
        """Stop a master until its replica has its slots; then it goes on, and hears of it."""
        if (master := self._replaceable()) is None:
            return None
        master.signal(signal.SIGSTOP)
        try:
            others = [node for node in self._cluster.servers if node is not master and node not in self._dead]
            _wait(lambda: self._cluster.is_well(others) and master not in self._cluster.masters_now(others))
        finally:
            master.signal(signal.SIGCONT)
        _wait(lambda: self._cluster.is_well() and master.client.info("replication")["role"] == "slave")
        return Hit(loses=True, reverts=True)

    def _stop_a_shard(self) -> Hit | None:
        """Stop all that has some slots, for longer than a lease: nobody can take its place."""
        master = self._chance.choice(self._cluster.masters_now())
        replicas = self._cluster.replicas_of(master)
        for node in (*replicas, master):
            node.signal(signal.SIGSTOP)
        time.sleep(self._away_s * self._chance.uniform(0.5, 1.5))
        for node in (*replicas, master):
            node.signal(signal.SIGCONT)
        _wait(self._cluster.is_well)
        return Hit(loses=True, reverts=True)  # the replica may have been the first to wake, and have won a vote

    def _move_a_slot(self) -> Hit:
        """Move a slot that has entries, if one is found."""
        giver, taker = self._chance.sample(self._cluster.masters_now(), 2)
        name = giver.client.randomkey()
        if name is not None:
            self._cluster.move_slot(name, giver, taker)
        return Hit()

    def _replaceable(self) -> Node | None:
        """Return a master that a live replica follows, if there is one."""
        if not self._cluster.is_well():
            return None
        masters = [master for master in self._cluster.masters_now() if self._cluster.is_followed(master)]
        return self._chance.choice(masters) if masters else None


# --- how they are started ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def broker_of(kind: str, deployment: Deployment, chance: random.Random) -> Iterator[Broker]:
    """Have the deployment's broker be of a kind."""
    with contextlib.ExitStack() as stack:
        if kind == "rabbitmq":
            directory = deployment.directory / "rabbitmq"
            directory.mkdir()
            rabbit = stack.enter_context(RabbitMQ(directory))
            proxy = stack.enter_context(Proxy(rabbit.port, chance.randrange(10**6)))
            deployment.use_broker(f"amqp://guest:guest@{EmbeddedServer.host}:{proxy.port}//")
            yield _RabbitBroker(rabbit, proxy, _Link("broker", proxy, deployment, chance))
        else:
            proxy = stack.enter_context(Proxy(deployment.server.port, chance.randrange(10**6)))
            deployment.use_broker(f"redis://{EmbeddedServer.host}:{proxy.port}/0")
            yield _OneBroker(_Link("broker", proxy, deployment, chance), deployment, chance)


@contextlib.contextmanager
def cache_of(kind: str, deployment: Deployment, chance: random.Random) -> Iterator[Cache]:
    """Have the deployment's cache be of a kind."""
    with contextlib.ExitStack() as stack:
        if kind == "cluster":
            cluster = stack.enter_context(cluster_of_nodes(deployment))
            yield _ClusteredCache(cluster, deployment, chance)
        elif kind == "sentinel":
            servers = [stack.enter_context(EmbeddedServer(config={"repl-diskless-sync-delay": "0"}))]
            leader = f"{EmbeddedServer.host} {servers[0].port}"
            for _ in range(_WATCHED - 1):
                config = {"repl-diskless-sync-delay": "0", "replicaof": leader}
                servers.append(stack.enter_context(EmbeddedServer(config=config)))
            watching = sentinels(deployment, servers[0], len(servers) - 1, count=_SENTINELS)
            ports = stack.enter_context(watching)
            hosts = ",".join(f"{EmbeddedServer.host}:{port}" for port in ports)
            deployment.use_cache(f"sentinel://{hosts}/{SERVICE}/0")
            yield _WatchedCache(servers, list(ports.values()), list(ports), chance)
        else:
            server = stack.enter_context(EmbeddedServer())
            proxy = stack.enter_context(Proxy(server.port, chance.randrange(10**6)))
            deployment.use_cache(f"redis://{EmbeddedServer.host}:{proxy.port}/0")
            yield _OneCache(server, _Link("cache", proxy, deployment, chance), deployment, chance)


# --- what several of them do ------------------------------------------------------------------------------------------


def _cut(clients: Iterable[Callable[[], redis.Redis]], chance: random.Random) -> Hit:
    """Have servers close all connections of a kind."""
    kind = chance.choice(["normal", "pubsub"])
    for make in clients:
        with make() as client:
            client.client_kill_filter(_type=kind, skipme=True)
    return Hit()


def _flush(clients: Iterable[Callable[[], redis.Redis]]) -> Hit:
    for make in clients:
        with make() as client:
            client.flushall()
    return Hit(loses=True)


def _evict_a_fifth(clients: Iterable[Callable[[], redis.Redis]], chance: random.Random) -> Hit:
    """Do what a full cache does, without the wait: some of its keys are gone."""
    for make in clients:
        with make() as client:
            names = [name for name in client.scan_iter("foreseen:[fegcxo]:*", count=1000) if chance.random() < 0.2]
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.delete(name)
                pipe.execute(raise_on_error=False)  # of a cluster: one whose slot has just left
    return Hit(loses=True)


def _wait(condition: Callable[[], bool]) -> None:
    """Wait until it is so; what cannot be asked yet is not.

    Raises:
        TimeoutError: it did not become so.
    """
    end = time.monotonic() + _FAILOVER_S
    while time.monotonic() < end:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        time.sleep(_POLL_S)
    raise TimeoutError(f"nobody took over within {_FAILOVER_S:g} s")


def _info(client: redis.Redis, name: str) -> int:
    facts: dict[str, Any] = client.info()  # type: ignore[assignment]
    return int(facts[name])


def _inputs_in(client: redis.Redis, namespace: str) -> Iterator[int]:
    """Yield the numbers of the inputs whose messages the broker holds, queued or not acked."""
    noted: list[bytes] = client.hvals("unacked")  # type: ignore[assignment]
    messages = [json.loads(each)[0] for each in noted]
    for queue in client.scan_iter(f"{namespace}.stamped@*", _type="list"):
        queued: list[bytes] = client.lrange(queue, 0, -1)  # type: ignore[assignment]
        messages += map(json.loads, queued)
    for message in messages:
        arguments, _, _ = msgpack.unpackb(base64.b64decode(message["body"]))
        for _, _, _, _, text, _ in arguments[4]:
            yield json.loads(text)["number"]
