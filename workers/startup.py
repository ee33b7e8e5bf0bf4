"""What happens when a worker starts and stops, hung into Celery's signals.

parent    celeryd_init: look at the servers, find the models, name their queues; after_setup_logger: write JSON, if that
          is wanted; celeryd_after_setup: say what was found; worker_ready: heartbeat, leases and presence, and queues
          are consumed as their models are loaded
children  worker_process_init: connections of their own, load the models and warm them up, measure;
          worker_process_shutdown: tell
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.apps.worker import Worker
from celery.worker.control import Panel, control_command
from pydantic import ValidationError

from foreseen.broker import queue_for
from foreseen.checks import at_start, is_fatal
from foreseen.checks.check import Finding, Severity
from foreseen.errors import Misconfigured
from foreseen.inflation import refuse_compression
from foreseen.keys import KeySpace
from foreseen.logs import JsonFormatter
from foreseen.settings import Settings
from foreseen.transport import Transport
from foreseen.worker_cards import WorkerCard
from workers import request, runtime
from workers.celery import app
from workers.consuming import Consuming
from workers.heartbeat import Heartbeat, card_of, card_of_worker
from workers.home import Home
from workers.leases import Leases
from workers.measuring import Measuring
from workers.pinning import followed, pin
from workers.presence import Presence
from workers.registry import find_models
from workers.rejections import rejections
from workers.reloading import Reloading
from workers.serving import Serving, State
from workers.succession import Succession

if TYPE_CHECKING:
    from workers.spans import Spans

__all__: list[str] = []

log = logging.getLogger("foreseen.worker")

_running: list[Heartbeat | Leases | Presence] = []
_measuring: list[Measuring] = []
_serving: Serving | None = None
_reloading: Reloading | None = None
_findings: list[Finding] = []
_not_looked_at: list[str] = []

#: How often the parent looks for children that died. A child's pipe closes just before its exit status can be read, so
#: Celery, which looks when the pipe closes, often misses the death and then sees it only at its own beat of 5 s; until
#: then the parent would renew the leases of a process that is gone.
_DEAD_CHILDREN_S = 0.5


class _Children(bootsteps.StartStopStep):
    """Makes Celery's event loop hear what children tell, and look for dead ones often enough for a short lease."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Consume no queue yet: each is begun with once its model is loaded."""
        parent.app.amqp.queues.deselect([*parent.app.amqp.queues.consume_from])

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Celery calls this each time it (re)starts its loop."""
        hub.call_repeatedly(_DEAD_CHILDREN_S, worker.pool.maintain_pool)
        if _serving is not None:
            hub.add_reader(_serving.fileno(), _serving.look)
        hub.call_repeatedly(_DEAD_CHILDREN_S, _tick)


app.steps["worker"].add(_Children)  # pyright: ignore[reportOptionalSubscript] - every app has steps


def _tick() -> None:
    if _reloading is not None:
        _reloading.tick()


@control_command()
def foreseen_reload(state: Any) -> dict[str, Any]:
    """Serve what the modules that FORESEEN_MODELS names hold now; for `foreseen models reload`."""
    del state
    return _reloading.begin() if _reloading is not None else {"errors": {"": "the worker has not started yet"}}


# Celery's own, which would import any module that a message names.
Panel.data.pop("pool_restart")


@signals.celeryd_init.connect(weak=False)
def _choose_models(conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Find what to serve. Celery only logs what a handler raises, so a refusal ends the process itself."""
    global _serving  # noqa: PLW0603 - Celery makes its steps itself: there is nothing to hand it to
    try:
        settings = Settings()
        _check_broker(settings)
        _check_tracing(settings)
        _check_servers(settings)
        _look_here()
        if serve := options.get("serve"):
            os.environ["FORESEEN_SERVE"] = serve  # for processes that are not forked, too
            settings = Settings()
        found = pin(find_models(settings.models, settings.serve), settings)
        app.set_current()  # a module with models may have an application of its own, which its import made current
        for error in found.errors.values():
            log.error("%s", error)
        if not found.models:
            raise Misconfigured("no model to serve: see above")  # noqa: TRY301 - one place that refuses
    except (Misconfigured, ValidationError) as error:
        sys.exit(f"foreseen: {error}")
    refuse_compression()
    Transport.restores = True
    Transport.on_refused = rejections.note  # of what is no message at all
    here = runtime.Runtime(settings, found.models)
    runtime.install(here)
    here.home.leave_word()
    _serving = Serving(here.home.pipe, found.models)
    conf.worker_pool_restarts = True  # processes of a pool can be told to end once they have computed what they do
    conf.task_queues = [queue_for(settings, here.flights.space.queue(model_id)) for model_id in found.models]


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


