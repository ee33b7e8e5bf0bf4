"""The synchronous face: every call runs on the thread that makes it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Self

from foreseen.client.submission import Submission
from foreseen.client.sync import SyncClient
from foreseen.errors import ForeseenError, InvalidInput, ProducerClosed
from foreseen.flights import Kind
from foreseen.keys import Key, key_of
from foreseen.message import MAX_PRIORITY
from foreseen.settings import Settings
from producer.pending import PendingPrediction, value_of

__all__ = ["Producer"]

#: How long `predict` waits unless it is told: long enough for a cold model, short enough for a person.
DEFAULT_TIMEOUT_S: Final = 60.0
#: Priorities run from 0 to 9; most submissions take the middle, so that there is room on both sides.
DEFAULT_PRIORITY: Final = 4


class Producer:
    """Submits prediction tasks. Safe for threads, and for use in both a process and the children it forks.

    A pending prediction belongs to the process that made it: a forked child attaches to it by its key, with `pending`.
    The producer opens at its first use: a connection pool to the cache, one to the broker, and one thread that listens.

    Args:
        settings: of the deployment; read from `FORESEEN_*` if not given.

    Example:
        >>> with Producer() as producer:
        ...     label = producer.predict("file-type", data)
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._client: SyncClient | None = None
        self._closed = False
        self._opening = threading.Lock()
        _forkable.add(self)

    # --- asking -------------------------------------------------------------------------------------------------------

    def predict(
        self,
        model: str,
        data: Any,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        refresh: bool = False,
    ) -> Any:
        """Submit an input and wait for its prediction; a hit takes one round trip.

        A caller who stops waiting leaves: work that nobody else wants is dropped.

        Args:
            model: `name`, its current version, or `name@version`.
            data: the input: JSON values, bytes, numpy arrays, a pydantic instance.
            timeout: seconds to wait; None waits until there is an outcome.
            priority: 0 to 9, 9 first.
            deadline_s: do not begin the computation later than this many seconds from now.
            refresh: compute anew even if there is an entry.

        Returns:
            The output as it travels: JSON values, bytes, numpy arrays.

        Raises:
            InvalidInput: the input does not fit; nothing was queued.
            ModelNotServed: no worker serves the model.
            PredictionFailed: the outcome is a failure, the same for everyone who asked.
            PredictionTimeout: the timeout ran out; a retry joins the computation if it still runs.
            CacheUnavailable, BrokerUnavailable: a server does not answer; a retry may help.
        """
        client = self._open()
        submission = self._submit(client, model, [data], Kind.WAITER, priority, deadline_s, refresh=refresh)[0]
        if submission.answer is not None:
            return value_of(submission.answer)
        pending = self._pend(client, submission)
        try:
            return pending.result(timeout)
        except BaseException:
            with suppress(ForeseenError):  # it lapses by itself if the cache cannot be told now
                pending.cancel()  # does nothing if there was an outcome
            raise

    def submit(
        self,
        model: str,
        data: Any,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        refresh: bool = False,
    ) -> PendingPrediction:
        """Submit an input; it is computed whether or not anybody waits, ended only by `cancel()` or its deadline.

        Returns once the broker has the task, or there is an entry, or somebody else's task is known to be out.

        Args:
            model: `name`, its current version, or `name@version`.
            data: the input: JSON values, bytes, numpy arrays, a pydantic instance.
            priority: 0 to 9, 9 first.
            deadline_s: do not begin the computation later than this many seconds from now.
            refresh: compute anew even if there is an entry.

        Raises:
            InvalidInput: the input does not fit; nothing was queued.
            ModelNotServed: no worker serves the model.
            CacheUnavailable, BrokerUnavailable: a server does not answer; a retry may help.
        """
        client = self._open()
        submission = self._submit(client, model, [data], Kind.DETACHED, priority, deadline_s, refresh=refresh)[0]
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return self._pend(client, submission)

    def submit_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        refresh: bool = False,
    ) -> list[PendingPrediction]:
        """Submit inputs, as `submit` each: one round trip for up to 500 look-ups, misses in messages of a batch each.

        Returns:
            One for each input, in order. What went wrong with one (it does not fit, the broker does not answer) is that
            one's exception.

        Raises:
            InvalidInput: an input has no canonical form; nothing was queued.
            ModelNotServed: nobody serves the model.
            CacheUnavailable: the cache does not answer; some may have been queued, and submitting again joins them.
        """
        client = self._open()
        submissions = self._submit(client, model, inputs, Kind.DETACHED, priority, deadline_s, refresh=refresh)
        return [self._pend(client, submission) for submission in submissions]

    def pending(self, key: str) -> PendingPrediction:
        """Attach to a prediction by its key, from any process; never enqueues.

        Raises:
            InvalidKey: the text is not a key.
            UnknownKey: there is neither an entry nor a computation under way.
            CacheUnavailable: the cache does not answer; a retry may help.
        """
        client = self._open()
        submission = Submission(Key.parse(key), None, Kind.WAITER)
        client.run(client.engine.submit([submission]))
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return self._pend(client, submission)

    # --- entries ------------------------------------------------------------------------------------------------------

    def peek(self, model: str, data: Any) -> Any:
        """Return the cached output, or None; never computes.

        Raises:
            PredictionFailed: what is cached is a failure.
            CacheUnavailable: the cache does not answer; a retry may help.
        """
        client = self._open()
        outcome = client.run(client.engine.peek(self._key(client, model, data)))
        return None if outcome is None else value_of(outcome)

    def invalidate(self, model: str, data: Any) -> bool:
        """Forget one input's entry; computations under way cannot bring it back. True if there was an entry."""
        client = self._open()
        return client.run(client.engine.invalidate(self._key(client, model, data)))

    def purge(self, model: str) -> int:
        """Forget every entry of `name@version`, or of all versions of `name`; return how many versions that were.

        When it returns, every look-up anywhere misses what was computed before; computations under way answer those who
        wait for them, and are not kept.
        """
        client = self._open()
        return client.run(client.engine.purge(model))

    # --- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End open pendings with `ProducerClosed` and close connections; what was submitted is still computed."""
        with self._opening:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> SyncClient:
        client = self._client
        if client is not None:
            return client
        with self._opening:
            if self._closed:
                message = "The producer is closed; make another one."
                raise ProducerClosed(message)
            if self._client is None:
                client = SyncClient(self._settings or Settings())
                client.open()
                self._client = client
            return self._client

    def after_fork(self) -> None:
        """Begin anew in a forked child: threads and connections stayed with the parent, and so did its pendings."""
        self._opening = threading.Lock()
        self._client = None

    def _submit(
        self,
        client: SyncClient,
        model: str,
        inputs: Iterable[Any],
        kind: Kind,
        priority: int,
        deadline_s: float | None,
        *,
        refresh: bool,
    ) -> list[Submission]:
        if not 0 <= priority <= MAX_PRIORITY:
            message = f"priority {priority} is outside 0 to 9; 9 is served first"
            raise InvalidInput(message)
        engine = client.engine
        name, version = engine.catalog.version(model) or client.run(engine.catalog.find_version(model))
        submissions: list[Submission] = []
        for data in inputs:
            canonical = engine.canonical(data)
            key = key_of(name, version, canonical)
            submissions.append(
                Submission(key, canonical, kind, refresh=refresh, priority=priority, deadline_s=deadline_s)
            )
        client.run(engine.submit(submissions))
        return submissions

    def _pend(self, client: SyncClient, submission: Submission) -> PendingPrediction:
        pending = PendingPrediction(submission, client.leave, client.hear)
        client.engine.table.watch(submission, pending.resolve)
        if submission.kind is Kind.DETACHED and submission.answer is None:  # its caller may do anything but wait
            client.listen()
        return pending

    def _key(self, client: SyncClient, model: str, data: Any) -> Key:
        return client.run(client.engine.key(model, client.engine.canonical(data)))


#: Every producer of this process, to be told of a fork.
_forkable: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork() -> None:
    for producer in _forkable:
        producer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
