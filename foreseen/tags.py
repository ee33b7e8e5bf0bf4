"""Tags: texts that inputs are submitted with, to forget their entries by what no key says, such as a customer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, TypeAlias

from foreseen.errors import InvalidInput

__all__ = ["MAX_TAGS", "MAX_TAG_CHARACTERS", "Tags", "check_tag", "tags_of", "with_tags"]

#: Of one submission: each is a step of its own in the look-up's round trip.
MAX_TAGS: Final = 32
MAX_TAG_CHARACTERS: Final = 200

#: The tags of an input, or what returns those of any.
Tags: TypeAlias = Collection[str] | Callable[[Any], Collection[str]]


def check_tag(tag: object) -> str:
    """Return a tag as it is: text is compared as it stands, without Unicode normalisation.

    Raises:
        InvalidInput: it is none; the message says what would be.
    """
    if isinstance(tag, str) and 0 < len(tag) <= MAX_TAG_CHARACTERS and tag.isprintable():
        return tag
    raise InvalidInput(
        f"{str(tag)[:60]!r} is not a tag; one is a text of 1 to {MAX_TAG_CHARACTERS} printable characters, "
        "such as 'customer:42'"
    )


def tags_of(tags: Tags, value: Any) -> tuple[str, ...]:
    """Return the tags of an input, each once.

    Raises:
        InvalidInput: they are none, or too many; the message says what would be.
    """
    given: Any = tags(value) if callable(tags) else tags
    if isinstance(given, str):
        raise InvalidInput(f"tags={given[:60]!r} is one text: give a list of tags, such as [{given[:60]!r}]")
    if isinstance(given, bytes) or not isinstance(given, Collection):
        raise InvalidInput(
            f"tags are a list of texts, or a function of the input that returns one, not {type(given).__name__}"
        )
    found = tuple(dict.fromkeys(map(check_tag, given)))
    if len(found) > MAX_TAGS:
        raise InvalidInput(f"{len(found)} tags; one submission has at most {MAX_TAGS}")
    return found


def with_tags(always: Tags, tags: Tags) -> Tags:
    """Return both: the tags that a handle always gives, and those of one call."""
    if always == ():
        return tags
    if tags == ():
        return always
    return lambda value: (*tags_of(always, value), *tags_of(tags, value))
