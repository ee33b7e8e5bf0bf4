"""A task of an existing Celery application whose calls are looked up, joined or enqueued: adopted one task at a time.

@app.task(base=PredictionTask)
def classify(text: str) -> str:
    ...

`classify.delay("a text")` is then a submission to the model `mailroom.classify`, which foreseen's workers serve from
the same module; `classify("a text")` computes in place, as ever. Whoever asks needs nothing of its body: it may be a
stub there, with the same name and signature.

The only module of this package that imports Celery.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, Final, NoReturn

from celery import Task
from celery.exceptions import TimeoutError as CeleryTimeoutError

from foreseen.client.submission import DEFAULT_PRIORITY
from foreseen.errors import ForeseenError, InvalidInput, Misconfigured, PredictionTimeout
from foreseen.keys import check_model_name
from producer.pending import PendingPrediction
from producer.sync import Producer

__all__ = ["PredictionResult", "PredictionTask"]

#: Celery's words for what became of a task.
_PENDING, _SUCCESS, _FAILURE, _REVOKED = "PENDING", "SUCCESS", "FAILURE", "REVOKED"
_CANVAS: Final = (
    "{name} takes no part in chains, groups and chords, nor in callbacks: its result comes from foreseen's cache, and "
    "not from a Celery worker that could go on to the next. Call .delay() and .get(), or combine results yourself"
)
#: Of `apply_async`: what is done, or makes no difference: of Celery's own results there are none.
_HEEDED: Final = frozenset({"priority", "expires", "ignore_result"})
_CANVAS_OPTIONS: Final = frozenset({"link", "link_error", "chain", "chord", "group_id", "group_index"})


class ResultTimeout(PredictionTimeout, CeleryTimeoutError):
    """`get` waited in vain; it is Celery's `TimeoutError` too. A later `get` may find the result."""


class PredictionResult:
    """What `delay` returns: as Celery's `AsyncResult`, as far as there is something to say.

    Attributes:
        id: the prediction's key, `model@version:digest`; the same for every call with the same arguments.
    """

    def __init__(self, pending: PendingPrediction[Any]) -> None:
        self._pending = pending

    @property
    def id(self) -> str:
        """The prediction's key."""
        return self._pending.key

    @property
    def task_id(self) -> str:
        """The same, as Celery calls it too."""
        return self._pending.key

    @property
    def source(self) -> str:
        """How it was answered, or how it joined: `hit`, `stale`, `computed` or `coalesced`."""
        return self._pending.source

    def ready(self) -> bool:
        """Tell whether there is an outcome."""
        return self._pending.done()

    def successful(self) -> bool:
        """Tell whether it was computed."""
        return self.state == _SUCCESS

    def failed(self) -> bool:
        """Tell whether its outcome is a failure."""
        return self.state == _FAILURE

    @property
    def state(self) -> str:
        """`PENDING`, `SUCCESS`, `FAILURE` or `REVOKED`, as Celery calls them."""
        if not self._pending.done():
            return _PENDING
        if self._pending.cancelled():
            return _REVOKED
        return _SUCCESS if self._pending.exception() is None else _FAILURE

    @property
    def status(self) -> str:
        """The same, as Celery calls it too."""
        return self.state

    @property
    def result(self) -> Any:
        """The return value, or the error; None while there is neither."""
        if not self._pending.done() or self._pending.cancelled():
            return None
        return self._pending.exception() or self._pending.result()

    def get(self, timeout: float | None = None, *, propagate: bool = True) -> Any:
        """Wait for the outcome, and return what the task returned.

        A task may wait for it: what it waits for is computed by other workers than its own.

        Args:
            timeout: seconds; None waits until there is an outcome.
            propagate: raise a failure; else it is returned.

        Raises:
            ResultTimeout: the timeout ran out; it is `PredictionTimeout`, and Celery's `TimeoutError`.
            PredictionFailed: the outcome is a failure.
        """
        try:
            return self._pending.result(timeout)
        except PredictionTimeout as error:
            raise ResultTimeout(str(error)) from None
        except ForeseenError as error:
            if propagate:
                raise
            return error

    wait = get

    def forget(self) -> None:
        """Do nothing: a result expires by itself, as its model's policy says."""

    def revoke(self) -> None:
        """Leave: it counts no longer as wanting the prediction; others who want it still get it."""
        self._pending.cancel()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"


