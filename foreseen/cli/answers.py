"""What `foreseen doctor` finds around itself, and what workers answer when they are asked through the broker."""

from __future__ import annotations

import importlib
import importlib.util
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any, Final

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from foreseen.checks.facts import Answer, NotTold, Place
from foreseen.settings import Settings
from foreseen.tls import broker_address

__all__ = ["ask_workers", "look_around"]

#: A worker answers in milliseconds unless its loop is busy; each of two questions waits so long for all answers.
_ANSWER_S: Final = 1.0
#: What Celery reads beside its settings, and what it overrides.
_VARIABLES: Final = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
#: Settings of `foreseen.celery_settings` that a deployment may not change.
_NEEDED: Final = (
    "accept_content", "task_serializer", "task_acks_late", "task_acks_on_failure_or_timeout", "task_acks_on_failure",
    "task_acks_on_timeout", "task_reject_on_worker_lost", "worker_cancel_long_running_tasks_on_connection_loss",
)  # fmt: skip
_VISIBILITY: Final = "visibility_timeout"


def look_around(environment: Mapping[str, str]) -> Place:
    """Look at the environment, the packages, and Celery's settings as a worker that is started here would."""
    from foreseen.cli.up.inspection import shadowed

    brokers = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    with _from_here():
        hidden = shadowed()
        if hidden is not None:
            return Place(brokers, {}, "workers or producer is hidden", hidden, _installed_config())
        try:
            needed, configured = _celery_settings()
        except _NotInstalled:
            return Place(brokers, {}, installed_config=_installed_config())
        except Exception as error:  # noqa: BLE001 - the user's own module may raise anything
            unreadable = f"{environment.get('CELERY_CONFIG_MODULE') or 'foreseen.celery_settings'}: {error}"
            return Place(brokers, {}, unreadable, None, _installed_config())
    return Place(configured | brokers, needed, installed_config=_installed_config())


def ask_workers(settings: Settings) -> tuple[Answer, ...]:
    """Ask every worker on the broker's database what it does: two rounds of a second at most each.

    Raises:
        NotTold: they could not be asked; says why.
    """
    try:
        app = _app()
        connection: Any = app.connection_for_read(url=broker_address(settings.broker_url)[0])
        app.control.mailbox.producer_pool = None  # else the question goes to the broker that CELERY_BROKER_URL names
    except _NotInstalled:
        raise NotTold("Celery is not installed here, so workers were not asked") from None
    except Exception as error:
        raise NotTold(f"Celery's settings cannot be read: {error}") from error
    try:
        with connection, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as Celery's on two workers of one name
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
            stats = app.control.inspect(timeout=_ANSWER_S, connection=connection).stats() or {}
            asked = app.control.inspect(timeout=_ANSWER_S, connection=connection, limit=len(stats))
            queues = (asked.active_queues() or {}) if stats else {}
    except (OSError, KombuError, RedisError, *connection.connection_errors) as error:
        raise NotTold(f"workers could not be asked: {error}") from error
    return tuple(_answer(name, told, queues.get(name)) for name, told in sorted(stats.items()))


class _NotInstalled(Exception):
    """There is no Celery in this environment."""


def _app() -> Any:
    if importlib.util.find_spec("celery") is None:
        raise _NotInstalled
    from workers.celery import app

    return app


def _celery_settings() -> tuple[dict[str, tuple[Any, Any]], dict[str, str]]:
    """Return what the protocol needs beside what is set, and the brokers that are set."""
    conf = _app().conf
    ours = importlib.import_module("foreseen.celery_settings")
    found: dict[str, tuple[Any, Any]] = {name: (getattr(ours, name), conf[name]) for name in _NEEDED}
    found["accept_content"] = tuple(sorted(map(str, each)) for each in found["accept_content"])  # type: ignore[assignment]
    options = [getattr(ours, "broker_transport_options", {}), conf.broker_transport_options]
    if _VISIBILITY in options[0]:
        found[f"broker_transport_options[{_VISIBILITY!r}]"] = (options[0][_VISIBILITY], options[1].get(_VISIBILITY))
    named = {name: conf.get(name) for name in ("broker_url", "broker_read_url", "broker_write_url")}
    module = os.environ.get("CELERY_CONFIG_MODULE") or "foreseen.celery_settings"
    return found, {f"{name} of {module}": url for name, url in named.items() if isinstance(url, str)}


def _installed_config() -> str | None:
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    spec = PathFinder.find_spec("celeryconfig", sorted(folders))
    return spec.origin if spec is not None else None


def _answer(name: str, told: Mapping[str, Any], queues: Any) -> Answer:
    timeout_s = told.get("broker", {}).get("transport_options", {}).get(_VISIBILITY)
    concurrency = told.get("pool", {}).get("max-concurrency")
    return Answer(
        name,
        float(timeout_s) if isinstance(timeout_s, (int, float)) else None,
        int(told.get("prefetch_count", 0)),
        concurrency if isinstance(concurrency, int) else None,
        [str(queue["name"]) for queue in queues] if queues is not None else None,
    )


@contextmanager
def _from_here() -> Generator[None]:
    """Look for modules as Celery's own command does: first where it is started."""
    before = sys.path[:]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as text, as sys.path holds it
    try:
        yield
    finally:
        sys.path[:] = before
