"""What is sent to a cluster in two steps: what a call leads goes once that call was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest import mock

import pytest

from foreseen.async_cache import AsyncCache
from foreseen.cache import Cache, parted
from foreseen.flights import Call
from foreseen.parcels import Command
from foreseen.scripts import load
from foreseen.settings import Settings


def call(*, leads: bool) -> Call[None]:
    return Call(load("peek"), ("a",), (), lambda _: None, leads)


@pytest.mark.parametrize(
    ("leading", "place"), [("", 0), ("L", 0), ("f", 0), ("fLL", 0), ("LLff", 2), ("fLfL", 2), ("ff", 0)]
)
def test_calls_are_parted_after_those_that_lead(leading: str, place: int) -> None:
    assert parted([call(leads=letter == "L") for letter in leading]) == place


def sends_of(url: str) -> list[int]:
    """Return how many commands are sent at a time for one call that leads another."""
    cache, sends = Cache(Settings(cache_url=url)), list[int]()

    def send(commands: Sequence[Command]) -> list[None]:
        sends.append(len(commands))
        return [None] * len(commands)

    with mock.patch.object(cache, "_send", send):
        assert cache.run([call(leads=True), call(leads=False)]) == [None, None]
    return sends


def test_a_cluster_is_sent_what_leads_alone() -> None:
    assert sends_of("cluster://127.0.0.1:1") == [1, 1]
    assert sends_of("redis://127.0.0.1:1") == [2]


async def sends_on_a_loop(url: str) -> list[int]:
    cache, sends = AsyncCache(Settings(cache_url=url)), list[int]()

    async def send(commands: Sequence[Command]) -> list[None]:
        sends.append(len(commands))
        return [None] * len(commands)

    with mock.patch.object(cache, "_send", send):
        assert await cache.run([call(leads=True), call(leads=False)]) == [None, None]
    return sends


def test_likewise_on_a_loop() -> None:
    assert asyncio.run(sends_on_a_loop("cluster://127.0.0.1:1")) == [1, 1]
    assert asyncio.run(sends_on_a_loop("redis://127.0.0.1:1")) == [2]
