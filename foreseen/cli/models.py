"""`foreseen models`: which models there are, and which version of each is the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from foreseen.cli.completion import complete_version
from foreseen.cli.show import draw, plain, write, write_json
from foreseen.errors import BrokerUnavailable, CacheUnavailable, InvalidInput, Misconfigured, ModelNotServed

if TYPE_CHECKING:
    from foreseen.cli.deployment import Version
    from foreseen.keys import KeySpace
    from foreseen.settings import Settings

__all__ = ["models", "read_depths"]

#: As a card's policy names them.
_FAILURES: Final = ("permanent_s", "transient_s", "poison_s")
#: As a worker's card calls a model that takes work there.
_SERVED: Final = "served"


@click.group(invoke_without_command=True, short_help="List the models; promote a version, roll back.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object for each version.")
@click.pass_context
def models(context: click.Context, *, as_json: bool) -> None:
    """List every version of every model that was served of late.

    \b
    current  the version that the bare name means; before: the one that it
             meant, to which `rollback` goes back
    served   some worker serves it now; if none does: loading, where one is
             about to, failed, where one could not load it or warm it up
    workers  how many serve it; --json tells which, and how long it took them
             to load it
    waiting  messages in its queue that no worker has taken; each holds up to
             a batch of inputs
    batch    how many inputs it takes at most in one computation
    expiry   how long its results are kept in the cache; failures: how long
             those are: permanent / transient / of inputs that cost processes

    \b
    Examples:
      foreseen models
      foreseen models --json
      foreseen models promote file-type@standard_v3_3
      foreseen models rollback file-type
    """  # noqa: D301 - click reads the character that \b stands for
    if context.invoked_subcommand is not None:
        return
    from foreseen.cli.deployment import open_cache, read_settings, read_versions
    from foreseen.keys import KeySpace

    settings = read_settings()
    space = KeySpace(settings.namespace)
    with open_cache(settings) as cache:
        versions = read_versions(cache, space)
    waiting, unavailable = read_depths(settings, [space.queue(each.model_id) for each in versions])
    if as_json:
        write_json([
            _as_json(each, space.queue(each.model_id), depth) for each, depth in zip(versions, waiting, strict=True)
        ])  # fmt: skip
    elif versions:
        _draw(versions, waiting, space)
    else:
        write("No worker has published a model yet: start one with FORESEEN_MODELS set.")
    if unavailable is not None:
        raise unavailable


@models.command(short_help="Make a version the current one.")
@click.argument("model", metavar="NAME@VERSION", shell_complete=complete_version)
@click.option("--force", is_flag=True, help="Promote it even if no worker serves it now.")
def promote(model: str, *, force: bool) -> None:
    """Make NAME@VERSION the version that the bare NAME means.

    It stays so until another one is promoted. Producers follow within their FORESEEN_CARD_REFRESH_S (5 seconds unless
    set); what is under way goes on under the version it was asked of.

    \b
    Example:
      foreseen models promote file-type@standard_v3_3
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.keys import split_model

    name, version = split_model(model)
    if version is None:
        raise InvalidInput(f"{model!r} has no version; promote takes NAME@VERSION, as `foreseen models` lists them")
    _promote(name, version, force=force)


@models.command(short_help="Make the version before the current one again.")
@click.argument("name", metavar="NAME", shell_complete=complete_version)
@click.option("--force", is_flag=True, help="Do so even if no worker serves it now.")
def rollback(name: str, *, force: bool) -> None:
    """Make the bare NAME mean the version that it meant before the last promotion.

    Whoever rolls back twice is where he was. Producers follow as they follow a promotion.

    \b
    Example:
      foreseen models rollback file-type
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen import cards
    from foreseen.cli.deployment import open_cache, read_settings
    from foreseen.keys import KeySpace, split_model

    name, version = split_model(name)
    if version is not None:
        raise InvalidInput(f"rollback takes a bare NAME, such as {name}; `foreseen models promote` takes a version")
    settings = read_settings()
    with open_cache(settings) as cache:
        (before,) = cache.commands(cards.previous(KeySpace(settings.namespace), name))
    version = cards.version_in(before)
    if version is None:
        raise ModelNotServed(
            f"No version of {name!r} was current before; `foreseen models` lists those that there are."
        )
    _promote(name, version, force=force)


@models.command(short_help="Have workers serve what their model files hold now.")
@click.option(
    "--wait", default=5.0, show_default=True, metavar="SECONDS", help="How long workers may take to import them.",
)  # fmt: skip
def reload(wait: float) -> None:
    """Have all workers look at their FORESEEN_MODELS again, without a restart.

    What has become of a model file or its weights is a version of its own, unless the class says one. A worker loads
    and warms up new versions before it lets go of those they replace; what is computed then is finished. Where the old
    version was the current one, the new one becomes that. Should a file not import, or a new version not load, the
    worker goes on as before. `foreseen models` shows how far it is.

    \b
    Example:
      foreseen models reload
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.cli.deployment import read_settings
    from workers.celery import app

    known = _count_workers(read_settings())  # once all of these have answered there is nothing to wait for
    replies: list[dict[str, Any]] = (
        app.control.broadcast("foreseen_reload", reply=True, timeout=wait, limit=known or None) or []
    )
    if not replies:
        raise ModelNotServed("No worker answered: none runs, or none has imported its models in time.")
    failed = False
    for host, told in sorted(item for reply in replies for item in reply.items()):
        errors = told.get("errors", {"": str(told.get("error", "it does not know how to reload"))})
        changes = [
            *(f"loads {each}" for each in told.get("added", ())),
            *(f"lets go of {each}" for each in told.get("retired", ())),
        ]
        write(f"{host}: {', '.join(changes) or 'nothing has changed'}" if not errors else f"{host}: goes on as before")
        for error in errors.values():
            write(f"  {error}")
        failed = failed or bool(errors)
    if failed:
        raise Misconfigured("not every worker reloads: see above")