@signals.celeryd_after_setup.connect(weak=False)
def _share_memory(**_: Any) -> None:
    """Keep the collector from what was imported: to walk it in each child would copy it there."""
    gc.freeze()


@signals.celeryd_after_setup.connect(weak=False)
def _heed_queues(instance: Any, **_: Any) -> None:
    """Leave out models whose queues are not among those that Celery's own option `-Q` chooses, where it is given."""
    here, chosen = runtime.current(), instance.app.amqp.queues.consume_from
    assert _serving is not None  # noqa: S101 - for the type checker: made before
    for model_id in [each for each in here.models if here.flights.space.queue(each) not in chosen]:
        del here.models[model_id], _serving.lives[model_id]


@signals.worker_process_init.connect(weak=False)
def _load_in_child(**_: Any) -> None:
    """Prefork's children, and solo's one process: what computes loads."""
    runtime.install(runtime.current().anew() if runtime.is_installed() else _started_anew())
    runtime.current().load()
    _spare_collector()
    _watch_here()


@signals.worker_process_shutdown.connect(weak=False)
def _stop_in_child(**_: Any) -> None:
    """Hand back what waits, and tell what is left."""
    runtime.current().close()
    for thread in _measuring:
        thread.stop()
    _close_spans()


def _started_anew() -> runtime.Runtime:
    """Return the runtime of a process that was not forked (`spawn`), and so has nothing of its parent's memory."""
    settings = Settings()
    _look_here()
    refuse_compression()
    found = pin(find_models(settings.models, settings.serve), settings)
    app.set_current()
    return runtime.Runtime(settings, found.models, Home.inherited(KeySpace(settings.namespace)))


@signals.worker_ready.connect(weak=False)
def _go(sender: Any, **_: Any) -> None:
    here, serving = runtime.current(), _serving
    assert serving is not None  # noqa: S101 - for the type checker: made before anything else
    # Else Celery writes the first kilobyte of what it hands to the pool into a log of level DEBUG.
    sender.pool._does_debug = False  # noqa: SLF001 - there is no other way
    if type(sender.pool).__module__ == "celery.concurrency.thread":  # sends no worker_process_init: it computes here
        here.load()
        if isinstance(sender.controller, Worker):  # and not a part of somebody's process
            _spare_collector()
        _watch_here()
        here.shares_calls = sender.pool.limit > 1
    leases = Leases(here.flights, here.cache)
    request.use_leases(leases)
    here.leases = leases
    cards = [card_of(model, here.flights) for model in here.models.values()]

    settings = here.settings
    consuming = Consuming(sender, settings)
    succession = Succession(here.cache, settings, list(here.models), consuming.start, consuming.stop)

    def worker() -> WorkerCard:
        return card_of_worker(here.home.name, sender.hostname, sender.pool, serving, succession)

    heartbeat = Heartbeat(
        here.cache, here.flights, serving, cards, succession, here.home.name, worker,
        settings.heartbeat_s, promote=settings.promote, followed=followed(here.models.values()),
    )  # fmt: skip
    _running[:] = [leases, heartbeat, Presence(here.cache, here.home.channel)]
    for thread in _running:
        thread.start()

    def follow(model_id: str) -> None:
        life = serving.lives[model_id]
        if life.state is State.FAILED:
            log.error("%s is not served here: %s", model_id, life.error)
        (consuming.start if serving.is_served(model_id) else consuming.stop)(here.flights.space.queue(model_id))
        heartbeat.hurry()

    serving.follow(follow)
    global _reloading  # noqa: PLW0603 - as above
    _reloading = Reloading(here, sender.pool, serving, heartbeat, succession, consuming, leases)


@signals.worker_shutdown.connect(weak=False)
def _stop(**_: Any) -> None:
    runtime.current().close()
    for thread in (*_running, *_measuring):
        thread.stop()
    _close_spans()
    runtime.current().home.remove()


def _spare_collector() -> None:
    """Have it leave alone what is loaded, for good; else it walks all of it once in some ten thousand items."""
    gc.collect()
    gc.freeze()


def _look_here() -> None:
    """Find model files where the worker is started, as Celery has taught everybody."""
    if (folder := os.getcwd()) not in sys.path:  # noqa: PTH109 - as text, as sys.path holds it
        sys.path.insert(0, folder)


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
