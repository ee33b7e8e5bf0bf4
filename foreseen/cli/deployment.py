"""The deployment that a command talks to: its settings, its servers, and the models that workers serve there."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from foreseen import cards, worker_cards
from foreseen.cache import Cache
from foreseen.cards import Card
from foreseen.cli.inputs import Form, form_of
from foreseen.errors import Misconfigured
from foreseen.keys import KeySpace
from foreseen.parcels import Command
from foreseen.settings import Settings
from foreseen.worker_cards import ModelLife, WorkerCard

if TYPE_CHECKING:
    from producer import Producer

__all__ = ["Version", "count_workers", "find", "open_cache", "open_producer", "read_settings", "read_versions"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model that was served of late.

    Attributes:
        name: of the model.
        version: of it.
        current: whether the bare name means it.
        card: None if no worker serves it now.
        previous: whether the bare name meant it before.
        workers: that are to serve it, with where it is in its life there.
    """

    name: str
    version: str
    current: bool
    card: Card | None
    previous: bool = False
    workers: Sequence[tuple[WorkerCard, ModelLife]] = ()

    @property
    def model_id(self) -> str:
        """`model@version`."""
        return f"{self.name}@{self.version}"


def read_settings() -> Settings:
    """Read the settings from `FORESEEN_*`.

    Raises:
        Misconfigured: one cannot be read, or names no server that could be asked; says which.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"FORESEEN_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()]
        raise Misconfigured("; ".join(wrong)) from None


@contextmanager
def open_cache(settings: Settings) -> Generator[Cache]:
    """Talk to the cache server."""
    with closing(Cache(settings)) as cache:
        yield cache


@contextmanager
def open_producer(settings: Settings) -> Generator[Producer]:
    """Ask as an application does.

    Raises:
        CacheUnavailable: the cache does not answer.
    """
    from producer import Producer

    # It logs each try to open a lost connection again; a command tells the error that it ends with.
    logging.getLogger("foreseen.client").addHandler(logging.NullHandler())
    if "events_share" not in settings.model_fields_set:  # a person asks, who may look for it in Flower
        settings = settings.model_copy(update={"events_share": 1.0})
    with Producer(settings) as producer:
        yield producer


def find(settings: Settings, model: str, form: Form | None) -> tuple[str, Form]:
    """Return the `model@version` that `model` means, and what its inputs are: `form`, or what its card says.

    Raises:
        ModelNotServed: no worker has published it in time.
    """
    from foreseen.client.sync import SyncClient

    with closing(SyncClient(settings)) as client:
        name, version = client.run(client.engine.find(model))
        model_id = f"{name}@{version}"
        if form is None:
            form = form_of(client.run(client.engine.catalog.card(model_id)).input_schema)
    return model_id, form


def count_workers(cache: Cache, space: KeySpace) -> int:
    """Return how many workers have said of late that they live, in two round trips."""
    (workers,) = cache.commands(worker_cards.known(space))
    (told,) = _by_list(cache, [worker_cards.read(space, worker_cards.names_in(workers))])
    return sum(card is not None for card in map(worker_cards.parse, told))


def read_versions(cache: Cache, space: KeySpace) -> list[Version]:
    """Return every version of every model that was served of late, by name and version, in two round trips."""
    known, workers = cache.commands([*cards.known_models(space), *worker_cards.known(space)])
    model_ids = cards.model_ids_in(known)
    names = sorted({model_id.partition("@")[0] for model_id in model_ids})
    lists = [
        [command for name in names for command in cards.resolve(space, name)],
        [command for name in names for command in cards.previous(space, name)],
        worker_cards.read(space, worker_cards.names_in(workers)),
    ]
    pointers, before, told = _by_list(cache, lists)
    current = _pointed(names, pointers)
    previous = _pointed(names, before) - current
    alive = [card for card in map(worker_cards.parse, told) if card is not None]
    # Promoted by force, one may never have been served; nor one that no worker could load.
    listed = sorted({*model_ids, *current, *(model_id for card in alive for model_id in card.models)})
    (found,) = _by_list(cache, [[command for model_id in listed for command in cards.read(space, model_id)]])
    return [
        Version(
            *_split(model_id),
            current=model_id in current,
            card=cards.parse(card),
            previous=model_id in previous,
            workers=[(worker, worker.models[model_id]) for worker in alive if model_id in worker.models],
        )
        for model_id, card in zip(listed, found, strict=True)
    ]


def _by_list(cache: Cache, lists: Sequence[Sequence[Command]]) -> list[list[Any]]:
    """Send lists of commands in one round trip; return the replies list by list."""
    commands = [command for each in lists for command in each]
    replies = iter(cache.commands(commands) if commands else ())
    return [[next(replies) for _ in each] for each in lists]


def _pointed(names: Sequence[str], pointers: Sequence[bytes | None]) -> set[str]:
    """Return the `name@version` that pointers name."""
    versions = zip(names, map(cards.version_in, pointers), strict=True)
    return {f"{name}@{version}" for name, version in versions if version is not None}


def _split(model_id: str) -> tuple[str, str]:
    name, _, version = model_id.partition("@")
    return name, version
