"""A worker's sign of life ends with the worker, and with nobody else."""

from __future__ import annotations

import os

import psutil

from foreseen.cache import Cache
from foreseen.embedded import EmbeddedServer
from foreseen.keys import KeySpace
from foreseen.settings import Settings
from workers.presence import Presence


def connections_to(port: int) -> int:
    """Return how many connections this process has open to a server."""
    return sum(each.raddr.port == port for each in psutil.Process().net_connections() if each.raddr)


def test_it_stands_while_the_worker_lives_and_a_forked_child_has_no_part_in_it(namespace: str) -> None:
    with EmbeddedServer() as server:
        settings = Settings(cache_url=server.url(1), broker_url=server.url(0), namespace=namespace)
        cache, channel = Cache(settings), KeySpace(namespace).worker("w1")
        presence = Presence(cache, channel)
        presence.start()
        while cache.commands([("PUBSUB", "NUMSUB", channel)])[0][1] != 1:
            pass
        cache.close()  # so that the presence's connection is the only one
        assert connections_to(server.port) == 1
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, str(connections_to(server.port)).encode())
            os._exit(0)
        assert os.read(told, 10) == b"0"
        os.waitpid(child, 0)
        assert Cache(settings).commands([("PUBSUB", "NUMSUB", channel)])[0][1] == 1, "the worker's own stands"
        presence.stop()
