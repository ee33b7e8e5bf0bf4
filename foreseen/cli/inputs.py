"""What a command takes for INPUT: which text names a file, and what its content is taken for."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from foreseen.errors import InvalidInput, Misconfigured

__all__ = ["RULES", "STDIN", "Form", "Input", "form_of", "largest_bytes", "read", "shown"]

STDIN: Final = "-"

#: For the help of every command that takes an INPUT.
RULES: Final = """\
\b
INPUT is
  -      standard input
  PATH   a file that exists: its content
  else   the input itself, as JSON or text (bytes come from files only)

\b
It is taken for what --as says, or else for what the model's card says:
  bytes  as it is, where the model takes bytes
  text   as it is, where the model takes a text
  npy    a numpy array in NumPy's file format, where it takes an array
  json   one JSON value, for all other models
  jsonl  one input on each line, as JSON; only if you say so
"""

#: How much of an INPUT that is no file a message repeats: enough to see which, not a page of JSON.
_SHOWN: Final = 60


class Form(StrEnum):
    """What the content of an input is taken for."""

    BYTES = "bytes"
    TEXT = "text"
    NPY = "npy"
    JSON = "json"
    JSONL = "jsonl"


class Input(NamedTuple):
    """An input, or why there is none.

    Attributes:
        name: the INPUT it came from; with its line's number if each line is one.
        value: for the model.
        error: None if it could be read.
    """

    name: str
    value: Any
    error: InvalidInput | None = None


def form_of(schema: Any) -> Form:
    """Return what a model with that input schema takes.

    Args:
        schema: JSON Schema of a canonical form, from its card.
    """
    choices = schema.get("anyOf", [schema]) if isinstance(schema, dict) else []
    for member, form in (("$bytes", Form.BYTES), ("$array", Form.NPY)):
        if any(choice.get("required") == [member] for choice in choices):
            return form
    return Form.TEXT if choices and all(choice.get("type") == "string" for choice in choices) else Form.JSON


def read(arguments: Sequence[str], form: Form) -> Iterator[Input]:
    """Read inputs one after the other, no sooner than they are wanted. What cannot be read is that one's error."""
    for argument in arguments:
        try:
            if form is Form.JSONL:
                yield from _lines(argument)
            else:
                yield Input(argument, _value(_content(argument, form), argument, form))
        except (InvalidInput, OSError) as error:
            yield Input(argument, None, _told(error))


def largest_bytes(arguments: Sequence[str]) -> int:
    """Return the size of the largest file among them, for what has to be bounded."""
    return max((_size(argument) for argument in arguments), default=0)


def _is_file(argument: str) -> bool:
    """Tell whether it names what can be read; a pipe is fine, and JSON may be too long for a name."""
    return os.path.exists(argument)  # noqa: PTH110 - Path.exists raises where a text cannot be a name


def _size(argument: str) -> int:
    return Path(argument).stat().st_size if argument != STDIN and _is_file(argument) else 0


def _open(argument: str, form: Form) -> BinaryIO:
    if argument == STDIN:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")  # a copy, so that it can be closed like any other
    if _is_file(argument):
        return Path(argument).open("rb")
    if form in {Form.BYTES, Form.NPY}:
        # Taken for an input, a path with a slip of the pen would be answered, about its letters.
        raise InvalidInput("no such file; the bytes of an input come from a file or from standard input (-)")
    return io.BytesIO(os.fsencode(argument))


def _content(argument: str, form: Form) -> bytes:
    with _open(argument, form) as content:
        return content.read()


def _value(content: bytes, argument: str, form: Form) -> Any:
    match form:
        case Form.BYTES:
            return content
        case Form.TEXT:
            try:
                return content.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(f"not UTF-8 text: {error.reason} at byte {error.start}") from None
        case Form.NPY:
            return _array(content)
        case _:
            return _json(content, argument)


def _json(content: bytes, argument: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        what = "not JSON" if argument == STDIN or _is_file(argument) else "neither a file nor JSON"
        raise InvalidInput(f"{what}: {error}") from None


def _array(content: bytes) -> Any:
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise Misconfigured("to read an array, numpy must be installed: pip install numpy") from None
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"not an array in NumPy's file format: {error}") from None


def _lines(argument: str) -> Iterator[Input]:
    with _open(argument, Form.JSONL) as lines:
        for number, line in enumerate(lines, 1):
            name = f"{argument}:{number}"
            if not line.strip():
                continue
            try:
                yield Input(name, _json(line, argument))
            except InvalidInput as error:
                yield Input(name, None, error)


def _told(error: InvalidInput | OSError) -> InvalidInput:
    """Return what is wrong, in words that go after the input's name."""
    return error if isinstance(error, InvalidInput) else InvalidInput(f"cannot be read: {error.strerror or error}")


def shown(name: str) -> str:
    """Return an input's name for people: on one line, and short."""
    return name if len(name) <= _SHOWN or _is_file(name) else f"{name[: _SHOWN - 1]}…"
