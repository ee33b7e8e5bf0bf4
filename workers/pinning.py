"""Which versions an ensemble's members have, found out when a worker starts: they are part of the ensemble's own.

A member that is named without a version is the one that the same worker serves, so that what is deployed together
belongs together; else the current one. Should another become current later, the ensemble goes on with what it was
pinned to, and its answers say so; a worker that starts then serves another version of the ensemble.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

from foreseen import cards
from foreseen.cache import Cache
from foreseen.cards import Card
from foreseen.errors import CacheUnavailable, Misconfigured
from foreseen.flights import Flights
from foreseen.keys import split_model
from foreseen.settings import Settings
from workers.ensemble import Ensemble, Pinned
from workers.registry import Found, ModelClass

__all__ = ["MEMBERS", "Asking", "followed", "pin", "pinned"]

#: In a card's policy: the `name@version` of an ensemble's members.
MEMBERS: Final = "members"
#: Between two looks for a member that is not there yet.
_RETRY_S: Final = 0.2

#: Tells the current version of a name, or the card of `name@version`; None: there is none.
Asking: TypeAlias = "tuple[Callable[[str], str | None], Callable[[str], Card | None]]"


def pin(found: Found, settings: Settings) -> Found:
    """Return what was found with ensembles pinned to their members; one that cannot be is an error, not a model.

    Members of other workers are waited for, as long as producers wait for a model.
    """
    if not any(issubclass(model, Ensemble) for model in found.models.values()):
        return found
    space = Flights(settings).space
    cache = Cache(settings)

    def patiently(ask: Callable[[], Any]) -> Any:
        until = time.monotonic() + settings.model_wait_s
        while True:
            try:
                if (told := ask()) is not None or time.monotonic() >= until:
                    return told
            except CacheUnavailable:
                if time.monotonic() >= until:
                    raise Misconfigured("the cache does not say which versions are current") from None
            time.sleep(_RETRY_S)

    def current(name: str) -> str | None:
        return cards.version_in(cache.commands(cards.resolve(space, name))[0])

    def card(model_id: str) -> Card | None:
        told: Card | None = patiently(lambda: cards.parse(cache.commands(cards.read(space, model_id))[0]))
        return told

    try:
        return pinned(found, (lambda name: patiently(lambda: current(name)), card))
    finally:
        cache.close()


def pinned(found: Found, asking: Asking = (lambda _: None, lambda _: None)) -> Found:
    """Return what was found with ensembles pinned; see `pin`. Unless told otherwise, to what was found itself."""
    pinning = _Pinning(found.models, asking)
    models: dict[str, ModelClass] = {}
    errors = dict(found.errors)
    for model in found.models.values():
        try:
            done = pinning.of(model, ())
            models[done.model_id()] = done
        except Misconfigured as error:
            errors[f"{model.__module__}:{model.__qualname__}"] = f"{model.name} is not served: {error}"
    return Found(models, errors)


def followed(models: Collection[ModelClass]) -> dict[str, str]:
    """Return the versions that members of other workers have here which are named without one."""
    served = {model.name for model in models}
    return {
        name: pinned.version
        for model in models
        if issubclass(model, Ensemble)
        for name, pinned in model.pinned.items()
        if "@" not in name and name not in served
    }


class _Pinning:
    def __init__(self, models: Mapping[str, ModelClass], asking: Asking) -> None:
        self._by_name: dict[str, list[ModelClass]] = {}
        for model in models.values():
            self._by_name.setdefault(model.name, []).append(model)
        self._current, self._card = asking
        self._done: dict[ModelClass, ModelClass] = {}

    def of(self, model: ModelClass, above: Sequence[str]) -> ModelClass:
        """Return a model as it is served; `above` are the ensembles that it is a member of."""
        if not issubclass(model, Ensemble):
            return model
        if model not in self._done:
            above = (*above, model.name)
            members = {name: self._member(name, above) for name in model.asked()}
            namespace = {"pinned": members, "__module__": model.__module__, "__qualname__": model.__qualname__}
            self._done[model] = type(model.__name__, (model,), namespace)
        return self._done[model]

    def _member(self, text: str, above: Sequence[str]) -> Pinned:
        name, version = split_model(text)
        if name in above:
            raise Misconfigured(f"an ensemble cannot be its own member: {' > '.join([*above, name])}")
        own = [self.of(model, above) for model in self._by_name.get(name, ())]
        if version is None:
            version = own[0].version if len(own) == 1 else self._current(name)
        if version is None:
            raise Misconfigured(
                f"{name} is served here in several versions, and none is current: say which, {name}@VERSION"
                if own
                else f"no worker serves its member {name}; start one first"
            )
        for model in own:
            if model.version == version:
                return Pinned(name, version, issubclass(model, Ensemble))
        card = self._card(f"{name}@{version}")
        if card is None:
            raise Misconfigured(f"no worker serves its member {name}@{version}; start one first")
        self._refuse_circle(card, above)
        return Pinned(name, card.version, MEMBERS in card.policy)

    def _refuse_circle(self, card: Card, above: Sequence[str]) -> None:
        """Refuse a member of another worker that has one of these among its own members."""
        left, seen = [card], {card.model_id}
        while left:
            for member in left.pop().policy.get(MEMBERS, ()):
                if str(member).partition("@")[0] in above:
                    raise Misconfigured(
                        f"an ensemble cannot be its own member: {' > '.join([*above, card.model_id, str(member)])}"
                    )
                if member not in seen and (inner := self._card(member)) is not None:
                    seen.add(member)
                    left.append(inner)
