"""`foreseen models`: which models there are, and which version of each is the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from foreseen.cli.completion import complete_version
from foreseen.cli.show import draw, write, write_json
from foreseen.errors import BrokerUnavailable, InvalidInput, ModelNotServed

if TYPE_CHECKING:
    from foreseen.cli.deployment import Version
    from foreseen.keys import KeySpace
    from foreseen.settings import Settings

__all__ = ["models", "read_depths"]

#: As a card's policy names them.
_FAILURES: Final = ("permanent_s", "transient_s", "poison_s")


@click.group(invoke_without_command=True, short_help="List the models; promote a version.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object for each version.")
@click.pass_context
def models(context: click.Context, *, as_json: bool) -> None:
    """List every version of every model that was served of late.

    \b
    current  the version that the bare name means
    served   some worker serves it now
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
    from foreseen import cards
    from foreseen.cli.deployment import open_cache, read_settings
    from foreseen.keys import KeySpace, split_model

    name, version = split_model(model)
    if version is None:
        raise InvalidInput(f"{model!r} has no version; promote takes NAME@VERSION, as `foreseen models` lists them")
    settings = read_settings()
    space = KeySpace(settings.namespace)
    with open_cache(settings) as cache:
        card, known = cache.commands([*cards.read(space, model), *cards.known_models(space)])
        if cards.parse(card) is None and not force:
            others = sorted(each for each in cards.model_ids_in(known) if each.partition("@")[0] == name)
            advice = f"Served of late: {', '.join(others)}. " if others else ""
            raise ModelNotServed(f"No worker serves {model!r} now. {advice}--force promotes it all the same.")
        (before,) = cache.commands(cards.promote(space, name, version))
    was = cards.version_in(before)
    if was == version:
        write(f"{model} is the current version already.")
    else:
        write(f"{model} is the current version now" + (f"; it was {name}@{was}." if was else "."))


def read_depths(settings: Settings, queues: Sequence[str]) -> tuple[list[int | None], BrokerUnavailable | None]:
    """Return each queue's depth, or None for each and why: what the cache knows is worth showing without."""
    from foreseen.cli.queues import depths

    try:
        return [*depths(settings, queues)], None
    except BrokerUnavailable as error:
        return [None] * len(queues), error


def _as_json(each: Version, queue: str, depth: int | None) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "current": each.current,
        "served": each.card is not None,
        "queue": queue,
        "waiting": depth,
        "max_batch_size": each.card.max_batch_size if each.card else None,
        "policy": each.card.policy if each.card else None,
    }


def _draw(versions: Sequence[Version], waiting: Sequence[int | None], space: KeySpace) -> None:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ("model", "current", "served"):
        table.add_column(heading, overflow="fold")
    for heading in ("waiting", "batch", "expiry", "failures"):
        table.add_column(heading, justify="right")
    for each, depth in zip(versions, waiting, strict=True):
        card = each.card
        table.add_row(
            f"[bold]{each.model_id}[/]",
            "yes" if each.current else "",
            "yes" if card else "no",
            "?" if depth is None else f"{depth:,}",
            str(card.max_batch_size) if card else "",
            _seconds(card.policy.get("expiry_s")) if card else "",
            _failures(card.policy.get("failure_expiry_s")) if card else "",
        )
    draw(Group(table, f"The queue of each is {space.queue('NAME@VERSION')}."))


def _failures(told: Any) -> str:
    """Return what a card says of failures: seconds by kind, or one number for all."""
    kinds = [told.get(kind) for kind in _FAILURES] if isinstance(told, dict) else [told]
    return _seconds(kinds[0]) if len(set(map(repr, kinds))) == 1 else " / ".join(map(_seconds, kinds))


def _seconds(expiry_s: Any) -> str:
    return f"{expiry_s:g} s" if isinstance(expiry_s, (int, float)) else ""
