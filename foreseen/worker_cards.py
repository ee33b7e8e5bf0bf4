"""Worker cards: what a worker publishes about itself, for people: `foreseen models`.

A card lives for three heartbeats, like a model's. Nothing of the protocol depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from foreseen.cards import HEARTBEATS
from foreseen.keys import KeySpace
from foreseen.parcels import Command

__all__ = ["ModelLife", "WorkerCard", "forget", "known", "names_in", "parse", "publish", "read"]

#: A list of names, for people; as long as that of models.
_LISTED_MS: Final = 7 * 86_400_000


class ModelLife(BaseModel):
    """Where a model is in its life, in one worker.

    Attributes:
        state: `loading`, `served`, or `failed`.
        error: why it could not be loaded or warmed up.
        load_s: how long that took last.
        processes: how many of the worker's have loaded it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str
    error: str = ""
    load_s: float = 0.0
    processes: int = 0


class WorkerCard(BaseModel):
    """What a worker says of itself.

    Attributes:
        name: a nonce of its run.
        host: its name in Celery and Flower.
        pool: Celery's kind of pool.
        concurrency: of the pool.
        models: by `name@version`.
        takes_over: versions without workers whose queues it works off.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    host: str
    pool: str = ""
    concurrency: int = 0
    models: dict[str, ModelLife] = {}
    takes_over: list[str] = []


def publish(space: KeySpace, card: WorkerCard, heartbeat_s: float) -> list[Command]:
    """Return the commands of one heartbeat."""
    life_ms = round(HEARTBEATS * heartbeat_s * 1000)
    return [
        ("SET", space.worker_card(card.name), card.model_dump_json(), "PX", life_ms),
        ("SADD", space.workers(), card.name),
        ("PEXPIRE", space.workers(), _LISTED_MS),
    ]


def forget(space: KeySpace, names: Sequence[str]) -> list[Command]:
    """Return the commands that forget workers."""
    return [
        command for name in names for command in (("DEL", space.worker_card(name)), ("SREM", space.workers(), name))
    ]


def known(space: KeySpace) -> list[Command]:
    """Return the command that reads the names of workers that lived of late."""
    return [("SMEMBERS", space.workers())]


def names_in(reply: Iterable[bytes]) -> list[str]:
    """Return the names in a reply to `known`; what is none, others have put there."""
    found: list[str] = []
    for member in reply:
        with suppress(UnicodeDecodeError):
            found.append(member.decode())
    return sorted(found)


def read(space: KeySpace, names: Sequence[str]) -> list[Command]:
    """Return a command for each worker that reads its card."""
    return [("GET", space.worker_card(name)) for name in names]


def parse(data: bytes | None) -> WorkerCard | None:
    """Return the card in a reply; None if the worker is gone, or its card is not one that this release can read."""
    if data is None:
        return None
    try:
        return WorkerCard.model_validate_json(data)
    except ValidationError:
        return None
