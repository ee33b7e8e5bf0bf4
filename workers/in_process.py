"""A worker in this process, on a thread: Celery's own, with all that a worker does, for tests and tools.

What it computes runs on threads of this process, so a breakpoint, a coverage tool and a patched attribute reach it.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from typing import Any, Final

from celery import _state, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import WorkController, state

from foreseen.errors import Misconfigured, ModelFailed
from workers import runtime
from workers.celery import app

__all__ = ["InProcessWorker"]

_SETTINGS: Final = "foreseen.celery_settings"
#: To load models and to connect; and to finish what is being computed.
_START_S: Final = 120.0
_STOP_S: Final = 30.0


class _Controller(WorkController):
    """Celery's worker without what only a process of its own may do: signals, logging, a banner."""

    def __init__(self, **options: Any) -> None:
        self.ready = threading.Event()
        super().__init__(**options)

    def on_before_init(self, **options: Any) -> None:
        """Begin as `celery worker` does: `workers.startup` finds the models here."""
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=app.conf, options=options)

    def on_consumer_ready(self, consumer: Any) -> None:
        """It consumes."""
        signals.worker_ready.send(sender=consumer)
        self.ready.set()


class InProcessWorker:
    """A worker of this process; one at a time. Settings are read from the environment when it starts.

    Args:
        threads: that compute.
    """

    def __init__(self, threads: int = 4) -> None:
        self._threads = threads
        self._controller: _Controller | None = None
        self._thread: threading.Thread | None = None
        self._default_app: Any = None

    def start(self) -> None:
        """Start it; returns once it consumes, with every model loaded and warmed up. If this raises, `stop` it.

        Raises:
            Misconfigured: it refuses the settings, or has no model to serve; says why.
            ModelFailed: a model could not be loaded or warmed up.
        """
        _read_settings_again()
        self._default_app = _state.default_app
        _state.set_default_app(app)  # which is the one that Celery runs tasks of, on threads that know of none
        try:
            self._controller = _Controller(
                app=app,
                hostname=f"in-process@{os.getpid()}",
                pool="threads",
                concurrency=self._threads,
                without_heartbeat=True,
                without_mingle=True,
                without_gossip=True,
            )
        except SystemExit as refusal:  # how `workers.startup` refuses, since Celery only logs what a handler raises
            raise Misconfigured(str(refusal.code).removeprefix("foreseen: ")) from None
        self._thread = threading.Thread(target=self._controller.start, name="foreseen-worker", daemon=True)
        self._thread.start()
        if not self._controller.ready.wait(_START_S):
            raise Misconfigured(f"the worker was not ready within {_START_S:g} s; its log says why")
        for model_id in runtime.current().models:
            model = runtime.current().model(model_id)
            if isinstance(model, ModelFailed):
                raise model

    def stop(self) -> None:
        """End it once what it computes has ended; its connections are closed."""
        if self._thread is not None:
            state.should_stop = 0  # a warm shutdown, with this exit status
            try:
                self._thread.join(_STOP_S)
            finally:
                state.should_stop = None
                self._thread = self._controller = None
                here = runtime.current()
                for model_id in [*here.models]:
                    here.unload(model_id)
                here.cache.close()
                here.publisher.close()
        _state.set_default_app(self._default_app)


def _read_settings_again() -> None:
    """Have Celery's app of this process take its settings from the environment as it is now."""
    if _SETTINGS in sys.modules:
        importlib.reload(sys.modules[_SETTINGS])
    with warnings.catch_warnings():  # of a setting that this release of Celery needs, and a later one will not
        warnings.simplefilter("ignore", CPendingDeprecationWarning)
        app.config_from_object(_SETTINGS, force=True)
    app.__dict__.pop("amqp", None)  # queues and routes as of the last settings
    app._pool = None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as Celery itself does after a fork
    app.loader.import_default_modules()
