"""Make what the pages of docs/reference show of the code: settings, commands, metrics, public names, errors.

    python docs/generate.py

In each page it stands between two marks; what is around them is written by hand. A test compares the pages with what
this makes of the code as it is.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from foreseen import errors
from foreseen.cli.ending import status_of
from foreseen.cli.metrics.families import MEASURED, METRICS
from foreseen.cli.root import root
from foreseen.settings import Settings

ROOT: Final = Path(__file__).parents[1]
_BEGIN: Final = "<!-- made by `make reference` from here -->"
_END: Final = "<!-- to here -->"
#: As wide as the command line's own help is written.
_WIDTH: Final = 100
#: What a name's end says of its unit.
_UNITS: Final = {"_s": "seconds", "_bytes": "bytes", "_share": "0 to 1"}
_TYPES: Final = {str: "text", int: "whole number", float: "number", bool: "true or false", SecretStr: "secret text"}
_BOUNDS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
#: Sections of a docstring; the text before the first is what something is.
_SECTION: Final = re.compile(r"^(Args|Attributes|Example|Raises|Returns|Yields):\n", re.MULTILINE)


def main() -> None:
    """Renew the pages."""
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """Return each page as it is to be."""
    made = {"settings": settings, "cli": cli, "metrics": metrics, "python": python, "errors": error_tree}
    return {(page := ROOT / "docs" / "reference" / f"{name}.md"): _renewed(page, make()) for name, make in made.items()}


def _renewed(page: Path, block: str) -> str:
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{page}: the two lines are missing between which goes what is made:\n{_BEGIN}\n{_END}")
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Return the table of `foreseen.settings`."""
    rows = [_setting(name, field) for name, field in Settings.model_fields.items()]
    return _table(("variable", "is", "default", "read by", "meaning"), rows)


def _setting(name: str, field: FieldInfo) -> tuple[str, ...]:
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return (
        f"`FORESEEN_{name.upper()}`",
        unit + _bounds(field) if unit else _kind(field) + _bounds(field),
        "" if default in ((), "") else f"`{default:g}`" if isinstance(default, float) else f"`{default}`",
        _readers(name),
        field.description or "",
    )


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    return "list" if get_origin(annotation) is tuple else _TYPES[annotation]


def _bounds(field: FieldInfo) -> str:
    """Return what a number may be; shares say it already."""
    bounds = [
        f"{sign} {getattr(each, name):g}"
        for each in field.metadata for name, sign in _BOUNDS.items() if hasattr(each, name)
    ]  # fmt: skip
    return f", {' and '.join(bounds)}" if len(bounds) == 1 else ""


def _readers(name: str) -> str:
    """Return which side's code reads a setting; what lies in `foreseen` and is not the producers' is of both."""
    used = re.compile(rf"settings\.{name}\b")
    rooms = {_side(path) for path in _sources() if used.search(path.read_text(encoding="utf-8"))} - {""}
    return "both" if len(rooms) != 1 else rooms.pop()


def _sources() -> Iterator[Path]:
    for package in ("foreseen", "producer", "workers"):
        yield from sorted((ROOT / package).rglob("*.py"))


def _side(path: Path) -> str:
    """Return whose code a file is: producers, workers, both; or nobody's who runs in production."""
    match path.relative_to(ROOT).parts:
        case ("foreseen", "settings.py") | ("foreseen", "cli" | "checks" | "testing", *_):
            return ""
        case ("producer", *_) | ("foreseen", "client", *_):
            return "producers"
        case ("workers", *_) | ("foreseen", "celery_settings.py"):
            return "workers"
        case _:
            return "both"


# --- commands ---------------------------------------------------------------------------------------------------------


def cli() -> str:
    """Return what each command says of itself."""
    return "\n\n".join(f"## {path}\n\n```text\n{told}\n```" for path, told in _commands(root, None, "foreseen"))


def _commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command, parent, info_name=name if parent is None else command.name, terminal_width=_WIDTH,
        max_content_width=_WIDTH, **command.context_settings if parent is None else {},
    )  # fmt: skip
    vars(command)["_help_option"] = None  # which click keeps as whoever asked first had it, such as a test
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            if found := command.get_command(context, each):
                yield from _commands(found, context, each)


