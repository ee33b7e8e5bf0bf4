"""What a producer knows of models: which version a bare name means, and each version's card."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from foreseen import cards
from foreseen.canonical import CanonicalInput
from foreseen.cards import Card, Schema
from foreseen.client.effects import Pause, Read, Steps
from foreseen.errors import CacheUnavailable, InvalidInput, VersionGone
from foreseen.keys import KeySpace, split_model

if TYPE_CHECKING:
    import jsonschema_rs

__all__ = ["Catalog"]

#: Pause between looks for a card that is not there yet.
_RETRY_S: Final = 0.1
#: Models that are looked for without being needed; versions that nobody serves may be asked for without end.
_MOST_GLANCED: Final = 1000


class _Known:
    """A card, if there is one, and the check of its inputs once it was needed."""

    def __init__(self, card: Card | None) -> None:
        self.card = card
        self.validator: Any = None


class Catalog:
    """Versions and cards as last seen. Safe for threads: every change replaces one dictionary item.

    Args:
        space: where the keys are.
        model_wait_s: how long to wait for a model that is not known.
    """

    def __init__(self, space: KeySpace, model_wait_s: float) -> None:
        self._space = space
        self._model_wait_s = model_wait_s
        self._versions: dict[str, str] = {}
        self._known: dict[str, _Known] = {}

    def version(self, model: str) -> tuple[str, str] | None:
        """Return name and version that `model` (`name` or `name@version`) means, if that is known without asking."""
        version = self._versions.get(model)
        if version is not None:
            return model, version
        name, version = split_model(model)
        return None if version is None else (name, version)

    def knows(self, model_id: str) -> bool:
        """Tell whether the card of `model@version` is known, so that nobody need be asked."""
        known = self._known.get(model_id)
        return known is not None and known.card is not None

    def find_version(self, model: str) -> Steps[tuple[str, str]]:
        """Return name and version that a bare name means; wait for the model if it is not known.

        Raises:
            ModelNotServed: no worker has published it in time.
        """
        name, version = split_model(model)
        deadline = time.monotonic() + self._model_wait_s
        while version is None:
            (current,) = yield Read(cards.resolve(self._space, name))
            version = cards.version_in(current)
            if version is not None:
                self._versions[name] = version
            elif time.monotonic() >= deadline:
                (known,) = yield Read(cards.known_models(self._space))
                raise cards.not_served(model, known, self._model_wait_s)
            else:
                yield Pause(_RETRY_S)
        return name, version

    def card(self, model_id: str, wait_s: float | None = None, *, bare: bool = False) -> Steps[Card]:
        """Return the card of `model@version`; wait for it, if it is not known, as long as for a model unless told.

        Args:
            model_id: `model@version`.
            wait_s: how long to wait.
            bare: the version is what the model's bare name meant when it was asked for.

        Raises:
            ModelNotServed: no worker has published it in time.
            VersionGone: nobody serves it, and the `bare` name means another version by now.
        """
        wait_s = self._model_wait_s if wait_s is None else wait_s
        deadline = time.monotonic() + wait_s
        while True:
            known = self._known.get(model_id)
            if known is not None and known.card is not None:
                return known.card
            gone = yield from self.find_card(model_id)
            if self.knows(model_id):
                continue
            if bare and gone is not None:
                raise gone
            if time.monotonic() >= deadline:
                (names,) = yield Read(cards.known_models(self._space))
                raise cards.not_served(model_id, names, wait_s)
            else:
                yield Pause(_RETRY_S)

    def find_card(self, model_id: str) -> Steps[VersionGone | None]:
        """Read a card that is not known; if there is none and its model's name means another version, say so."""
        name, version = split_model(model_id)
        data, pointer = yield Read([*cards.read(self._space, model_id), *cards.resolve(self._space, name)])
        card = cards.parse(data)
        if card is not None and card.model_id == model_id:
            self._learn(model_id, card)
            return None
        current = cards.version_in(pointer)
        if current is None or current == version:
            return None
        if name in self._versions:
            self._versions[name] = current
        return cards.gone(model_id, current)

    def glance(self, model_id: str) -> Steps[None]:
        """Read the card of `model@version`, once; if there is none yet, `refresh` goes on looking."""
        if model_id not in self._known and len(self._known) < _MOST_GLANCED:
            with suppress(CacheUnavailable):  # nobody waits for it: the next one tries again
                (data,) = yield Read(cards.read(self._space, model_id))
                card = cards.parse(data)
                self._learn(model_id, card if card is not None and card.model_id == model_id else None)

    def is_near(self, model_id: str) -> bool:
        """Tell whether the model's card is known, and allows that its entries are kept near."""
        known = self._known.get(model_id)
        return known is not None and known.card is not None and known.card.policy.get("near", True) is True

    def refresh(self) -> Steps[bool]:
        """Look again at everything known, and at current versions' cards; what has gone missing stays known.

        Returns:
            Whether a card has changed.
        """
        current = dict(self._versions)
        names, model_ids = list(current), list(dict.fromkeys([*self._known, *map("@".join, current.items())]))
        commands = [command for name in names for command in cards.resolve(self._space, name)]
        commands += [command for model_id in model_ids for command in cards.read(self._space, model_id)]
        if not commands:
            return False
        replies = yield Read(commands)
        for name, reply in zip(names, replies[: len(names)], strict=True):
            version = cards.version_in(reply)
            if version is not None:
                self._versions[name] = version
        changed = False
        for model_id, data in zip(model_ids, replies[len(names) :], strict=True):
            card = cards.parse(data)
            if card is not None and card.model_id == model_id:
                changed |= self._learn(model_id, card)
        return changed

    def validate(self, card: Card, canonical: CanonicalInput) -> None:
        """Check an input against the card's schema.

        Raises:
            InvalidInput: it does not fit; the message says where and what would, and does not quote it.
        """
        if card.input_schema is True:
            return
        known = self._known[card.model_id]
        if known.validator is None:
            known.validator = _compile(card.input_schema)
        value = json.loads(str(canonical.text, "utf-8"))
        if not known.validator.is_valid(value):
            error = next(known.validator.iter_errors(value))
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
            message = f"The input does not fit {card.model_id}: ${path}: {error.message}"
            raise InvalidInput(message)

    def _learn(self, model_id: str, card: Card | None) -> bool:
        """Note a card; True if another was known."""
        known = self._known.get(model_id)
        if known is not None and known.card == card:
            return False
        self._known[model_id] = _Known(card)
        return known is not None and known.card is not None


def _compile(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(schema, mask="the value")
