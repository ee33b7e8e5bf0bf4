"""What threads publish at the same moment, on a real broker and on one that is silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import redis

from foreseen.canonical import canonicalize
from foreseen.client.effects import Send
from foreseen.client.sync import SyncClient
from foreseen.embedded import EmbeddedServer
from foreseen.errors import BrokerUnavailable
from foreseen.keys import key_of
from foreseen.message import Item
from foreseen.settings import Settings

N_THREADS = 20
WAIT_S = 20.0


class Silent:
    """A broker that takes connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0"
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                self.taken.append(self._socket.accept()[0])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for each in self.taken:
            each.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    silent = Silent()
    yield silent
    silent.close()


def send(token: str) -> Send:
    canonical = canonicalize(token)
    item = Item(key_of("model", "1", canonical), token, 1, 0, canonical)
    return Send("model@1", [(item, 4)], 1, 64, None, lambda _: None)


def wait_for(client: SyncClient, n: int) -> None:
    waited = threading.Event()
    while len(client._sends._waiting) < n:
        waited.wait(0.002)


def test_they_share_a_message(namespace: str) -> None:
    with EmbeddedServer() as server:
        client = SyncClient(Settings(broker_url=server.url(0), cache_url=server.url(1), namespace=namespace))
        (line,) = client._sends.idle()  # as if a publish was in the air
        with ThreadPoolExecutor(N_THREADS) as threads:
            asked = [threads.submit(client._do, send(f"{n:016x}")) for n in range(N_THREADS)]
            wait_for(client, N_THREADS)
            client._sends.give_back(line)
            assert [each.result(WAIT_S) for each in asked] == [frozenset()] * N_THREADS
        with redis.Redis.from_url(server.url(0)) as broker:
            assert [broker.llen(name) for name in broker.scan_iter(f"{namespace}.model@1*")] == [1]
        client.close()


def test_who_waits_behind_one_who_finds_the_broker_silent_does_not_find_out_again(
    silent: Silent, namespace: str
) -> None:
    settings = Settings(
        broker_url=silent.url, cache_url=silent.url, namespace=namespace, connect_timeout_s=0.3, reply_timeout_s=0.3
    )
    alone, many = SyncClient(settings), SyncClient(settings)
    with pytest.raises(BrokerUnavailable):
        alone._do(send("0" * 16))
    one_try = len(silent.taken)
    with ThreadPoolExecutor(N_THREADS) as threads:
        (line,) = many._sends.idle()
        asked = [threads.submit(many._do, send(f"{n:016x}")) for n in range(N_THREADS)]
        wait_for(many, N_THREADS)
        many._sends._most = 1  # one of them goes, and the others wait behind it
        many._sends.give_back(line)
        errors = [each.exception(WAIT_S) for each in asked]
    assert {type(error) for error in errors} == {BrokerUnavailable}
    assert len({id(error) for error in errors}) == N_THREADS
    assert len(silent.taken) == 2 * one_try
