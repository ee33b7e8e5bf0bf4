"""kombu's Redis transport as foreseen uses it: a channel keeps its client, as long as it keeps its pool."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import kombu
from kombu.transport.redis import Channel as KombuChannel

from foreseen.transport import Channel


class Pool:
    """Stands for a connection pool; only which one it is counts."""


def channel(pool: Pool) -> Any:
    one = Channel.__new__(Channel)
    one._pool = pool
    one._closed = True  # so that its finalizer does nothing
    return one


def test_a_client_is_built_once_for_each_pool() -> None:
    first, second = Pool(), Pool()
    one = channel(first)
    built: list[Any] = []

    class Client:
        def __init__(self, pool: Pool) -> None:
            self.connection_pool = pool
            built.append(self)

    with patch.object(KombuChannel, "_create_client", lambda self, _asynchronous=False: Client(self.pool)):
        assert one._create_client() is one._create_client()
        one._pool = second
        assert one._create_client() is one._create_client()
    assert [client.connection_pool for client in built] == [first, second]


def test_it_is_found_by_the_name_that_settings_give() -> None:
    connection = kombu.Connection("redis://127.0.0.1:1/0", transport="foreseen.transport:Transport")
    assert issubclass(connection.get_transport_cls().Channel, Channel)
