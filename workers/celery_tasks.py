"""Models that are tasks of a Celery application, of the base that `producer.celery` has for them: served beside others.

Such a task is known by a mark, since workers import nothing of the producer's side, nor the application's base.
"""

from __future__ import annotations

import inspect
import types
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from foreseen.errors import InputRefused, Misconfigured
from workers.model import Model
from workers.policies import Batching

__all__ = ["model_of_task"]

_MARK: Final = "__foreseen_task__"
#: What a task may say as a model does.
_SAID: Final = ("files", "examples", "cache", "limits")  # not `retry`, which is Celery's method


def model_of_task(value: object) -> type[Model[Any, Any]] | None:
    """Return the model that a task of a Celery application is, or None for what is no such task.

    Its input is the arguments of a call, by name; of a call with what does not fit, the failure is that one's.

    Raises:
        Misconfigured: it is one, and cannot be a model; says why.
    """
    if inspect.isclass(value) or getattr(value, _MARK, None) is not True:  # the base itself is none
        return None
    return _model_of(value)


@cache
def _model_of(task: Any) -> type[Model[Any, Any]]:
    _, _, version = task.model.partition("@")
    body = {
        "__module__": task.run.__module__,
        "__qualname__": getattr(task.run, "__qualname__", task.name),
        "__doc__": task.run.__doc__,
        "name": task.model_name,
        "batching": Batching(max_wait_s=0),  # calls of a task are one by one: together they would gain nothing
        "predict": _predict_with(task),
        **{name: getattr(task, name) for name in _SAID if getattr(task, name, None) is not None},
    }
    if version:
        body["version"] = version
    if inspect.iscoroutinefunction(task.run):
        raise Misconfigured(f"task {task.name}: a model is made of a plain function, not of a coroutine")
    bases = (Model[dict[str, Any], Any],)
    return types.new_class(task.run.__name__, bases, exec_body=lambda made: made.update(body))


def _predict_with(task: Any) -> Any:
    signature: inspect.Signature = task.input_signature

    def predict(self: Model[Any, Any], batch: Sequence[Mapping[str, Any]]) -> list[Any]:
        outputs: list[Any] = []
        for given in batch:
            if unknown := given.keys() - signature.parameters.keys():
                known = ", ".join(signature.parameters)
                outputs.append(InputRefused(f"{self.model_id()} takes {known}, and not {', '.join(sorted(unknown))}"))
                continue
            call = inspect.BoundArguments(signature, OrderedDict(given))
            try:
                outputs.append(task.run(*call.args, **call.kwargs))
            except MemoryError:  # says something of the process, not of the input
                raise
            except Exception as error:  # noqa: BLE001 - it stands in its item's place; the others need not run again
                outputs.append(error)
        return outputs

    return predict
