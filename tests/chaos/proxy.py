"""A TCP proxy before a server: what passes can be held up, or swallowed while both ends believe the connection alive.

It runs on a thread of its own, so that whoever injects faults can block.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Self

__all__ = ["Proxy"]

_HOST: Final = "127.0.0.1"
_READ_BYTES: Final = 2**16


class _Link:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_swallowed = False
        self.was_reset = asyncio.Event()

    def reset(self) -> None:
        """End both connections without a goodbye, as a machine does that knows nothing of them."""
        self.was_reset.set()
        for writer in self._writers:
            _reset(writer)

    def close(self) -> None:
        """End both connections once everything written has left."""
        for writer in self._writers:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():  # else its socket may be gone
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class Proxy:
    """Listens on a port of its own and passes on what comes, both ways; use it in a `with`.

    Args:
        server_port: on this machine.
        seed: draws the delays.
    """

    def __init__(self, server_port: int, seed: int) -> None:
        self._server_port = server_port
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._delay_s = (0.0, 0.0)
        self._delays_until = self._swallows_new_until = 0.0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, low_s: float, high_s: float, for_s: float) -> None:
        """Hold up whatever passes, either way, for a time between the two; in order, as TCP would."""
        self._delay_s, self._delays_until = (low_s, high_s), time.monotonic() + for_s

    def swallow(self, for_s: float, *, also_new: bool) -> None:
        """Make the open connections half-open: both ends may write, nothing arrives, nobody is told; then reset them.

        Args:
            for_s: until they are reset.
            also_new: those opened meanwhile too, as if the machine were gone; otherwise they work, as after a router
                between has forgotten the old ones.
        """
        self._loop.call_soon_threadsafe(self._swallow, for_s, also_new)

    # --- on the loop's thread -----------------------------------------------------------------------------------------

    def _do(self, steps: Any) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(steps, self._loop)
        done.result()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def _swallow(self, for_s: float, also_new: bool) -> None:
        for link in self._links:
            self._swallow_one(link, for_s)
        if also_new:
            self._swallows_new_until = time.monotonic() + for_s

    def _swallow_one(self, link: _Link, for_s: float) -> None:
        link.is_swallowed = True
        self._loop.call_later(for_s, link.reset)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with suppress(asyncio.CancelledError):  # the proxy closes
                await self._serve(reader, writer)
        finally:
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(_HOST, self._server_port)
        except OSError:  # the server is away
            _reset(writer)
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        if (left_s := self._swallows_new_until - time.monotonic()) > 0:
            self._swallow_one(link, left_s)
        pumps = [
            asyncio.create_task(self._pump(link, reader, server_writer)),
            asyncio.create_task(self._pump(link, server_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.is_swallowed:  # one end has closed; the other does not hear of it before the reset
                await link.was_reset.wait()
        finally:
            link.close()
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
        await asyncio.wait(pumps)

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while passing := await reader.read(_READ_BYTES):
                if self._delays_until > time.monotonic():
                    await asyncio.sleep(self._chance.uniform(*self._delay_s))
                if not link.is_swallowed:
                    writer.write(passing)
                    await writer.drain()
