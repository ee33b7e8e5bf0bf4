"""What names a server of a cluster; where there is none, nothing else of clusters is loaded."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from redis.exceptions import ConnectionError as DriverConnectionError

__all__ = ["Node", "NodeLost", "shuffled"]


class NodeLost(DriverConnectionError):
    """One node of a cluster did not answer; others may have."""


class Node(NamedTuple):
    """A server of a cluster."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shuffled(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes in an order drawn by chance, so that not all processes ask the same one."""
    order = list(nodes)
    random.shuffle(order)
    return order
