"""Models that are plain functions: what goes in and what comes out is read off their annotations.

@as_model(version="1")
def shout(text: str) -> str:
    return text.upper()

@as_model(name="mean", batch=True)
def means(rows: Sequence[list[float]]) -> list[float]:
    return np.mean(rows, axis=1).tolist()
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints, overload

from foreseen.errors import Misconfigured
from workers.model import Model
from workers.policies import Batching, CachePolicy, Limits, Retry

__all__ = ["as_model", "model_of"]

Function = TypeVar("Function", bound=Callable[..., Any])

_ATTRIBUTE: Final = "__foreseen_model__"
#: Of a function of one input: together its calls would gain nothing, and in a pool of threads they run side by side.
_ONE_BY_ONE: Final = Batching(max_wait_s=0)


@overload
def as_model(function: Function, /) -> Function: ...


@overload
def as_model(
    *,
    name: str | None = None,
    version: str | None = None,
    batch: bool = False,
    files: Sequence[Path | str] = (),
    examples: Sequence[Any] = (),
    cache: CachePolicy | None = None,
    batching: Batching | None = None,
    limits: Limits | None = None,
    retry: Retry | None = None,
) -> Callable[[Function], Function]: ...


def as_model(
    function: Function | None = None, /, *, name: str | None = None, batch: bool = False, **given: Any
) -> Function | Callable[[Function], Function]:
    """Make a function a model; it stays the function that it is.

    Args:
        function: of one argument, annotated; of one input, or with `batch` of a `Sequence` of them, which returns as
            many outputs in the same order. What it raises for an input is that one's failure.
        name: what producers ask for; left out, the function's own, with `-` for `_`.
        batch: it computes a batch.
        **given: `version`, `files`, `examples`, `cache`, `batching`, `limits`, `retry`: as of a `Model`.

    Returns:
        The function.

    Raises:
        Misconfigured: it has not one argument, an annotation is missing, or something given is not as it should be.
    """
    if function is None:
        return cast("Callable[[Function], Function]", partial(_as_model, name=name, batch=batch, given=given))
    return _as_model(function, name=name, batch=batch, given=given)


def model_of(value: object) -> type[Model[Any, Any]] | None:
    """Return the model that a function was made, or None for what was made none."""
    return getattr(value, _ATTRIBUTE, None) if inspect.isfunction(value) else None


def _as_model(function: Function, *, name: str | None, batch: bool, given: dict[str, Any]) -> Function:
    input_type, output_type = _types_of(function, batch=batch)
    body = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "name": name or function.__name__.replace("_", "-"),
        "batching": Batching() if batch else _ONE_BY_ONE,
        "predict": _predict_batch(function) if batch else _predict_each(function),
        **{attribute: value for attribute, value in given.items() if value is not None},
    }
    bases = (Model[input_type, output_type],)  # type: ignore[valid-type]
    setattr(function, _ATTRIBUTE, types.new_class(function.__name__, bases, exec_body=lambda made: made.update(body)))
    return function


def _predict_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    def predict(self: Model[Any, Any], batch: Sequence[Any]) -> Any:
        del self
        return function(batch)

    return predict


def _predict_each(function: Callable[..., Any]) -> Callable[..., Any]:
    def predict(self: Model[Any, Any], batch: Sequence[Any]) -> list[Any]:
        del self
        outputs: list[Any] = []
        for value in batch:
            try:
                outputs.append(function(value))
            except MemoryError:  # says something of the process, not of the input
                raise
            except Exception as error:  # noqa: BLE001 - it stands in its item's place; the others need not run again
                outputs.append(error)
        return outputs

    return predict


def _types_of(function: Callable[..., Any], *, batch: bool) -> tuple[Any, Any]:
    """Return what one input and one output are."""
    told = f"function {getattr(function, '__qualname__', function)}"
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise Misconfigured(f"{told}: a model is made of a plain function (def), not of a coroutine or another object")
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    if len(needed) != 1 or needed[0].kind not in {needed[0].POSITIONAL_ONLY, needed[0].POSITIONAL_OR_KEYWORD}:
        raise Misconfigured(f"{told}: a model has one input: put several into a pydantic model or a dict")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise Misconfigured(f"{told} names a type that is not defined: {error}") from error
    given, returned = hints.get(needed[0].name), hints.get("return")
    if given is None or returned is None:
        example = "(texts: Sequence[str]) -> list[str]" if batch else "(text: str) -> str"
        raise Misconfigured(f"{told}: say what goes in and what comes out: {function.__name__}{example}")
    return (_item_of(given, told), _without_exceptions(_item_of(returned, told))) if batch else (given, returned)


def _item_of(hint: Any, told: str) -> Any:
    origin: Any = get_origin(hint)
    if not (isinstance(origin, type) and issubclass(origin, Sequence) and len(get_args(hint)) == 1):
        raise Misconfigured(f"{told}: with batch=True it takes and returns a Sequence[...] or list[...], not {hint}")
    return get_args(hint)[0]


def _without_exceptions(hint: Any) -> Any:
    """Return `Out` of `Out | Exception`: an exception in an item's place is its failure, not its output."""
    if get_origin(hint) not in {Union, types.UnionType}:
        return hint
    outputs = [one for one in get_args(hint) if not (isinstance(one, type) and issubclass(one, Exception))]
    return Union[tuple(outputs)]  # noqa: UP007 - its members are only known here
