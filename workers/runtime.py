"""What a process of a worker holds: settings, models, connections.

Built by the process that starts (Celery's parent) and anew by each process that it forks, since neither connections nor
most frameworks survive a fork.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from foreseen.broker import Publisher
from foreseen.cache import Cache
from foreseen.client.sync import SyncClient
from foreseen.errors import Misconfigured, ModelFailed
from foreseen.holding import HolderFlights
from foreseen.measures import Measures
from foreseen.settings import Settings
from workers.gathering import Gathering
from workers.home import Home
from workers.isolation import Isolation
from workers.leases import Leases
from workers.model import Model
from workers.registry import ModelClass
from workers.run import Run
from workers.serving import tell
from workers.warm_up import warm_up

if TYPE_CHECKING:
    from workers.spans import Spans
    from workers.waiting import Waiting

__all__ = ["Runtime", "current", "install", "is_installed"]

log = logging.getLogger("foreseen.worker")

_RELOAD: Final = "start the worker again, and what they hold now is a version of its own"


class Runtime:
    """One process's part of a worker.

    Args:
        settings: of the deployment.
        models: classes by `name@version`.
        home: of the worker; a new one if not given.
    """

    def __init__(self, settings: Settings, models: dict[str, ModelClass], home: Home | None = None) -> None:
        self.settings = settings
        self.models = models
        self.flights = HolderFlights(settings)
        self.home = home or Home.make(self.flights.space)
        self.isolation = Isolation(self.home.directory)
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
        self._loading = threading.RLock()  # a model loads its stage
        self._stages = {
            model.preprocess.model_id(): model.preprocess for model in models.values() if model.preprocess is not None
        }
        self._client: SyncClient | None = None
        self._own_leases: Leases | None = None
        self._waiting: Waiting | None = None
        self._opening = threading.Lock()

    def anew(self) -> Runtime:
        """Return the same with connections and models of its own, for a forked process."""
        return Runtime(self.settings, self.models, self.home)

    def load(self) -> None:
        """Load every model, and warm it up, in the process that computes."""
        for model_id in list(self.models):
            self.model(model_id)

    def model(self, model_id: str) -> Model[Any, Any] | ModelFailed:
        """Return a model that is loaded and warmed up, or why it could not be."""
        loaded = self._loaded.get(model_id)
        if loaded is None:
            with self._loading:
                loaded = self._loaded.get(model_id)
                if loaded is None:
                    loaded = self._loaded[model_id] = self._load(model_id)
        return loaded

    def client(self) -> SyncClient:
        """Return this process's client, by which it asks for predictions itself; opened when it is first needed.

        Raises:
            CacheUnavailable: it cannot be opened.
        """
        with self._opening:
            if self._client is None:
                # Whoever asks here minds what it may wait for, and keeps nothing that the cache keeps already.
                client = SyncClient(
                    self.settings.model_copy(
                        update={"model_wait_s": 0.0, "buffer_s": 0.0, "near_cache_bytes": 0, "audit_share": 0.0}
                    )
                )
                client.open()
                self._client = client
            return self._client

    def own_leases(self) -> Leases:
        """Return what renews leases of this process's own: of flights that no delivery holds."""
        with self._opening:
            if self._own_leases is None:
                self._own_leases = Leases(self.flights, self.cache)
                self._own_leases.start()
            return self._own_leases

    def waiting(self) -> Waiting:
        """Return where this process's ensembles wait for their members."""
        from workers.waiting import Waiting  # which needs this module

        with self._opening:
            if self._waiting is None:
                self._waiting = Waiting(self)
            return self._waiting

    def close(self) -> None:
        """Hand back what waits here, and close what was opened in this process for itself."""
        if self._waiting is not None:
            self._waiting.close()
        with self._opening:
            if self._own_leases is not None:
                self._own_leases.stop()
            if self._client is not None:
                self._client.close()
            self._own_leases = self._client = None

    def unload(self, model_id: str) -> None:
        """Let go of a model that nothing computes with any more."""
        self.models = {each: model for each, model in self.models.items() if each != model_id}
        loaded = self._loaded.pop(model_id, None)
        self._gatherings.pop(model_id, None)
        if isinstance(loaded, Model):
            try:
                loaded.unload()
            except Exception:  # what is gone cannot fail anybody
                log.exception("%s could not be unloaded", model_id)

    def gathering(self, model_id: str) -> Gathering[Run]:
        """Return where the threads of this process put together what they bring for a model."""
        gathering = self._gatherings.get(model_id)
        if gathering is None:
            gathering = self._gatherings.setdefault(model_id, Gathering(self.models[model_id].batching))
        return gathering

    def _load(self, model_id: str) -> Model[Any, Any] | ModelFailed:
        began, done = time.monotonic(), "loaded"
        try:
            model = (self.models.get(model_id) or self._stages[model_id])()
            stage = model.preprocess
            if (
                stage is not None
                and not stage.apart
                and isinstance(failed := self.model(stage.model_id()), ModelFailed)
            ):
                raise failed  # noqa: TRY301 - one place that tells
            model.load()
            if not model.is_what_it_was():  # else it would answer under a version that it is not
                raise Misconfigured(f"files of {model_id} have changed since the worker found them: {_RELOAD}")  # noqa: TRY301
            done = "warmed up"
            warm_up(model)
        except Exception as error:
            log.exception("%s could not be %s", model_id, done)
            kind = type(error).__qualname__
            failed = ModelFailed(f"{model_id} could not be {done}: {kind}: {error}", {"type": kind, "stage": "load"})
            tell(self.home.pipe, model_id, began, str(failed))
            return failed
        log.info("%s is loaded", model_id)
        tell(self.home.pipe, model_id, began)
        return model


_current: Runtime | None = None


def install(runtime: Runtime) -> None:
    """Make this the process's runtime."""
    global _current  # noqa: PLW0603 - Celery builds tasks and requests itself: there is nothing to hand it to
    _current = runtime


def is_installed() -> bool:
    """Tell whether this process has one, its own or that of the process that it was forked from."""
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
