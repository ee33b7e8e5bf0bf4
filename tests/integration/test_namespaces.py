"""Deployments that share a server: nothing that one keeps is another's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from foreseen.embedded import EmbeddedServer

if TYPE_CHECKING:
    from conftest import Steps


@pytest.fixture
def other(steps: Steps, server: EmbeddedServer) -> Iterator[Steps]:
    """Return the same steps in another namespace of the same database, whose name begins as the first one's."""
    other = type(steps)(server.url(1), f"{steps.space.namespace}2")
    other.key = steps.key
    yield other
    other.close()


def test_an_entry_of_another_namespace_answers_nobody(steps: Steps, other: Steps) -> None:
    entry = steps.compute()
    assert other.entry() is None
    assert other.joined("a").led
    assert steps.entry() == entry


def test_a_purge_leaves_other_namespaces_alone(steps: Steps, other: Steps) -> None:
    entry = steps.compute()
    other.compute()
    other.purge()
    assert other.entry() is None
    assert steps.entry() == entry


def test_an_entry_under_a_name_of_another_namespace_is_of_another_generation(steps: Steps, other: Steps) -> None:
    """Moved there, by whatever tool copies keys: the generations of two deployments are never the same."""
    steps.compute()
    other.compute()
    moved = steps.redis.get(steps.space.entry(steps.key))
    assert isinstance(moved, bytes)
    other.redis.set(other.space.entry(other.key), moved, px=60_000)
    assert other.entry() is None
    assert other.joined("a").led
