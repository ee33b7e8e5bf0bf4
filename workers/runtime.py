"""What a process of a worker holds: settings, models, connections.

Built by the process that starts (Celery's parent) and anew by each process that it forks, since neither connections nor
most frameworks survive a fork.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from foreseen.broker import Publisher
from foreseen.cache import Cache
from foreseen.errors import ModelFailed
from foreseen.flights import Flights, nonce
from foreseen.measures import Measures
from foreseen.settings import Settings
from workers.gathering import Gathering
from workers.isolation import Isolation
from workers.leases import Leases
from workers.model import Model
from workers.registry import ModelClass
from workers.run import Run

if TYPE_CHECKING:
    from workers.spans import Spans

__all__ = ["Runtime", "current", "install", "is_installed"]

log = logging.getLogger("foreseen.worker")


class Runtime:
    """One process's part of a worker.

    Args:
        settings: of the deployment.
        models: classes by `name@version`.
        parent: the runtime of the process that this one was forked from.
    """

    def __init__(self, settings: Settings, models: dict[str, ModelClass], parent: Runtime | None = None) -> None:
        self.settings = settings
        self.models = models
        self.flights = Flights(settings)
        #: The channel that the worker listens to, in the process that starts, for as long as it lives.
        self.channel: str = parent.channel if parent else self.flights.space.worker(nonce())
        self.isolation: Isolation = parent.isolation if parent else Isolation()
        self.cache = Cache(settings)
        self.publisher = Publisher(settings)
        self.measures = Measures()
        #: Where there is tracing: in a process that computes, once it has started.
        self.spans: Spans | None = None
        #: Renews what is computed here, in the process that starts, once it has started.
        self.leases: Leases | None = None
        #: Several messages are computed at once in this process, by threads that may put them together.
        self.shares_calls = False
        self._gatherings: dict[str, Gathering[Run]] = {}
        self._loaded: dict[str, Model[Any, Any] | ModelFailed] = {}
        self._loading = threading.Lock()

    def anew(self) -> Runtime:
        """Return the same with connections and models of its own, for a forked process."""
        return Runtime(self.settings, self.models, parent=self)

    def load(self) -> None:
        """Load every model, in the process that computes."""
        for model_id in self.models:
            self.model(model_id)

    def model(self, model_id: str) -> Model[Any, Any] | ModelFailed:
        """Return a loaded model, or why it could not be loaded."""
        loaded = self._loaded.get(model_id)
        if loaded is None:
            with self._loading:
                loaded = self._loaded.get(model_id)
                if loaded is None:
                    loaded = self._loaded[model_id] = self._load(model_id)
        return loaded

    def gathering(self, model_id: str) -> Gathering[Run]:
        """Return where the threads of this process put together what they bring for a model."""
        gathering = self._gatherings.get(model_id)
        if gathering is None:
            gathering = self._gatherings.setdefault(model_id, Gathering(self.models[model_id].batching))
        return gathering

    def _load(self, model_id: str) -> Model[Any, Any] | ModelFailed:
        try:
            model = self.models[model_id]()
            model.load()
        except Exception as error:
            log.exception("%s could not be loaded", model_id)
            kind = type(error).__qualname__
            return ModelFailed(f"{model_id} could not be loaded: {kind}: {error}", {"type": kind, "stage": "load"})
        log.info("%s is loaded", model_id)
        return model


_current: Runtime | None = None


def install(runtime: Runtime) -> None:
    """Make this the process's runtime."""
    global _current  # noqa: PLW0603 - Celery builds tasks and requests itself: there is nothing to hand it to
    _current = runtime


def is_installed() -> bool:
    """Tell whether this is a worker's process."""
    return _current is not None


def current() -> Runtime:
    """Return the process's runtime.

    Raises:
        RuntimeError: no worker was started in this process.
    """
    if _current is None:
        message = "no worker was started in this process: predictions run in `celery -A workers worker`"
        raise RuntimeError(message)
    return _current
