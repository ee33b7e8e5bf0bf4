"""A cluster, and servers under Sentinel, that want TLS and logins: all goes on as with one plain server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from acceptance.cache_troubles import SERVICE, Face, OnALoop, answered_again, faces, sentinels
from acceptance.certificates import make_certificates, options, server_options
from acceptance.clusters import REDIS, ClusterOfNodes, Node, cluster_of_nodes
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.test_least_rights import PASSWORD, users

from foreseen.cache import Cache
from foreseen.canonical import canonicalize
from foreseen.keys import KeySpace, key_of
from producer import CacheUnavailable

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not REDIS.exists(), reason="Redis is not installed (Debian: redis-server)"),
]

#: Of whoever runs the servers, and of the servers among each other.
ADMIN: Final = "an-admin-s-password"
#: Redis 7.0 does not know it, nor starts with it.
NOT_OF_7_0: Final = "+client|setinfo"
#: What a cluster's clients ask beside the rights of docs/security.md.
OF_CLUSTERS: Final = "+cluster|slots +asking"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def guarded(certificates: Path, *, more: str = "") -> Callable[[int], dict[str, object]]:
    """Return the settings of servers that want TLS and the logins of the documentation, with `more` rights."""

    def configure(port: int) -> dict[str, object]:
        logins = {
            f"user {name}": " ".join([*(right for right in rights if right != NOT_OF_7_0), more])
            for name, *rights in users("cache")
        }
        own = {
            **server_options(certificates, port), "tls-replication": "yes", "tls-cluster": "yes",
            "user default": f"on >{ADMIN} ~* &* +@all", "masterauth": ADMIN,
        }  # fmt: skip
        return own | logins

    return configure


def as_admin(certificates: Path) -> dict[str, Any]:
    """Return what a client of such a server is made with."""
    files = {"ca_certs": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
    return {
        "host": "127.0.0.1",
        "ssl": True,
        "password": ADMIN,
        **{f"ssl_{name}": certificates / file for name, file in files.items()},
    }


def as_user(deployment: Deployment, user: str, url: str) -> None:
    """Have processes and producers that are made from now on come as a user."""
    deployment.use_cache(url.replace("USER", f"{user}:{PASSWORD}"))


def entry(value: Any) -> str:
    """Return the name of the entry of a value."""
    return KeySpace().entry(key_of("slow", "1", canonicalize({"value": value})))


def is_master(node: Node) -> bool:
    """Tell whether it says so; whoever makes it one closes its connections."""
    try:
        return bool(node.client.info("replication")["role"] == "master")
    except redis.ConnectionError:
        return False


@contextlib.contextmanager
def cluster_behind_tls(deployment: Deployment, certificates: Path) -> Iterator[tuple[ClusterOfNodes, str]]:
    """Run one; yields it, and its URL."""
    with cluster_of_nodes(
        deployment, binary=lambda: REDIS, configure=guarded(certificates, more=OF_CLUSTERS), **as_admin(certificates)
    ) as cluster:
        yield cluster, f"clusters://USER@{cluster.seeds}?{options(certificates)}"


def test_a_cluster_behind_tls_and_logins(deploy: Callable[..., Deployment], certificates: Path) -> None:
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    with cluster_behind_tls(deployment, certificates) as (cluster, url):
        as_user(deployment, "worker", url)
        deployment.start_worker("prefork", 2)
        as_user(deployment, "producer", url)
        near = {"near_cache_bytes": 10**6}
        threads = deployment.producer(**near)
        with faces(deployment) as both, OnALoop(deployment, **near) as loop:
            for face in both:
                assert face.predict("slow", {"value": "known"}, timeout=DEADLINE_S)["value"] == "known"
            inputs = [{"value": n} for n in range(100)]
            pendings = threads.submit_many("slow", inputs, tags=["all"])
            assert [pending.result(DEADLINE_S)["value"] for pending in pendings] == [*range(100)]
            assert {cluster.holder(entry(n)).port for n in range(100)} == {node.port for node in cluster.masters}
            assert threads.invalidate_tag("all") == 100
            wait_until(lambda: threads.near_cache().is_on and loop.call(loop.producer.near_cache()).is_on, "it is on")
        cluster.wait_until_replicated()
        lost = cluster.holder(entry("known"))
        lost.kill()
        wait_until(lambda: cluster.is_well() and lost not in cluster.masters_now(), "its replica is master")
        face = Face("threads", threads.predict, threads.outages)
        assert answered_again(face, {"value": "known"}) == "known"
        assert answered_again(face, {"value": "new"}) == "new"
        wait_until(lambda: threads.near_cache().is_on, "and again")
        assert len(deployment.computations("known")) == 1
        as_user(deployment, "worker", url)
        told = json.loads(_run_cli(deployment, "doctor", "--json").stdout)
        wrong = {"unavailable-server", "replica", "refused-commands"}
        assert not [each for each in told["findings"] if each["check"] in wrong]


def test_a_node_that_cannot_be_verified_or_refuses_the_login(
    deploy: Callable[..., Deployment], certificates: Path
) -> None:
    deployment = deploy()
    with cluster_behind_tls(deployment, certificates) as (cluster, url):
        wrong = {
            f"clusters://producer:{PASSWORD}@{cluster.seeds}": "certificate verify failed",
            url.replace("USER", "producer:wrong"): "refuses the login",
            f"cluster://producer:{PASSWORD}@{cluster.seeds}": "does not answer",
        }
        for each, said in wrong.items():
            settings = deployment.settings.model_copy(update={"cache_url": each})
            with contextlib.closing(Cache(settings)) as cache, pytest.raises(CacheUnavailable, match=said) as refused:
                cache.commands([("PING",)])
            assert PASSWORD not in str(refused.value)


def test_sentinels_behind_tls_and_logins(deploy: Callable[..., Deployment], certificates: Path) -> None:
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    admin = as_admin(certificates)
    with contextlib.ExitStack() as stack:

        def server(**more: object) -> Node:
            alone = {"cluster-enabled": "no", **more}
            node = Node(
                REDIS, deployment.directory, lambda port: guarded(certificates)(port) | alone, **admin
            )  # fmt: skip
            stack.callback(node.close)
            deployment._tell_keeper(node.start())
            return node

        def lines(port: int) -> str:
            own = {**server_options(certificates, port), "tls-replication": "yes", "requirepass": PASSWORD}
            logins = {f"sentinel auth-pass {SERVICE}": ADMIN, "sentinel sentinel-pass": PASSWORD}
            return "".join(f"{name} {value}\n" for name, value in (own | logins).items())

        master = server()
        replica = server(replicaof=f"127.0.0.1 {master.port}")
        asking = admin | {"password": PASSWORD}
        ports = stack.enter_context(sentinels(deployment, master, 1, count=3, binary=REDIS, configure=lines, **asking))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"sentinels://USER@{hosts}/{SERVICE}/0?sentinel_password={PASSWORD}&{options(certificates)}"
        as_user(deployment, "worker", url)
        deployment.start_worker("prefork", 2)
        as_user(deployment, "producer", url)
        with faces(deployment, near_cache_bytes=10**6) as both:
            for face in both:
                assert face.predict("slow", {"value": "known"}, timeout=DEADLINE_S)["value"] == "known"
            written = master.client.info("replication")["master_repl_offset"]
            wait_until(lambda: replica.client.info("replication")["slave_repl_offset"] >= written, "the replica has it")
            master.kill()
            wait_until(lambda: is_master(replica), "the replica is master")
            for face in both:
                assert answered_again(face, {"value": "known"}) == "known"
                assert answered_again(face, {"value": f"new of {face}"}) == f"new of {face}"
        assert len(deployment.computations("known")) == 1
        unverified = deployment.settings.model_copy(
            update={"cache_url": f"sentinels://producer:{PASSWORD}@{hosts}/{SERVICE}/0?sentinel_password={PASSWORD}"}
        )
        with contextlib.closing(Cache(unverified)) as cache, pytest.raises(CacheUnavailable, match="none names a live"):
            cache.commands([("PING",)])


def _run_cli(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foreseen.cli", *arguments],
        cwd=deployment.directory, env=deployment.environment, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
