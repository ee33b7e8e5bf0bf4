"""A real cluster on this machine: three masters, each with a replica, of the server that the wheel brings."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import redis
from acceptance.harness import Deployment, wait_until
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.retry import Retry

from foreseen import embedded
from foreseen.embedded import _free_port

__all__ = ["REDIS", "ClusterOfNodes", "Node", "cluster_of_nodes"]

#: Debian 12 has 7.0.
REDIS: Final = Path("/usr/bin/redis-server")
#: How long a node is silent before the others take it for dead, and vote.
_NODE_TIMEOUT_MS: Final = 1000
#: A node that is stopped takes connections, and says nothing.
_REPLY_S: Final = 5.0


class Node:
    """A server, of a cluster unless its settings say otherwise.

    Args:
        binary: of the server.
        directory: for one of its own.
        configure: returns further settings, given its port.
        client: options of redis-py's, of a client of it.
    """

    def __init__(
        self,
        binary: Path | str,
        directory: Path,
        configure: Callable[[int], Mapping[str, object]] = lambda _: {},
        **client: Any,
    ) -> None:
        self.port = _free_port()
        self._directory = directory / f"node-{self.port}"
        self._directory.mkdir()
        config = {
            "bind": "127.0.0.1", "port": self.port, "save": '""', "cluster-enabled": "yes",
            "cluster-port": _free_port(), "cluster-announce-ip": "127.0.0.1", "cluster-node-timeout": _NODE_TIMEOUT_MS,
            "repl-diskless-sync-delay": 0, "cluster-replica-validity-factor": 0, **configure(self.port),
        }  # fmt: skip
        self._config = self._directory / "node.conf"
        self._config.write_text("".join(f"{name} {value}\n" for name, value in config.items()))
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        # Of a node that is down, nothing is asked again and again: that would take seconds.
        self.client: Any = redis.Redis(
            port=self.port, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=_REPLY_S, **client
        )

    def start(self) -> int:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, str(self._config)],
                cwd=self._directory, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self.answers, f"node {self.port} answers")
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.client.close()
        if self._process is not None:
            self.kill()

    def answers(self) -> bool:
        """Whether it runs."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class ClusterOfNodes:
    """Three masters and their replicas.

    Attributes:
        servers: the masters, then the replicas.
    """

    def __init__(self, servers: list[Node], n_masters: int) -> None:
        self.servers = servers
        self.masters = servers[:n_masters]

    @property
    def url(self) -> str:
        """Names two of the nodes; the others are found."""
        return f"cluster://{self.seeds}"

    @property
    def seeds(self) -> str:
        """Two of the nodes, as a URL names them."""
        return f"127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    def holder(self, key: str) -> Node:
        """Return the server that is master of a key now."""
        slot, slots = key_slot(key.encode()), self._any().execute_command("CLUSTER SLOTS")
        ports = [holders[0][1] for first, last, *holders in _rows(slots) if first <= slot <= last]
        return next(server for server in self.servers if server.port == ports[0])

    def alive(self) -> list[Node]:
        """Return the servers that answer."""
        return [server for server in self.servers if server.answers()]

    def lose(self, master: Node) -> None:
        """Kill a master, and its replica first; wait until the others have noticed."""
        self.servers[self.masters.index(master) + len(self.masters)].kill()
        master.kill()

        def is_known_dead(server: Node) -> bool:
            told = server.client.execute_command("CLUSTER NODES")
            return any(node_name.endswith(str(master.port)) and "fail" in str(each["flags"]) and "fail?" not in
                       str(each["flags"]) for node_name, each in told.items())  # fmt: skip

        wait_until(lambda: all(map(is_known_dead, self.alive())), "the others know")

    def move_slot(self, key: str, giver: Node, taker: Node) -> None:
        """Move a key's slot to another master, key by key, as tools do."""
        slot = key_slot(key.encode())
        names = {each: each.client.execute_command("CLUSTER MYID") for each in (giver, taker)}
        taker.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[giver])
        giver.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[taker])
        while keys := giver.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            giver.client.execute_command("MIGRATE", "127.0.0.1", taker.port, keys[0], 0, 1000)
        for server in (taker, giver, *(each for each in self.masters_now() if each not in names)):
            server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[taker])

    def wait_until_replicated(self) -> None:
        """Wait until every replica has what its master has now; more may be written meanwhile."""
        written = {server: server.client.info("replication")["master_repl_offset"] for server in self.masters}

        def has_it(server: Node) -> bool:
            told = server.client.info("replication")
            return bool(told["connected_slaves"]) and told["slave0"]["offset"] >= written[server]

        wait_until(lambda: all(map(has_it, self.masters)), "the replicas have it")

    def masters_now(self, nodes: Sequence[Node] = ()) -> list[Node]:
        """Return who holds slots, as one of these nodes sees it, or of all."""
        ports = {holders[0][1] for _, _, *holders in _rows(self._any(nodes).execute_command("CLUSTER SLOTS"))}
        return [server for server in self.servers if server.port in ports]

    def replicas_of(self, master: Node) -> list[Node]:
        """Return the live nodes that follow a master."""
        told = [(server, server.client.info("replication")) for server in self.alive()]
        return [server for server, each in told if each["role"] == "slave" and each["master_port"] == master.port]

    def is_followed(self, master: Node) -> bool:
        """Whether a replica has all that a master has written, or nearly so."""
        told = master.client.info("replication")
        return any(told[f"slave{n}"]["state"] == "online" for n in range(told["connected_slaves"]))

    def is_well(self, nodes: Sequence[Node] = ()) -> bool:
        """Whether every node that lives sees every slot served; of these nodes, or of all."""
        for server in nodes or self.servers:
            with contextlib.suppress(redis.ConnectionError):
                if server.client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    return False
        return True

    def _any(self, nodes: Sequence[Node] = ()) -> Any:
        for server in nodes or self.servers:
            with contextlib.suppress(redis.ConnectionError):
                server.client.ping()
                return server.client
        raise AssertionError("no node lives")


