"""Broker and cache behind TLS: one way to say it for both, and nothing goes out in the clear."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from acceptance.certificates import make_certificates, options, server_options
from acceptance.harness import Deployment, wait_until

from foreseen.broker import Publisher
from foreseen.canonical import canonicalize
from foreseen.errors import BrokerUnavailable, CacheUnavailable
from foreseen.keys import key_of
from foreseen.message import Item, Message
from foreseen.settings import Settings
from producer import Producer, Source

pytestmark = pytest.mark.acceptance

_SERVER: Final = shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_port(certificates: Path, tmp_path: Path) -> Iterator[int]:
    """A server that takes only encrypted connections, of clients that show a certificate."""
    if _SERVER is None:
        pytest.skip("needs redis-server or valkey-server: the embedded server is built without TLS")
    port = free_port()
    log = tmp_path / "tls-server.log"
    own = {"bind": "127.0.0.1", "save": "", "dir": str(tmp_path), **server_options(certificates, port)}
    command = [_SERVER, *(word for name, value in own.items() for word in (f"--{name}", value))]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            wait_until(lambda: server.poll() is not None or "eady to accept" in log.read_text(), "the server is ready")
            if server.poll() is not None:
                pytest.skip(f"{_SERVER} is built without TLS")
            yield port
        finally:
            server.kill()


def message() -> Message:
    canonical = canonicalize(1)
    return Message("slow@1", (Item(key_of("slow", "1", canonical), "0" * 16, 1, 0, canonical),), 1, 4)


def test_everything_works_encrypted(deploy: Callable[..., Deployment], certificates: Path, tls_port: int) -> None:
    deployment = deploy(lease_s=2.0)
    url = f"rediss://127.0.0.1:{tls_port}"
    deployment._settings = deployment.settings.model_copy(
        update={"broker_url": f"{url}/0?{options(certificates)}", "cache_url": f"{url}/1?{options(certificates)}"}
    )
    worker = deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    assert producer.predict("slow", {"value": 1}, timeout=20)["value"] == 1
    assert producer.submit("slow", {"value": 1}).source is Source.HIT
    outcomes = list(producer.map("slow", ({"value": step} for step in range(50))))
    assert [each["value"] for each in outcomes] == list(range(50))
    worker.terminate()
    assert worker.wait() == 0


def test_who_cannot_be_verified_is_not_talked_to(certificates: Path, tls_port: int) -> None:
    """With no option the system's own authorities are asked, and none of them knows this server."""
    for query in ("", f"?ssl_ca_certs={certificates / 'ca.pem'}"):  # and with that alone the server wants a certificate
        url = f"rediss://user:secret@127.0.0.1:{tls_port}/0{query}"
        settings = Settings(broker_url=url, cache_url=url, connect_timeout_s=5)
        with pytest.raises(BrokerUnavailable) as refused:
            Publisher(settings).publish([message()])
        assert "secret" not in str(refused.value)
        with pytest.raises(CacheUnavailable), Producer(settings) as producer:
            producer.predict("slow", {"value": 1}, timeout=5)


def test_no_password_is_sent_in_the_clear() -> None:
    """Whoever listens where the broker should be hears the beginning of a TLS connection, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        url = f"rediss://user:secret@127.0.0.1:{listener.getsockname()[1]}/0"
        publisher = Publisher(Settings(broker_url=url, connect_timeout_s=1, reply_timeout_s=1))
        heard = bytearray()

        def hear() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                heard.extend(connection.recv(4096))

        thread = threading.Thread(target=hear)
        thread.start()
        with pytest.raises(BrokerUnavailable):
            publisher.publish([message()])
        thread.join(30)
    assert heard[:1] == b"\x16", "a handshake record"
    assert b"secret" not in heard
