"""What a worker has taken and not acked is in the broker, though nobody waited for it to be noted there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
import redis

from foreseen.embedded import EmbeddedServer
from foreseen.unacked import SentAhead

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def broker(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url(2)) as client:
        yield client


@pytest.fixture
def black_hole() -> Iterator[Any]:
    """A server that takes what it is sent, and hangs up without a word."""
    listening = socket.create_server(("127.0.0.1", 0))

    def swallow() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            with peer:
                peer.recv(65536)

    thread = threading.Thread(target=swallow, daemon=True)
    thread.start()
    yield redis.Connection(port=listening.getsockname()[1], driver_info=None, protocol=2)
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)


@pytest.fixture
def connect(broker: redis.Redis) -> Callable[[], Any]:
    return broker.connection_pool.make_connection


class TestSentAhead:
    def test_arrives_in_order(self, broker: redis.Redis, connect: Callable[[], Any], namespace: str) -> None:
        ahead = SentAhead(connect)
        for number in range(1000):
            ahead.send(("SET", f"{namespace}:last", number), ("RPUSH", f"{namespace}:all", number))
        ahead.confirm()
        assert broker.get(f"{namespace}:last") == b"999"
        assert broker.lrange(f"{namespace}:all", 0, -1) == [b"%d" % number for number in range(1000)]
        ahead.hang_up()

    def test_what_a_broken_connection_swallowed_is_sent_again(
        self, broker: redis.Redis, connect: Callable[[], Any], black_hole: Any, namespace: str
    ) -> None:
        connections = iter([black_hole])
        ahead = SentAhead(lambda: next(connections, None) or connect())
        ahead.send(("HSET", namespace, "first", 1))
        ahead.confirm()
        assert broker.hgetall(namespace) == {b"first": b"1"}
        ahead.hang_up()

    def test_a_connection_that_the_server_closed_is_replaced(
        self, broker: redis.Redis, connect: Callable[[], Any], namespace: str, eventually: Eventually
    ) -> None:
        ahead = SentAhead(connect)
        ahead.send(("CLIENT", "SETNAME", namespace), ("HSET", namespace, "first", 1))
        ahead.confirm()
        (mine,) = (client for client in broker.client_list() if client["name"] == namespace)
        broker.client_kill_filter(_id=mine["id"])
        ahead.send(("HSET", namespace, "second", 2))
        eventually(lambda: broker.hgetall(namespace) == {b"first": b"1", b"second": b"2"})
        ahead.hang_up()

    def test_nothing_is_raised_while_there_is_no_server(
        self, broker: redis.Redis, connect: Callable[[], Any], namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        connections = iter([redis.Connection(port=port, driver_info=None, protocol=2)])
        ahead = SentAhead(lambda: next(connections, None) or connect())
        ahead.send(("HSET", namespace, "first", 1))
        assert "told later" in caplog.text
        ahead.send(("HSET", namespace, "second", 2))
        ahead.confirm()
        assert broker.hgetall(namespace) == {b"first": b"1", b"second": b"2"}
        ahead.hang_up()

    def test_what_is_refused_is_logged_and_holds_up_nothing(
        self, broker: redis.Redis, connect: Callable[[], Any], namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ahead = SentAhead(connect)
        ahead.send(("HSET", namespace), ("HSET", namespace, "second", 2))
        ahead.confirm()
        ahead.send(("HSET", namespace, "third", 3))
        ahead.confirm()
        assert broker.hgetall(namespace) == {b"second": b"2", b"third": b"3"}
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        ahead.hang_up()


class TestDelivery:
    @pytest.fixture
    def channel(self, server: EmbeddedServer) -> Iterator[Any]:
        with kombu.Connection(server.url(2), transport="foreseen.transport:Transport") as connection:
            yield connection.channel()

    @pytest.fixture
    def deliver(self, channel: Any, namespace: str) -> Callable[[], Any]:
        """Put a message into the queue and take it out."""
        queue = kombu.Queue(namespace, kombu.Exchange(""), routing_key=namespace, channel=channel)
        taken: list[Any] = []

        def deliver() -> Any:
            kombu.Producer(channel, auto_declare=False).publish({"n": 1}, routing_key=namespace, exchange="")
            with kombu.Consumer(channel, [queue], on_message=taken.append, auto_declare=False):
                channel.connection.client.drain_events(timeout=10)
            return taken.pop()

        return deliver

    @pytest.fixture
    def noted(self, broker: redis.Redis, channel: Any) -> Callable[[Any], bool]:
        def noted(message: Any) -> bool:
            tag = message.delivery_tag
            both = {
                broker.hexists(channel.unacked_key, tag),
                broker.zscore(channel.unacked_index_key, tag) is not None,
            }
            return all(both)

        return noted

    def test_what_is_taken_is_noted_until_it_is_acked(
        self, deliver: Callable[[], Any], noted: Callable[[Any], bool], eventually: Eventually
    ) -> None:
        message = deliver()
        eventually(lambda: noted(message))
        message.ack()
        eventually(lambda: not noted(message))

    def test_what_is_dropped_is_not_noted(
        self, deliver: Callable[[], Any], noted: Callable[[Any], bool], channel: Any
    ) -> None:
        message = deliver()
        message.reject()
        channel.qos._ahead.confirm()
        assert not noted(message)

    def test_what_is_put_back_is_in_its_queue_though_its_note_was_lost_on_the_way(
        self, deliver: Callable[[], Any], channel: Any, broker: redis.Redis, namespace: str, black_hole: Any
    ) -> None:
        channel.qos._ahead._connection = black_hole
        message = deliver()
        message.requeue()
        assert broker.llen(namespace) == 1

    def test_a_closing_channel_puts_back_what_is_unacked(
        self, deliver: Callable[[], Any], channel: Any, broker: redis.Redis, namespace: str
    ) -> None:
        deliver()
        channel.close()
        assert broker.llen(namespace) == 1

    def test_the_process_killed_at_once_leaves_its_note(
        self, deliver: Callable[[], Any], noted: Callable[[Any], bool], eventually: Eventually
    ) -> None:
        """The writer is gone by the next instruction, and has not waited for anything."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                message = deliver()
                os.write(writing, message.delivery_tag.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        os.close(writing)
        os.waitpid(child, 0)

        class Taken:
            delivery_tag = os.read(reading, 100).decode()

        os.close(reading)
        eventually(lambda: noted(Taken))

    @pytest.fixture
    def shift_clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        """Set this process's wall clock wrong, as far as kombu's transport and ours ask it."""
        true = time.time

        def shift(seconds: float) -> None:
            def wrong() -> float:
                return true() + seconds

            monkeypatch.setattr("kombu.transport.redis.time", wrong)
            monkeypatch.setattr("foreseen.unacked.time", SimpleNamespace(time=wrong))

        return shift

    @pytest.mark.parametrize("seconds", [90, -90])
    def test_it_is_noted_by_the_broker_s_clock_whatever_the_worker_s_says(
        self,
        shift_clock: Callable[[float], None],
        deliver: Callable[[], Any],
        channel: Any,
        broker: redis.Redis,
        seconds: float,
    ) -> None:
        shift_clock(seconds)
        message = deliver()
        channel.qos._ahead.confirm()
        noted_at: Any = broker.zscore(channel.unacked_index_key, message.delivery_tag)
        now: Any = broker.time()
        assert abs(now[0] - noted_at) < 60
        message.ack()

    @pytest.mark.parametrize("seconds", [0, 90, -90])
    @pytest.mark.parametrize(("taken_s_ago", "is_restored"), [(0, False), (90, True)])
    def test_it_is_delivered_again_by_the_broker_s_clock_whatever_the_worker_s_says(
        self,
        shift_clock: Callable[[float], None],
        deliver: Callable[[], Any],
        channel: Any,
        broker: redis.Redis,
        namespace: str,
        seconds: float,
        taken_s_ago: float,
        is_restored: bool,
    ) -> None:
        channel.visibility_timeout, channel.connection.restores = 60, True  # as a worker does
        message = deliver()
        channel.qos._ahead.confirm()
        now: Any = broker.time()
        broker.zadd(channel.unacked_index_key, {message.delivery_tag: now[0] - taken_s_ago})
        shift_clock(seconds)
        channel.qos.restore_visible(interval=1)
        assert broker.llen(namespace) == int(is_restored)
