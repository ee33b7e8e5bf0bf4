"""How values and tables are shown.

An output is shown as JSON. What JSON lacks gets a form of its own:

    bytes                    {"$bytes": "<base64>"}
    numpy array              nested lists; a complex number in it is [real, imaginary]
    NaN and the infinities   "NaN", "Infinity", "-Infinity"
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["as_json", "draw", "drawn", "plain", "write", "write_json"]

#: Of a table that goes to a file or a pipe: so wide that a row stays one line, for `grep`.
_FILE_WIDTH: Final = 240
#: What a terminal would act on rather than show: JSON escapes the first 32 by itself, and may escape the others.
_CONTROLS: Final = {number: f"\\u{number:04x}" for number in (*range(32), *range(127, 160))}


def as_json(value: Any) -> str:
    """Return a value on one line of JSON."""
    return json.dumps(_to_json(value), ensure_ascii=False).translate(_CONTROLS)


def plain(text: str) -> str:
    """Return a text on one line, without what a terminal would act on."""
    return text.translate(_CONTROLS)


def write(text: str, *, err: bool = False) -> None:
    """Write lines as UTF-8, whatever the terminal's encoding; at once, so that a closed pipe is noticed here."""
    click.echo(text.encode("utf-8", "backslashreplace"), err=err)


def write_json(document: Any) -> None:
    """Write a document over several lines, for people and programs alike."""
    write(json.dumps(_to_json(document), ensure_ascii=False, indent=2))


def draw(renderable: RenderableType) -> None:
    """Write a table, or anything else that rich can draw."""
    write(drawn(renderable))


def drawn(renderable: RenderableType) -> str:
    """Return it as lines that fit the terminal, or in plain lines where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _to_json(value: Any) -> Any:  # noqa: PLR0911 - one a type
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else _name_of(value)
        case complex():
            return [_to_json(value.real), _to_json(value.imag)]
        case bytes():
            return {"$bytes": b64encode(value).decode()}
        case Mapping():
            return {name: _to_json(item) for name, item in value.items()}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case _:  # a numpy array: nothing else travels
            return _to_json(value.tolist())


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
