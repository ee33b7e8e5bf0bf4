"""Nothing of ours is compressed: kombu inflates what says that it is before anybody could look at it."""

from __future__ import annotations

from kombu import compression

from foreseen.errors import MalformedMessage

__all__ = ["refuse_compression"]


def refuse_compression() -> None:
    """Have kombu refuse compressed messages in this process, for good; for processes that are foreseen's alone."""
    for name in compression.encoders():
        encoder, _ = compression.get_encoder(name)
        compression.register(encoder, _refuse, name)


def _refuse(_: bytes) -> bytes:
    raise MalformedMessage("it is compressed; nothing of ours is")
