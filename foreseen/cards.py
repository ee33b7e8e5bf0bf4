"""Model cards: what workers publish about a model, and how producers find the version that a bare name means.

A card lives for three heartbeats. Which version of a model is current is an explicit pointer: the first worker sets it
when there is none, and it moves only when somebody promotes another version.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from foreseen.errors import InvalidInput, ModelNotServed, VersionGone
from foreseen.flights import KEEP_MS
from foreseen.keys import KeySpace, check_version, split_model
from foreseen.parcels import Command

__all__ = [
    "PER_CARD",
    "Card",
    "Schema",
    "known_models",
    "model_ids_in",
    "not_served",
    "parse",
    "previous",
    "publish",
    "read",
    "resolve",
    "version_in",
]

#: A card expires after this many heartbeats without one.
HEARTBEATS: Final = 3
#: The list of models that were ever served is for people (near names, `foreseen models`); it forgets after a week.
_LISTED_MS: Final = 7 * 86_400_000


#: A JSON Schema; True accepts everything.
Schema: TypeAlias = dict[str, Any] | bool

#: Commands that `publish` returns for each card.
PER_CARD: Final = 6


# A newer release's card may say more. Nothing is built before the first is read.
class Card(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """What a producer needs to know about a version of a model."""

    name: str
    version: str
    queue: str
    max_batch_size: int = Field(ge=1)
    max_queued: int | None = Field(default=None, ge=1)
    input_schema: Schema = True
    output_schema: Schema = True
    policy: dict[str, Any] = {}

    @property
    def model_id(self) -> str:
        """`model@version`."""
        return f"{self.name}@{self.version}"


def publish(space: KeySpace, cards: Iterable[Card], current: dict[str, str], heartbeat_s: float) -> list[Command]:
    """Return the commands of one heartbeat.

    Args:
        space: where the keys are.
        cards: of the models that this worker serves.
        current: for each model's name the version that its pointer is set to, should it be missing: what the worker
            last saw there, so that a pointer that was evicted comes back as it was.
        heartbeat_s: until the next one.

    Returns:
        `PER_CARD` commands for each card, the last of which reads the pointer: its reply is the current version.
    """
    life_ms = round(HEARTBEATS * heartbeat_s * 1000)
    commands: list[Command] = []
    for card in cards:
        pointer = space.current(card.name)
        commands += [
            ("SET", space.card(card.model_id), card.model_dump_json(), "PX", life_ms),
            ("SADD", space.models(), card.model_id),
            ("PEXPIRE", space.models(), _LISTED_MS),
            ("SET", pointer, current.get(card.name, card.version), "PX", KEEP_MS, "NX"),
            ("PEXPIRE", space.previous(card.name), KEEP_MS),
            ("GET", pointer),
        ]
    return commands


def resolve(space: KeySpace, name: str) -> list[Command]:
    """Return the command that reads which version of `name` is current."""
    return [("GET", space.current(name))]


def previous(space: KeySpace, name: str) -> list[Command]:
    """Return the command that reads which version of `name` was current before."""
    return [("GET", space.previous(name))]


def version_in(reply: bytes | None) -> str | None:
    """Return the version that a pointer's reply names; None if it is missing, or names none."""
    if reply is None:
        return None
    try:
        return check_version(reply.decode())
    except (UnicodeDecodeError, InvalidInput):
        return None


def read(space: KeySpace, model_id: str) -> list[Command]:
    """Return the command that reads a card."""
    return [("GET", space.card(model_id))]


def parse(data: bytes | None) -> Card | None:
    """Return the card in a reply; None if it is missing, or is not one that this release can read."""
    if data is None:
        return None
    try:
        return Card.model_validate_json(data)
    except ValidationError:
        return None


def known_models(space: KeySpace) -> list[Command]:
    """Return the command that reads every `model@version` that was served of late."""
    return [("SMEMBERS", space.models())]


def model_ids_in(known: Iterable[bytes]) -> set[str]:
    """Return the `model@version` in a reply to `known_models`; what is none, others have put there."""
    found: set[str] = set()
    for member in known:
        with suppress(UnicodeDecodeError, InvalidInput):
            model_id = member.decode()
            if split_model(model_id)[1] is not None:
                found.add(model_id)
    return found


def gone(model_id: str, current: str) -> VersionGone:
    """Return what is told of a version that nobody serves, where another has taken its place."""
    name = model_id.partition("@")[0]
    return VersionGone(
        f"{model_id} has no workers left; ask for {name!r}, which means {name}@{current} now, or for another version "
        "that is served.",
        {"current": current},
    )


def not_served(asked: str, known: Iterable[bytes], waited_s: float) -> ModelNotServed:
    """Return the error for a model without a card, with the names that come close."""
    model_ids = model_ids_in(known)
    bare = {each.partition("@")[0] for each in model_ids}
    names = sorted((bare | model_ids if "@" in asked else bare) - {asked})
    import difflib

    close = difflib.get_close_matches(asked, names, n=3, cutoff=0.5)
    if close:
        advice = f"did you mean {' or '.join(repr(name) for name in close)}?"
    elif names:
        advice = f"served of late: {', '.join(name for name in names if '@' not in name)}."
    else:
        advice = "no worker has published a model yet: start one with FORESEEN_MODELS set."
    return ModelNotServed(f"No worker serves {asked!r} (waited {waited_s:g} s); {advice}")