# --- metrics ----------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return what Prometheus is told."""
    rows = [
        (
            f"`{name}{'_total' if metric.kind == 'counter' else ''}`",
            metric.kind, ", ".join(metric.labels), metric.meaning,
        )
        for name, metric in METRICS.items()
    ]  # fmt: skip
    bounds = [
        (f"`{metric.name}`", ", ".join(f"{bound:g}" for bound in histogram.bounds))
        for histogram, metric in MEASURED.items()
    ]
    told = _table(("metric", "kind", "labels", "meaning"), rows)
    return f"{told}\n\n{_table(('histogram', 'bounds of its buckets'), bounds)}"


# --- Python -----------------------------------------------------------------------------------------------------------

#: What applications, model files and tests import.
_MODULES: Final = {
    "producer": "For application code.",
    "producer.celery": "For tasks of an existing Celery application ([an example](../../examples/celery_task)).",
    "workers": "For model files ([how to write one](../your-model.md)).",
    "workers.adapters": "Bases of models that a framework computes ([adapters](../adapters.md)).",
    "foreseen.testing": "For tests of your own ([how](../your-model.md#what-a-model-promises)).",
}
#: What most people look for; the rest follows by the alphabet.
_FIRST: Final = (
    "Producer", "AsyncProducer", "PendingPrediction", "AsyncPendingPrediction", "Model", "as_model", "CachePolicy",
    "Batching", "Limits", "Retry", "Deployment", "check_model",
)  # fmt: skip
#: What the parts of foreseen call on each other.
_INTERNAL: Final = frozenset({"after_fork", "pause_s", "passes", "resolve", "submission", "to_wire"})
#: Whose types Python's own documentation explains.
_OTHERS: Final = ("collections.abc.", "typing.")


def python() -> str:
    """Return what may be imported, and what is said of it."""
    return "\n\n".join(f"## {module}\n\n{what}\n\n{_module(module)}" for module, what in _MODULES.items())


def _module(name: str) -> str:
    if name == "workers.adapters":
        files = sorted((ROOT / "workers" / "adapters").glob("[a-z]*.py"))
        modules = [importlib.import_module(f"workers.adapters.{path.stem}") for path in files]
        found = [(f"{module.__name__}.{each}", getattr(module, each)) for module in modules for each in module.__all__]
        return "\n".join(f"- `{path}`: {_first(each)}" for path, each in found if path.endswith("Model"))
    module = importlib.import_module(name)
    names = sorted(module.__all__, key=lambda each: (_FIRST.index(each) if each in _FIRST else len(_FIRST), each))
    public = {each: getattr(module, each) for each in names}
    told = [_told(each, value, public) for each, value in public.items() if not _is_error(value)]
    return "\n\n".join(told)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, errors.ForeseenError)


def _told(name: str, value: Any, public: dict[str, Any]) -> str:
    """Return what is said of a class or a function."""
    parts = [f"### {name}"]
    if value is Settings:
        parts += [
            f"{_first(value)} Its arguments are [the variables](settings.md), without their prefix, in small letters."
        ]
    elif not inspect.isclass(value):
        parts += [f"`{name}{_signature(value)}`", _paragraph(value), _raises(value)]
    else:
        is_made = is_dataclass(value) or "Args" in _sections(value)
        parts += [f"`{name}{_signature(value)}`" if is_made else "", _paragraph(value), _attributes(value)]
        parts += [_values(value), "\n".join(_methods(value, public))]
    return "\n\n".join(part for part in parts if part)


def _values(cls: type) -> str:
    return f"One of {', '.join(f'`{each.value}`' for each in cls)}." if issubclass(cls, Enum) else ""


def _methods(cls: type, public: dict[str, Any]) -> Iterator[str]:
    """Return a line for each method and property; those that a base has are told there, if it is public too."""
    told = [base for base in cls.__mro__[1:] if base in public.values()]
    for name in dict.fromkeys(each for base in reversed(cls.__mro__) for each in base.__dict__):
        owner = next(base for base in cls.__mro__ if name in base.__dict__)
        value = owner.__dict__[name]
        if name.startswith("_") or name in _INTERNAL or owner in told or not _is_ours(owner):
            continue
        if isinstance(value, property):
            yield f"- `.{name}`: {_first(value.fget)}"
        elif inspect.isfunction(value) and value.__doc__:
            keyword = "await " if inspect.iscoroutinefunction(value) else ""
            yield f"- `{keyword}.{name}{_signature(value)}`: {_first(value)} {_raises(value)}".rstrip()
    others = [base for base in cls.__mro__ if base.__module__.startswith(("concurrent", "asyncio"))]
    if others:
        yield f"- And what a `{others[0].__module__.rpartition('._')[0]}.{others[0].__name__}` has beside."


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in {"foreseen", "producer", "workers"}


