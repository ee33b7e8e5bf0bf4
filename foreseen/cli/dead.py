"""`foreseen dead`: what workers gave up on, for an operator to look at, try again or drop."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from foreseen.cli.ending import Told
from foreseen.cli.show import draw, plain, write, write_json
from foreseen.errors import ForeseenError, InvalidInput, UnknownKey

if TYPE_CHECKING:
    from foreseen.dead_letters import DeadLetter, Kept
    from foreseen.keys import Key

__all__ = ["dead"]

_KEYS = click.argument("keys", metavar="[KEY]...", nargs=-1)
_ALL = click.option("--all", "everything", is_flag=True, help="All of them.")


@click.group(short_help="List, show, retry and drop dead letters.")
def dead() -> None:
    """Look at inputs that workers gave up on.

    An input whose computation killed its process too often (FORESEEN_MAX_ATTEMPTS), or took longer than its model
    allows, fails for everyone who asked, and leaves a letter in the broker's queue NAMESPACE.dead. Letters keep the
    input, unless FORESEEN_DEAD_LETTER_INPUTS is off.

    A KEY may be shortened as long as only one is meant.

    \b
    Examples:
      foreseen dead list
      foreseen dead show 427867be
      foreseen dead retry file-type@standard_v3_3:427867be
      foreseen dead drop --all
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.inflation import refuse_compression

    refuse_compression()  # a letter may be anybody's


@dead.command(name="list", short_help="List them, oldest first.")
@click.option("--json", "as_list", is_flag=True, help="Print a JSON list, one object for each letter.")
def list_(*, as_list: bool) -> None:
    """List all dead letters, oldest first."""
    from foreseen.cli.deployment import read_settings
    from foreseen.dead_letters import dead_letters

    with dead_letters(read_settings()) as kept:
        letters = [each.letter for each in kept if each.letter is not None]
    if as_list:
        write_json([_as_dict(letter) for letter in letters])
        return
    if letters:
        _draw(letters)
    unreadable = len(kept) - len(letters)
    if unreadable:
        write(f"{unreadable} that cannot be read: foreseen dead drop --all strikes them out too.")
    elif not letters:
        write("No dead letters.")


@dead.command(short_help="Show one, and its input.")
@click.argument("key")
def show(key: str) -> None:
    """Print the letters of an input as JSON, with the input."""
    from foreseen.cli.deployment import read_settings
    from foreseen.dead_letters import dead_letters

    with dead_letters(read_settings()) as kept:
        letters = [each.letter for each in _chosen(kept, [key], everything=False) if each.letter is not None]
    for letter in letters:
        write_json(_as_dict(letter) | {"input": _input_of(letter) if letter.canonical else None})


@dead.command(short_help="Submit them again, and strike them out.")
@_KEYS
@_ALL
def retry(keys: Sequence[str], *, everything: bool) -> None:
    """Have inputs computed again, with all attempts anew; a letter is struck out once its input is submitted.

    What is computed is the model and version of the key, whether or not anybody waits. One that cannot be submitted
    keeps its letter, and the others go on.
    """
    from foreseen.cli.deployment import open_cache, open_producer, read_settings
    from foreseen.dead_letters import dead_letters
    from foreseen.keys import KeySpace

    settings = read_settings()
    space = KeySpace(settings.namespace)
    submitted: set[Key] = set()
    errors: dict[Key, ForeseenError] = {}
    with dead_letters(settings) as kept, open_cache(settings) as cache, open_producer(settings) as producer:
        for each in _chosen(kept, keys, everything=everything):
            letter = each.letter
            if letter is None or letter.key in errors:
                continue
            try:
                if letter.key not in submitted:
                    cache.commands([("DEL", space.deaths(letter.key))])
                    producer.submit(letter.key.model_id, _input_of(letter), refresh=True)
                    submitted.add(letter.key)
                    write(f"Submitted {letter.key}")
            except ForeseenError as error:
                errors[letter.key] = error
                write(f"Error: {letter.key.short}: {error}", err=True)
            else:
                each.drop()
    if errors:
        raise Told(next(iter(errors.values())))


@dead.command(short_help="Strike them out.")
@_KEYS
@_ALL
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(keys: Sequence[str], *, everything: bool, yes: bool) -> None:
    """Strike letters out; their inputs are then gone."""
    from foreseen.cli.deployment import read_settings
    from foreseen.dead_letters import dead_letters

    with dead_letters(read_settings()) as kept:
        chosen = _chosen(kept, keys, everything=everything)
        if chosen and not yes:
            click.confirm(f"Drop {_count(chosen)}?", abort=True, err=True)
        for each in chosen:
            each.drop()
    write(f"Dropped {_count(chosen)}.")


def _chosen(kept: Sequence[Kept], keys: Sequence[str], *, everything: bool) -> list[Kept]:
    """Return the letters that are meant.

    Raises:
        InvalidInput: nobody said which, or a key is short for several.
        UnknownKey: there is none of a key.
    """
    if everything == bool(keys):
        raise InvalidInput("Give the keys of the letters, as `foreseen dead list` shows them, or --all.")
    if everything:
        return [*kept]
    chosen: list[Kept] = []
    for key in keys:
        meant = [each for each in kept if each.letter is not None and _is_short_for(key, each.letter.key)]
        different = sorted({str(each.letter.key) for each in meant if each.letter is not None})
        if not different:
            raise UnknownKey(f"There is no dead letter of {key!r}: foreseen dead list")
        if len(different) > 1:
            raise InvalidInput(f"{key!r} is short for {len(different)} keys: {', '.join(different[:4])}")
        chosen += [each for each in meant if each not in chosen]
    return chosen


def _is_short_for(text: str, key: Key) -> bool:
    return str(key).startswith(text) or key.digest.startswith(text)


def _count(letters: Sequence[Any]) -> str:
    return f"{len(letters)} letter{'' if len(letters) == 1 else 's'}"


def _input_of(letter: DeadLetter) -> Any:
    """Return the input.

    Raises:
        InvalidInput: the letter has none.
        Malformed, Misconfigured: it cannot be restored here.
    """
    from foreseen.canonical import restore

    if letter.canonical is None:
        raise InvalidInput(
            "The letter has no input, so it cannot be tried again here: submit the input anew, and set "
            "FORESEEN_DEAD_LETTER_INPUTS=true at the workers to have it kept."
        )
    return restore(letter.canonical.text, letter.canonical.blobs)


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    return {
        "key": str(letter.key),
        "at": _time(letter),
        "failure": letter.failure.to_wire(),
        "has_input": letter.canonical is not None,
    }


def _time(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.at_ms / 1000, UTC).isoformat(timespec="seconds")


def _draw(letters: Sequence[DeadLetter]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ("key", "at", "why", "deaths", "input"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        deaths = letter.failure.details.get("deaths")
        why = f"{type(letter.failure).__name__}: {letter.failure.details.get('last') or letter.failure.message}"
        table.add_row(
            Text(letter.key.short, style="bold"),
            _time(letter),
            Text(plain(why)),
            str(deaths) if isinstance(deaths, int) else "",
            "kept" if letter.canonical else "no",
        )
    draw(table)
