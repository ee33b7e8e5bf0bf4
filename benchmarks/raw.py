"""The least that a round trip can cost from Python: a blocking socket, and the protocol written by hand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from foreseen.embedded import EmbeddedServer

__all__ = ["RawConnection", "Tap", "command", "tapped"]

_CHUNK_BYTES = 65536


def command(*words: str) -> bytes:
    """Return a command as it travels."""
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


class RawConnection:
    """A connection to one database of a server.

    Args:
        server: the server.
        database: its number.
    """

    def __init__(self, server: EmbeddedServer, database: int) -> None:
        self._socket = socket.create_connection((server.host, server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(command("SELECT", str(database)))
        assert self._socket.recv(_CHUNK_BYTES) == b"+OK\r\n"

    def ask(self, request: bytes) -> bytes:
        """Send a request and return its reply, one text of less than 64 KiB."""
        self._socket.sendall(request)
        reply = self._socket.recv(_CHUNK_BYTES)
        length, _, body = reply.partition(b"\r\n")
        while len(body) < int(length[1:]) + 2:
            body += self._socket.recv(_CHUNK_BYTES)
        return body[:-2]

    def exchange(self, requests: bytes, reply_bytes: int) -> bytes:
        """Send requests at once and return their replies as they travel, of which the length is known."""
        self._socket.sendall(requests)
        replies = bytearray()
        while len(replies) < reply_bytes:
            replies += self._socket.recv(_CHUNK_BYTES)
        return bytes(replies)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Tap:
    """Passes on what goes to a server, and remembers it.

    Attributes:
        port: where it listens, on the loopback interface.
        requests: what was sent through it, as it was received.
        replies: likewise what came back.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self._there = (server.host, server.port)
        self._listener = socket.create_server((server.host, 0))
        self._open: list[socket.socket] = [self._listener]
        self.port = int(self._listener.getsockname()[1])
        self.requests: list[bytes] = []
        self.replies: list[bytes] = []
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._there)
                self._open += [near, far]
                threading.Thread(target=self._pass, args=(near, far, self.requests), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, self.replies), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, seen: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                seen.append(chunk)
                sink.sendall(chunk)


@contextmanager
def tapped(server: EmbeddedServer) -> Generator[Tap]:
    """Listen in front of a server."""
    tap = Tap(server)
    try:
        yield tap
    finally:
        tap.close()