def _signature(value: Any) -> str:
    """Return a call's form, annotations as they are written."""
    signature = inspect.signature(value)
    shown: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not any(one.startswith("*") for one in shown):
            shown.append("*")
        if each.name != "self":
            shown.append(_parameter(each))
    returned = signature.return_annotation
    is_told = not inspect.isclass(value) and returned not in {signature.empty, "None", None}
    return f"({', '.join(shown)}){f' -> {_annotation(returned)}' if is_told else ''}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"
    return f"{stars}{parameter.name}{annotation}{default}"


def _annotation(annotation: Any) -> str:
    return _short(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def _value(value: Any) -> str:
    if isinstance(value, tuple) and any(map(inspect.isclass, value)):
        return f"({', '.join(each.__name__ for each in value)})"
    return _short(repr(value))


def _short(text: str) -> str:
    for other in _OTHERS:
        text = text.replace(other, "")
    return text


def _attributes(cls: type) -> str:
    """Return a table of what a class's docstring says of its attributes, with those defaults that a cell can show."""
    rows = [(f"`{name}`", _default(cls, name), _capital(what)) for name, what in _entries(cls, "Attributes")]
    if any(default for _, default, _ in rows):
        return _table(("attribute", "default", "meaning"), rows)
    return _table(("attribute", "meaning"), [(name, what) for name, _, what in rows]) if rows else ""


def _default(cls: type, name: str) -> str:
    if is_dataclass(cls):
        value = next((each.default for each in fields(cls) if each.name == name), MISSING)
        return "" if value is MISSING else f"`{_value(value)}`"
    given: Mapping[str, Any] = getattr(cls, "_field_defaults", vars(cls))  # those of a named tuple; else of the class
    value = given.get(name, "")
    return f"`{_value(value)}`" if value is None or isinstance(value, (bool, int, float, tuple)) else ""


def _raises(value: Any) -> str:
    names = [each.strip() for name, _ in _entries(value, "Raises") for each in name.split(",")]
    return f"Raises {', '.join(f'`{name}`' for name in names)}." if names else ""


# --- errors -----------------------------------------------------------------------------------------------------------


def error_tree() -> str:
    """Return the errors: as a tree, and what each means."""
    tree = textwrap.dedent(_docstring(errors).partition("\n\n")[2].partition("\n\n`retryable`")[0])
    rows = [
        (
            f"`{cls.__name__}`", ", ".join(f"`{base}`" for base in _builtin_bases(cls)),
            "yes" if cls.retryable else "no", str(status_of(cls(""))), _first(cls),
        )
        for cls in vars(errors).values() if _is_error(cls)
    ]  # fmt: skip
    return f"```text\n{tree.strip()}\n```\n\n{_table(('error', 'is also a', 'retry', 'status', 'meaning'), rows)}"


def _builtin_bases(cls: type) -> list[str]:
    return [base.__name__ for base in cls.__bases__ if base.__module__ == "builtins" and base is not Exception]


# --- docstrings -------------------------------------------------------------------------------------------------------


def _docstring(value: Any) -> str:
    """Return a docstring of its own, not one that a class has from its base."""
    return inspect.cleandoc((value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__) or "")


def _first(value: Any) -> str:
    """Return a docstring's first paragraph, in one line."""
    return " ".join(_docstring(value).partition("\n\n")[0].split())


def _paragraph(value: Any) -> str:
    """Return what a docstring says before its sections."""
    text = _SECTION.split(_docstring(value))[0].strip()
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


def _sections(value: Any) -> dict[str, str]:
    parts = _SECTION.split(_docstring(value))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _entries(value: Any, section: str) -> Iterator[tuple[str, str]]:
    """Return the names of a section with what is said of each."""
    body = _sections(value).get(section, "").partition("\n\n")[0]
    for entry in re.split(r"\n(?=    \S)", body.rstrip()):
        name, colon, what = " ".join(entry.split()).partition(": ")
        if colon:
            yield name, what


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