def _rows(slots: Any) -> list[list[Any]]:
    """Return CLUSTER SLOTS as nodes tell it, from what redis-py makes of it."""
    if isinstance(slots, dict):
        return [[first, last, list(held["primary"])] for (first, last), held in slots.items()]
    return list(slots)


@contextlib.contextmanager
def cluster_of_nodes(
    deployment: Deployment,
    *,
    binary: Callable[[], Path | str] | None = None,
    n_masters: int = 3,
    configure: Callable[[int], Mapping[str, object]] = lambda _: {},
    **client: Any,
) -> Iterator[ClusterOfNodes]:
    """Run a cluster, and have the deployment keep its cache there; `configure` and `client` are those of each node."""
    binary = binary or embedded._server_binary
    with contextlib.ExitStack() as stack:
        servers: list[Node] = []
        for _ in range(2 * n_masters):
            servers.append(Node(binary(), deployment.directory, configure, **client))
            stack.callback(servers[-1].close)
            deployment._tell_keeper(servers[-1].start())
        cluster = ClusterOfNodes(servers, n_masters)
        first = servers[0]
        for server in servers[1:]:
            server.client.execute_command(
                "CLUSTER MEET", "127.0.0.1", first.port, first.client.config_get("cluster-port")["cluster-port"]
            )
        share = REDIS_CLUSTER_HASH_SLOTS / n_masters
        for place, server in enumerate(cluster.masters):
            server.client.execute_command("CLUSTER ADDSLOTSRANGE", round(place * share), round((place + 1) * share) - 1)
        for place, server in enumerate(servers[n_masters:]):
            own = cluster.masters[place].client.execute_command("CLUSTER MYID")
            wait_until(lambda s=server, o=own: _knows(s, o), "the replica knows its master")
            server.client.execute_command("CLUSTER REPLICATE", own)
        wait_until(cluster.is_well, "the cluster is well")
        cluster.wait_until_replicated()
        deployment.use_cache(cluster.url)
        yield cluster


def _knows(server: Node, node_id: str) -> bool:
    return node_id in str(server.client.execute_command("CLUSTER NODES"))