def _count_workers(settings: Settings) -> int:
    """Return how many workers have said of late that they live; 0 if the cache cannot tell."""
    from foreseen.cli.deployment import count_workers, open_cache
    from foreseen.keys import KeySpace

    try:
        with open_cache(settings) as cache:
            return count_workers(cache, KeySpace(settings.namespace))
    except CacheUnavailable:
        return 0


def _promote(name: str, version: str, *, force: bool) -> None:
    """Move the pointer, to a version that some worker serves."""
    from foreseen import cards
    from foreseen.cli.deployment import open_cache, read_settings
    from foreseen.flights import Flights

    model = f"{name}@{version}"
    settings = read_settings()
    flights = Flights(settings)
    space = flights.space
    with open_cache(settings) as cache:
        card, known = cache.commands([*cards.read(space, model), *cards.known_models(space)])
        if cards.parse(card) is None and not force:
            others = sorted(each for each in cards.model_ids_in(known) if each.partition("@")[0] == name)
            advice = f"Served of late: {', '.join(others)}. " if others else ""
            raise ModelNotServed(f"No worker serves {model!r} now. {advice}--force promotes it all the same.")
        (before,) = cache.run([flights.promote(name, version)])
    was = cards.version_in(before)
    if was == version:
        write(f"{model} is the current version already.")
    else:
        write(f"{model} is the current version now" + (f"; it was {name}@{was}." if was else "."))


def read_depths(settings: Settings, queues: Sequence[str]) -> tuple[list[int | None], BrokerUnavailable | None]:
    """Return each queue's depth, or None for each and why: what the cache knows is worth showing without."""
    from foreseen.queues import depths

    try:
        return [*depths(settings, queues)], None
    except BrokerUnavailable as error:
        return [None] * len(queues), error


def _as_json(each: Version, queue: str, depth: int | None) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "current": each.current,
        "previous": each.previous,
        "served": each.card is not None,
        "workers": [
            {"host": worker.host, "pool": worker.pool, "concurrency": worker.concurrency, **life.model_dump()}
            for worker, life in each.workers
        ],
        "queue": queue,
        "waiting": depth,
        "max_batch_size": each.card.max_batch_size if each.card else None,
        "policy": each.card.policy if each.card else None,
    }


def _draw(versions: Sequence[Version], waiting: Sequence[int | None], space: KeySpace) -> None:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ("model", "current", "served"):
        table.add_column(heading, overflow="fold")
    for heading in ("workers", "waiting", "batch", "expiry", "failures"):
        table.add_column(heading, justify="right")
    for each, depth in zip(versions, waiting, strict=True):
        card = each.card
        table.add_row(
            f"[bold]{each.model_id}[/]",
            "yes" if each.current else "before" if each.previous else "",
            _served(each),
            str(sum(life.state == _SERVED for _, life in each.workers) or ""),
            "?" if depth is None else f"{depth:,}",
            str(card.max_batch_size) if card else "",
            _seconds(card.policy.get("expiry_s")) if card else "",
            _failures(card.policy.get("failure_expiry_s")) if card else "",
        )
    failures = [
        f"{each.model_id} is not served by {worker.host}: {life.error}"
        for each in versions
        for worker, life in each.workers
        if life.error
    ]
    draw(Group(table, *map(Text, map(plain, failures)), f"The queue of each is {space.queue('NAME@VERSION')}."))


def _served(each: Version) -> str:
    """Return whether it is served, or how far somebody who is to serve it has come."""
    if each.card is not None:
        return "yes"
    return next((life.state for _, life in each.workers), "no")


def _failures(told: Any) -> str:
    """Return what a card says of failures: seconds by kind, or one number for all."""
    kinds = [told.get(kind) for kind in _FAILURES] if isinstance(told, dict) else [told]
    return _seconds(kinds[0]) if len(set(map(repr, kinds))) == 1 else " / ".join(map(_seconds, kinds))


def _seconds(expiry_s: Any) -> str:
    return f"{expiry_s:g} s" if isinstance(expiry_s, (int, float)) else ""
