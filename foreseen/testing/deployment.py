"""A deployment in one process: an embedded server, a worker on threads, and producers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from foreseen.embedded import EmbeddedServer
from foreseen.errors import Misconfigured
from foreseen.settings import Settings
from producer import Producer

if TYPE_CHECKING:
    from workers.in_process import InProcessWorker
    from workers.model import Model

__all__ = ["Deployment", "Served"]

Served: TypeAlias = "str | type[Model[Any, Any]] | Callable[..., Any]"
"""A module, as FORESEEN_MODELS takes it; or a model of a module that is imported."""

_FOREIGN: Final = ("FORESEEN_", "_FORESEEN_", "CELERY_")  # the second: what a worker tells its processes


class Deployment:
    """Everything that a deployment has, in this process; one at a time. Starts in under a second, and leaves nothing.

    While it is open, the environment says where its server is, and nothing else of the caller's that could change it:
    an application's own `Producer()` finds it too.

    Args:
        models: what the worker serves.
        threads: of the worker, that compute.
        **settings: of `foreseen.settings.Settings`, such as `lease_s=1.0`.
    """

    def __init__(self, models: Sequence[Served], *, threads: int = 4, **settings: Any) -> None:
        self._models = tuple(map(_named, models))
        self._threads = threads
        self._given = settings
        self._settings: Settings | None = None
        self._worker: InProcessWorker | None = None
        self._stack = contextlib.ExitStack()

    @property
    def settings(self) -> Settings:
        """Its settings, such as the servers' URLs.

        Raises:
            Misconfigured: it is not open.
        """
        if self._settings is None:
            raise Misconfigured("the deployment is not open: with Deployment([...]) as deployment:")
        return self._settings

    def open(self) -> Self:
        """Start the server and the worker; returns once models are loaded and warmed up.

        Raises:
            Misconfigured: there is no server to embed, or no model to serve; says why.
            ModelFailed: a model could not be loaded or warmed up.
        """
        from workers.in_process import InProcessWorker

        with contextlib.ExitStack() as stack:
            server = stack.enter_context(EmbeddedServer())
            given = {"broker_url": server.url(0), "cache_url": server.url(1), **self._given}
            stack.callback(_set_environment, _set_environment(_as_environment({**given, "models": self._models})))
            self._settings = Settings()
            self._worker = InProcessWorker(self._threads)
            stack.callback(self._worker.stop)
            self._worker.start()
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """End the worker, then the server."""
        self._settings = None
        self._stack.close()

    def producer(self) -> Producer:
        """Return a producer of its own; close it."""
        return Producer(self.settings)

    def forget(self) -> None:
        """Purge every model that is served, so that what comes is computed."""
        from workers import runtime

        with self.producer() as producer:
            for model_id in runtime.current().models:
                producer.purge(model_id)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


def _named(model: Served) -> str:
    """Return a model's name as FORESEEN_MODELS takes it."""
    if isinstance(model, str):
        return model
    module, name = model.__module__, model.__qualname__
    if "." in name:
        raise Misconfigured(f"{name} is not a module's own: a worker finds models by module and name")
    return f"{module}:{name}"


def _as_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return settings as `FORESEEN_*`."""
    return {
        f"FORESEEN_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.items()
    }


def _set_environment(wanted: dict[str, str]) -> dict[str, str]:
    """Put these variables in the place of all that settings are read from; return those that were."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_FOREIGN)}
    for name in before:
        del os.environ[name]
    os.environ.update(wanted)
    return before
