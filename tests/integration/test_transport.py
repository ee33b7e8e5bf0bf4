"""The broker's sockets on a loop: watched from the first turn, watched again when they are new, then let go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
from kombu.asynchronous import Hub

from foreseen.embedded import EmbeddedServer

DEADLINE_S = 20.0


class Loop(Hub):
    """A loop that notes which sockets it was told to watch."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def add(self, fd: Any, *args: Any, **options: Any) -> None:
        self.told.append(fd if isinstance(fd, int) else fd.fileno())
        super().add(fd, *args, **options)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def connection(server: EmbeddedServer) -> Iterator[kombu.Connection]:
    with kombu.Connection(server.url(2), transport="foreseen.transport:Transport") as connection:
        yield connection


@pytest.fixture
def deliver(loop: Loop, connection: kombu.Connection, namespace: str) -> Iterator[Callable[[int], None]]:
    """Return what puts a message into the queue, and has the loop turn until it is there."""
    channel = connection.channel()
    queue = kombu.Queue(namespace, kombu.Exchange(""), routing_key=namespace, channel=channel)
    taken: list[Any] = []

    def take(message: Any) -> None:
        taken.append(message.decode()["n"])
        message.ack()

    def deliver(number: int) -> None:
        kombu.Producer(channel, auto_declare=False).publish({"n": number}, routing_key=namespace, exchange="")
        until = time.monotonic() + DEADLINE_S
        while number not in taken:
            assert time.monotonic() < until, "it was not delivered"
            loop.run_once()

    connection.transport.register_with_event_loop(connection.connection, loop)
    with kombu.Consumer(channel, [queue], on_message=take, auto_declare=False):
        yield deliver


def test_a_loop_is_told_once_which_socket_to_watch(loop: Loop, deliver: Callable[[int], None]) -> None:
    for number in range(10):
        deliver(number)
    assert len(loop.told) == 1


def test_a_socket_that_takes_the_place_of_another_is_watched(
    loop: Loop, connection: kombu.Connection, deliver: Callable[[int], None]
) -> None:
    deliver(0)
    for number in range(1, 4):
        (channel,) = connection.transport.channels
        channel.client.connection.disconnect()  # as kombu does where an answer is overdue
        deliver(number)
    assert len(loop.told) == 4


def test_one_that_the_loop_was_told_to_let_go_of_is_watched_again(loop: Loop, deliver: Callable[[int], None]) -> None:
    deliver(0)
    loop.remove(loop.told[0])  # as it does itself after an error
    deliver(1)
    assert loop.told == [loop.told[0]] * 2


@pytest.mark.parametrize("end", [kombu.Connection.release, kombu.Connection.collect])  # the latter once it is lost
def test_a_loop_keeps_nothing_of_a_connection_that_was_closed(
    loop: Loop, server: EmbeddedServer, end: Callable[[kombu.Connection], None]
) -> None:
    for _ in range(3):
        connection = kombu.Connection(server.url(2), transport="foreseen.transport:Transport")
        connection.transport.register_with_event_loop(connection.connection, loop)
        assert len(loop.on_tick) == 1
        end(connection)
    assert not loop.on_tick
