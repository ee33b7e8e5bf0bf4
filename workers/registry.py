"""The registry: finds the models that a worker is to serve."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from typing_extensions import TypeIs

from foreseen.errors import Misconfigured
from foreseen.modules import Given, expand
from workers.celery_tasks import model_of_task
from workers.functions import model_of
from workers.model import Model

__all__ = ["Found", "ModelClass", "find_models"]

ModelClass: TypeAlias = type[Model[Any, Any]]

_TRACEBACK_FRAMES = 2  # the line that failed, and the one that led there


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        models: classes by `name@version`.
        errors: by module name as given: what is wrong with it, for a person. Other modules are served all the same.
    """

    models: dict[str, ModelClass] = field(default_factory=dict[str, ModelClass])
    errors: dict[str, str] = field(default_factory=dict[str, str])


def find_models(named: Sequence[str], serve: Sequence[str] = ()) -> Found:
    """Import modules and find the models that they define.

    Args:
        named: `package.module` for every model defined in it (those it imports do not count), or
            `package.module:Class` for one; a file, or a directory of files; or `entry-points`.
        serve: of the models found, those that are wanted, by name or `name@version`; all, if there are none.

    Returns:
        The models and the errors. Of two models with one `name@version` neither is served: which one it would be
        must not depend on the order of a setting.

    Raises:
        Misconfigured: no module is named, or one of those to serve was not found.
    """
    if not named:
        message = (
            "no models to serve: set FORESEEN_MODELS to the modules that define them, such as "
            "FORESEEN_MODELS=workers.models.file_type (several: comma-separated), or to a directory of model files"
        )
        raise Misconfigured(message)
    found = Found()
    givers: dict[str, list[tuple[str, ModelClass]]] = {}
    for module in _modules(named, found):
        try:
            for model in _models_of(module):
                model.input_schema()  # raises now what the first request would have run into
                model.output_schema()
                givers.setdefault(model.model_id(), []).append((module.name, model))
        except Misconfigured as error:
            found.errors[module.name] = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module can raise anything
            found.errors[module.name] = f"{module.name} does not import:\n{_tail(error)}"
    for model_id, given in givers.items():
        classes = {model for _, model in given}
        if len(classes) == 1:
            found.models[model_id] = given[0][1]
            continue
        names = " and ".join(sorted(f"{model.__module__}:{model.__qualname__}" for model in classes))
        for module_name, _ in given:
            found.errors[module_name] = f"{names} are both {model_id}: give one of them another name or version"
    return _chosen(found, serve)


def _modules(named: Sequence[str], found: Found) -> list[Given]:
    """Return the modules that are named; of what names none, what is wrong goes to the errors."""
    modules: dict[Given, None] = {}
    for each in named:
        try:
            modules.update(dict.fromkeys(expand(each)))
        except Misconfigured as error:
            found.errors[each] = str(error)
    return list(modules)


def _chosen(found: Found, serve: Sequence[str]) -> Found:
    """Leave out what is not to be served."""
    if not serve:
        return found
    chosen = {each: model for each, model in found.models.items() if {each, model.name} & set(serve)}
    missing = [each for each in serve if not any(each in {model_id, model.name} for model_id, model in chosen.items())]
    if missing:
        told = "".join(f"\n{error}" for error in found.errors.values())
        there = ", ".join(found.models) or "nothing"
        raise Misconfigured(f"{', '.join(missing)} is to be served, and was not found: there is {there}{told}")
    return Found(chosen, found.errors)


def _models_of(given: Given) -> list[ModelClass]:
    module_name = given.name
    path, colon, class_name = module_name.partition(":")
    if given.root is not None and str(given.root) not in sys.path:
        sys.path.append(
            str(given.root)
        )  # at the end: a file of a common name would else hide a module that others need
    module = importlib.import_module(path)
    if given.file is not None and Path(module.__file__ or "") != given.file:
        message = f"{given.file} is hidden by another module {path}, {module.__file__}: rename one of them"
        raise Misconfigured(message)
    if colon:
        named: object = getattr(module, class_name, None)
        named = model_of(named) or model_of_task(named) or named
        if not _is_model(named):
            message = f"{module_name} is not a model: {path} has {_listed(_models_in(module)) or 'no model at all'}"
            raise Misconfigured(message)
        return [named]
    models = list(_models_in(module))
    if not models:
        nameless = [cls.__qualname__ for cls in _classes_in(module) if issubclass(cls, Model)]
        why = f": {', '.join(nameless)} has no name or no predict" if nameless else ""
        message = f"{module_name} defines no model{why}; a model is a class such as FileType(Model[bytes, Label])"
        raise Misconfigured(message)
    return models


def _models_in(module: ModuleType) -> Iterator[ModelClass]:
    return (cls for cls in _classes_in(module) if _is_model(cls))


def _classes_in(module: ModuleType) -> Iterator[type]:
    """Yield the classes that a module defines, each once, in its order; the models of functions and tasks are some."""
    values = [model_of(value) or model_of_task(value) or value for value in vars(module).values()]
    classes = dict.fromkeys(value for value in values if inspect.isclass(value))
    return (cls for cls in classes if cls.__module__ == module.__name__)


def _is_model(value: object) -> TypeIs[ModelClass]:
    return inspect.isclass(value) and issubclass(value, Model) and value.is_complete()


def _listed(models: Iterator[ModelClass]) -> str:
    return ", ".join(model.__qualname__ for model in models)


def _tail(error: BaseException) -> str:
    """Return the end of a traceback, without the frames in which Python itself read the file."""
    frames = "".join(traceback.format_exception(error, limit=-_TRACEBACK_FRAMES)).rstrip().splitlines()
    return "\n".join(line for line in frames if not line.startswith('  File "<frozen importlib'))
