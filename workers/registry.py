"""The registry: finds the models that a worker is to serve."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

from typing_extensions import TypeIs

from foreseen.errors import Misconfigured
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


def find_models(module_names: Sequence[str]) -> Found:
    """Import modules and find the models that they define.

    Args:
        module_names: `package.module` for every model defined in it (those it imports do not count), or
            `package.module:Class` for one; with each model the stage that it is over, unless that is apart.

    Returns:
        The models and the errors. Of two models with one `name@version` neither is served: which one it would be
        must not depend on the order of a setting.

    Raises:
        Misconfigured: no module is named.
    """
    if not module_names:
        message = (
            "no models to serve: set FORESEEN_MODELS to the modules that define them, "
            "such as FORESEEN_MODELS=workers.models.file_type (several: comma-separated)"
        )
        raise Misconfigured(message)
    found = Found()
    givers: dict[str, list[tuple[str, ModelClass]]] = {}
    for module_name in dict.fromkeys(module_names):
        try:
            for model in _models_of(module_name):
                model.input_schema()  # raises now what the first request would have run into
                model.output_schema()
                stage = model.preprocess
                for one in (model,) if stage is None or stage.apart else (model, stage):
                    givers.setdefault(one.model_id(), []).append((module_name, one))
        except Misconfigured as error:
            found.errors[module_name] = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module can raise anything
            found.errors[module_name] = f"{module_name} does not import:\n{_tail(error)}"
    for model_id, given in givers.items():
        classes = {model for _, model in given}
        if len(classes) == 1:
            found.models[model_id] = given[0][1]
            continue
        names = " and ".join(sorted(f"{model.__module__}:{model.__qualname__}" for model in classes))
        for module_name, _ in given:
            found.errors[module_name] = f"{names} are both {model_id}: give one of them another name or version"
    return found


def _models_of(module_name: str) -> list[ModelClass]:
    path, colon, class_name = module_name.partition(":")
    module = importlib.import_module(path)
    if colon:
        named: object = getattr(module, class_name, None)
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
    """Yield the classes that a module defines, each once, in the order of its text."""
    classes = dict.fromkeys(value for value in vars(module).values() if inspect.isclass(value))
    return (cls for cls in classes if cls.__module__ == module.__name__)


def _is_model(value: object) -> TypeIs[ModelClass]:
    return inspect.isclass(value) and issubclass(value, Model) and value.is_complete()


def _listed(models: Iterator[ModelClass]) -> str:
    return ", ".join(model.__qualname__ for model in models)


def _tail(error: BaseException) -> str:
    """Return the end of a traceback, without the frames in which Python itself read the file."""
    frames = "".join(traceback.format_exception(error, limit=-_TRACEBACK_FRAMES)).rstrip().splitlines()
    return "\n".join(line for line in frames if not line.startswith('  File "<frozen importlib'))