class PredictionTask(Task):
    """Base of tasks that are predictions: `@app.task(base=PredictionTask)`.

    Its arguments are the input: JSON values, bytes, numpy arrays; equal arguments, however they are given, are one key.
    What foreseen's workers need to know beside its body stands beside it, as on a `Model`; `limits` and `files` too:
    `@app.task(base=PredictionTask, cache=CachePolicy(expiry_s=3600), examples=[{"text": "a"}])`.

    Attributes:
        model: name of the model; unless said, the task's own. With `@version`, that is its version: else a digest of
            its module's file.
        producer: submits; unless one is put here, each process makes one of its own from `FORESEEN_*`.
    """

    abstract = True
    model: ClassVar[str] = ""
    producer: ClassVar[Producer | None] = None

    #: What foreseen's workers look for in a module; they import nothing from here.
    __foreseen_task__ = True

    @cached_property
    def model_name(self) -> str:
        """The model's name, without a version.

        Raises:
            Misconfigured: the task's name is none.
        """
        named: str = self.model or str(self.name)
        try:
            return check_model_name(named.partition("@")[0])
        except InvalidInput as error:
            raise Misconfigured(f"{error}: say which, @app.task(base=PredictionTask, model='classify')") from None

    @cached_property
    def input_signature(self) -> inspect.Signature:
        """What its arguments are."""
        return inspect.signature(self.run)

    def input_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the input that a call's arguments are: each by its parameter's name; defaults are not filled in.

        Raises:
            TypeError: they do not fit the signature.
        """
        bound = self.input_signature.bind(*args, **kwargs).arguments
        return {name: list(value) if isinstance(value, tuple) else value for name, value in bound.items()}

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Look up a call, or join who computes the same, or enqueue it.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            task_id: as all options but the next three: refused unless it is None, since it would be ignored.
            producer: likewise.
            link: likewise.
            link_error: likewise.
            shadow: likewise.
            **options: `priority`, 0 to 9, 9 first on every broker; `expires`, seconds from now or a datetime: do not
                begin later; `ignore_result`.

        Returns:
            A `PredictionResult`; with `task_always_eager`, Celery's own.

        Raises:
            Misconfigured: an option is set that would be ignored, or the call is part of a chain, group or chord.
            TypeError: the arguments do not fit.
            InvalidInput, ModelNotServed, CacheUnavailable, BrokerUnavailable: see `Producer.submit`.
        """
        own = {"task_id": task_id, "producer": producer, "link": link, "link_error": link_error, "shadow": shadow}
        self._refuse({name for name, value in {**options, **own}.items() if value is not None} - _HEEDED)
        given = self.input_of(args or (), kwargs or {})
        if self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs)
        priority = options.get("priority")
        pending = self._producer().submit(
            self.model if "@" in self.model else self.model_name,
            given,
            priority=DEFAULT_PRIORITY if priority is None else priority,
            deadline_s=_seconds(options.get("expires")),
        )
        return PredictionResult(pending)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """Attach to a prediction by the `id` of a `PredictionResult`, from any process.

        Raises:
            InvalidKey: the text is no such id.
            UnknownKey: there is neither an entry nor a computation under way.
        """
        del kwargs
        return PredictionResult(self._producer().pending(task_id))

    def signature(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a signature is what chains, groups and chords are made of.

        Raises:
            Misconfigured: always.
        """
        del args, kwargs
        raise Misconfigured(_CANVAS.format(name=self.name))

    subtask = s = si = signature

    def _refuse(self, options: set[str]) -> None:
        if options & _CANVAS_OPTIONS:
            raise Misconfigured(_CANVAS.format(name=self.name))
        if options:
            raise Misconfigured(
                f"{self.name} is a prediction, for which Celery's {', '.join(sorted(options))} has no meaning; "
                f"leave it out, or use {', '.join(sorted(_HEEDED))}"
            )

    def _producer(self) -> Producer:
        return self.producer or _shared()


_own: Producer | None = None
_making: Final = threading.Lock()


def _shared() -> Producer:
    """Return the producer of this process: it survives a fork by beginning anew."""
    global _own  # noqa: PLW0603 - tasks are made by Celery: there is nothing to hand it to
    with _making:
        if _own is None:
            _own = Producer()
    return _own


def _seconds(expires: float | datetime | None) -> float | None:
    if not isinstance(expires, datetime):
        return expires
    now = datetime.now(UTC) if expires.tzinfo is not None else datetime.now()  # noqa: DTZ005 - naive, as it was given
    return max(0.0, (expires - now).total_seconds())
