"""What happens when a worker starts and stops, hung into Celery's signals.

parent    celeryd_init: look at the servers, find the models, choose the queues; after_setup_logger: write JSON, if that
          is wanted; celeryd_after_setup: say what was found; worker_ready: heartbeat, leases and presence
children  worker_process_init: connections of their own, load the models, measure; worker_process_shutdown: tell
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from pydantic import ValidationError

from foreseen.broker import queue_for
from foreseen.checks import at_start, is_fatal
from foreseen.checks.check import Finding, Severity
from foreseen.errors import Misconfigured
from foreseen.inflation import refuse_compression
from foreseen.logs import JsonFormatter
from foreseen.settings import Settings
from foreseen.transport import Transport
from workers import request, runtime
from workers.celery import app
from workers.heartbeat import Heartbeat, card_of
from workers.leases import Leases
from workers.measuring import Measuring
from workers.presence import Presence
from workers.registry import find_models
from workers.rejections import rejections

if TYPE_CHECKING:
    from workers.spans import Spans

__all__: list[str] = []

log = logging.getLogger("foreseen.worker")

_running: list[Heartbeat | Leases | Presence] = []
_measuring: list[Measuring] = []
_findings: list[Finding] = []
_not_looked_at: list[str] = []

#: How often the parent looks for children that died. A child's pipe closes just before its exit status can be read, so
#: Celery, which looks when the pipe closes, often misses the death and then sees it only at its own beat of 5 s; until
#: then the parent would renew the leases of a process that is gone.
_DEAD_CHILDREN_S = 0.5


class _DeadChildren(bootsteps.StartStopStep):
    """Makes Celery's event loop look for dead children often enough for a short lease."""

    requires = ("celery.worker.components:Pool",)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Celery calls this each time it (re)starts its loop."""
        hub.call_repeatedly(_DEAD_CHILDREN_S, worker.pool.maintain_pool)


app.steps["worker"].add(_DeadChildren)  # pyright: ignore[reportOptionalSubscript] - every app has steps


@signals.celeryd_init.connect(weak=False)
def _choose_models(conf: Any, **_: Any) -> None:
    """Find what to serve. Celery only logs what a handler raises, so a refusal ends the process itself."""
    try:
        settings = Settings()
        _check_broker(settings)
        _check_tracing(settings)
        _check_servers(settings)
        if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - as text, as sys.path holds it
            sys.path.insert(0, here)  # a model file lies where the worker is started, as Celery has taught everybody
        found = find_models(settings.models)
        for error in found.errors.values():
            log.error("%s", error)
        if not found.models:
            raise Misconfigured("no model to serve: see above")  # noqa: TRY301 - one place that refuses
    except (Misconfigured, ValidationError) as error:
        sys.exit(f"foreseen: {error}")
    refuse_compression()
    Transport.restores = True
    Transport.on_refused = rejections.note  # of what is no message at all
    runtime.install(runtime.Runtime(settings, found.models))
    space = runtime.current().flights.space
    conf.task_queues = [queue_for(settings, space.queue(model_id)) for model_id in found.models]


@signals.after_setup_logger.connect(weak=False)
@signals.after_setup_task_logger.connect(weak=False)
def _write_json(logger: logging.Logger, **_: Any) -> None:
    """Write the log as the deployment wants it: Celery has just made its handlers."""
    if runtime.is_installed() and runtime.current().settings.log_format == "json":
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())


@signals.celeryd_after_setup.connect(weak=False)
def _tell_findings(**_: Any) -> None:
    """Say what was found as soon as there is a log."""
    for finding in _findings:
        level = logging.WARNING if finding.severity is Severity.PROBLEM else logging.INFO
        log.log(level, "%s. %s %s", finding.seen, finding.means, finding.fix)
    for reason in _not_looked_at:
        log.debug("could not be checked: %s", reason)


@signals.worker_process_init.connect(weak=False)
def _load_in_child(**_: Any) -> None:
    """Prefork's children, and solo's one process: what computes loads."""
    runtime.install(runtime.current().anew())
    runtime.current().load()
    _watch_here()


@signals.worker_process_shutdown.connect(weak=False)
def _stop_in_child(**_: Any) -> None:
    """Tell what is left."""
    for thread in _measuring:
        thread.stop()
    _close_spans()


@signals.worker_ready.connect(weak=False)
def _go(sender: Any, **_: Any) -> None:
    here = runtime.current()
    # Else Celery writes the first kilobyte of what it hands to the pool into a log of level DEBUG.
    sender.pool._does_debug = False  # noqa: SLF001 - there is no other way
    if type(sender.pool).__module__ == "celery.concurrency.thread":  # sends no worker_process_init: it computes here
        here.load()
        _watch_here()
        here.shares_calls = sender.pool.limit > 1
    leases = Leases(here.flights, here.cache)
    request.use_leases(leases)
    here.leases = leases
    cards = [card_of(model, here.flights) for model in here.models.values()]
    heartbeat = Heartbeat(here.cache, here.flights, cards, here.settings.heartbeat_s, promote=here.settings.promote)
    _running[:] = [leases, heartbeat, Presence(here.cache, here.channel)]
    for thread in _running:
        thread.start()


@signals.worker_shutdown.connect(weak=False)
def _stop(**_: Any) -> None:
    for thread in (*_running, *_measuring):
        thread.stop()
    _close_spans()
    runtime.current().isolation.remove()


def _watch_here() -> None:
    """Measure in this process, which computes, and trace, if that is wanted."""
    here = runtime.current()
    if here.settings.tracing:
        here.spans = _spans()
    _measuring[:] = [Measuring(here.cache, here.flights, here.measures)]
    for thread in _measuring:
        thread.start()


def _spans() -> Spans:
    from workers.spans import Spans, open_provider

    open_provider()
    return Spans()


def _close_spans() -> None:
    if runtime.current().spans is not None:
        from workers.spans import close_provider

        close_provider()


def _check_broker(settings: Settings) -> None:
    """Refuse a broker that producers would not use: Celery lets variables of its own override the worker's alone."""
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        override = os.environ.get(name)
        if override is not None and override != settings.broker_url:
            raise Misconfigured(
                f"{name} and FORESEEN_BROKER_URL name different brokers: workers would listen where no producer sends. "
                f"Unset {name}."
            )


def _check_tracing(settings: Settings) -> None:
    if settings.tracing and importlib.util.find_spec("opentelemetry.sdk") is None:
        raise Misconfigured("FORESEEN_TRACING needs OpenTelemetry: pip install 'foreseen[tracing]'")


def _check_servers(settings: Settings) -> None:
    """Look at the servers as `foreseen doctor` does; refuse only those with which the protocol cannot hold."""
    _findings[:], _not_looked_at[:] = at_start(settings)
    for finding in _findings:
        if is_fatal(finding):
            raise Misconfigured(f"{finding.seen}. {finding.means} {finding.fix}")
