"""Put the application under load: `python load.py [URL]`.

Each of 64 connections asks for the same few files again and again, and now and then for one that nobody has asked for.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

import httpx

CONNECTIONS = 64
REQUESTS = 30  # of each connection
NEW = 0.05  # share of the requests with a file nobody has asked for yet
RUN = os.urandom(8)  # in every file, so that each run begins with none in the cache


def files() -> Iterator[bytes]:
    """Yield the files of one connection."""
    for _ in range(REQUESTS):
        name = os.urandom(8) if random.random() < NEW else bytes([random.randrange(10)])
        yield b"#!/bin/sh\n# " + RUN.hex().encode() + name.hex().encode() + b"\necho hello\n"


async def ask(url: str, statuses: Counter[int]) -> None:
    """Ask for one file after the other, on a connection of its own: one pool for all would be what is measured."""
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as client:  # noqa: S501 - it is plain HTTP
        for file in files():
            statuses[(await client.post("/predict", content=file)).status_code] += 1


async def main(url: str) -> None:
    """Ask on all connections at once, and print what the application measured."""
    statuses: Counter[int] = Counter()
    began = time.perf_counter()
    await asyncio.gather(*(ask(url, statuses) for _ in range(CONNECTIONS)))
    duration_s = time.perf_counter() - began
    async with httpx.AsyncClient(base_url=url) as client:
        measured = (await client.get("/latency")).json()
    print(f"{statuses.total():,} requests in {duration_s:.1f} s, by status: {dict(statuses)}")
    for source, latency in measured.items():
        print(f"{source:9}  {latency['count']:6,}   p50 {latency['p50_ms']:7.2f} ms   p99 {latency['p99_ms']:7.2f} ms")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
