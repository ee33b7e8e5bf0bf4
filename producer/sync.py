"""The synchronous face: every call runs on the thread that makes it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from foreseen.client.submission import DEFAULT_IN_FLIGHT, DEFAULT_PRIORITY, DEFAULT_TIMEOUT_S, Submission
from foreseen.client.sync import SyncClient
from foreseen.errors import InvalidInput, Misconfigured, PredictionTimeout, ProducerClosed
from foreseen.flights import Kind
from foreseen.keys import Key
from foreseen.message import MAX_PRIORITY
from foreseen.outage import Outages
from foreseen.settings import Settings
from foreseen.tags import Tags
from producer.pending import PendingPrediction, as_it_travels, value_of

if TYPE_CHECKING:
    from typing import Unpack

    from foreseen.near_cache import NearCache
    from producer.handle import ModelHandle, Options

__all__ = ["Producer"]

T = TypeVar("T")

#: As it was when this was imported: a greenlet that waits for a lock made before a patch would stop every other.
_LOCK: Final = threading.Lock


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
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> Any:
        """Submit an input and wait for its prediction; a hit takes one round trip, one in the near cache none.

        A caller who stops waiting leaves: what has not begun and nobody else wants is dropped.

        Args:
            model: `name`, its current version, or `name@version`.
            data: the input: JSON values, bytes, numpy arrays, a pydantic instance.
            timeout: seconds to wait; None waits until there is an outcome.
            priority: 0 to 9, 9 first.
            deadline_s: do not begin the computation later than this many seconds from now.
            expiry_s: keep what this has computed no longer than so, and than the model says; 0 keeps nothing. Who joins
                a computation under way gets it as it was asked for.
            refresh: compute anew even if there is an entry; with `expiry_s=0`, past the cache.
            tags: texts by which `invalidate_tag` finds it, or a function of the input that returns them; with any, the
                cache server is asked also for what is in the near cache.

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
        engine = client.engine
        found = engine.catalog.version(model) or client.run(engine.find(model))
        is_plain = expiry_s is None and tags == () and not refresh
        if engine.shortcut is not None and is_plain and 0 <= priority <= MAX_PRIORITY:
            kept = engine.shortcut.look(found, data)
            if kept is not None:
                return value_of(kept)
        submission = engine.inputs.submission(
            found, data, Kind.WAITER,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
            bare="@" not in model,
        )  # fmt: skip
        if timeout is not None and client.engine.minds_patience:
            submission.patient_until = time.monotonic() + timeout
        try:
            client.submit(submission)
            if submission.answer is not None:
                return value_of(submission.answer)
            pending: PendingPrediction[Any] = self._pend(client, submission)
            try:
                return pending.result(timeout)
            except BaseException:
                client.leave_soon([submission], PredictionTimeout("the caller left"))  # if there was no outcome
                raise
            finally:
                del pending
        finally:
            del submission  # it keeps its error, which has this frame in its traceback

    def submit(
        self,
        model: str,
        data: Any,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> PendingPrediction[Any]:
        """Submit an input; it is computed whether or not anybody waits, ended only by `cancel()` or its deadline.

        Returns once the broker has the task, or there is an entry, or somebody else's task is known to be out.

        Args:
            model: `name`, its current version, or `name@version`.
            data: the input: JSON values, bytes, numpy arrays, a pydantic instance.
            priority: 0 to 9, 9 first.
            deadline_s: do not begin the computation later than this many seconds from now.
            expiry_s: keep what this has computed no longer than so, and than the model says; 0 keeps nothing. Who joins
                a computation under way gets it as it was asked for.
            refresh: compute anew even if there is an entry; with `expiry_s=0`, past the cache.
            tags: texts by which `invalidate_tag` finds it, or a function of the input that returns them; with any, the
                cache server is asked also for what is in the near cache.

        Raises:
            InvalidInput: the input does not fit; nothing was queued.
            ModelNotServed: no worker serves the model.
            CacheUnavailable, BrokerUnavailable: a server does not answer; a retry may help.
        """
        return self._submit(
            model, data, as_it_travels,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
        )  # fmt: skip

    def submit_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
    ) -> list[PendingPrediction[Any]]:
        """Submit inputs, as `submit` each: one round trip for up to 500 look-ups, misses in messages of a batch each.

        Returns:
            One for each input, in order. What went wrong with one (it does not fit, the broker does not answer) is that
            one's exception.

        Raises:
            InvalidInput: an input has no canonical form; nothing was queued.
            ModelNotServed: nobody serves the model.
            CacheUnavailable: the cache does not answer; some may have been queued, and submitting again joins them.
        """
        return self._submit_many(
            model, inputs, as_it_travels,
            priority=priority, deadline_s=deadline_s, expiry_s=expiry_s, refresh=refresh, tags=tags,
        )  # fmt: skip

    def map(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
        in_flight: int = DEFAULT_IN_FLIGHT,
        return_exceptions: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Any]:
        """Yield the output of each input, in order and in bounded memory, however many inputs there are.

        Inputs are taken ahead in chunks, each of which is looked up in one round trip. Whoever stops iterating leaves:
        what has not begun and nobody else wants is dropped.

        Args:
            model: `name`, its current version, or `name@version`; looked up once.
            inputs: any iterable, endless ones too.
            timeout: seconds to wait for each output once it is the next.
            priority: 0 to 9, 9 first.
            deadline_s: do not begin a computation later than this many seconds after its input was taken.
            expiry_s: keep what this has computed no longer than so, and than the model says; 0 keeps nothing. Who joins
                a computation under way gets it as it was asked for.
            refresh: compute anew even if there is an entry; with `expiry_s=0`, past the cache.
            tags: texts by which `invalidate_tag` finds it, or a function of the input that returns them; with any, the
                cache server is asked also for what is in the near cache.
            in_flight: how many inputs to have taken and not yet answered, at most.
            return_exceptions: yield an input's error in its place; otherwise the first one is raised.
            progress: called with how many have been answered, before each is yielded.

        Raises:
            ModelNotServed: no worker serves the model.
            CacheUnavailable: the cache does not answer; a retry may help.
            And of each input, when its turn comes, what `predict` raises.
        """
        from producer.mapping import chunk_of, in_order, prepare

        chunk_of(in_flight)  # refuses a wrong one now, not at the first output
        client = self._open()
        found = client.run(client.engine.find(model))
        options: Options = {
            "priority": priority, "deadline_s": deadline_s, "expiry_s": expiry_s, "refresh": refresh, "tags": tags,
        }  # fmt: skip

        def submit(taken: Sequence[Any]) -> list[PendingPrediction[Any] | InvalidInput]:
            prepared = prepare(client.engine, found, taken, options, bare="@" not in model)
            client.run(client.engine.submit([each for each in prepared if isinstance(each, Submission)]))
            return [self._pend(client, each) if isinstance(each, Submission) else each for each in prepared]

        def leave(submissions: Iterable[Submission]) -> None:
            client.leave_soon(submissions, PredictionTimeout("the caller left"))

        return in_order(
            inputs, submit, leave,
            timeout=timeout, in_flight=in_flight, return_exceptions=return_exceptions, progress=progress,
        )  # fmt: skip

    @overload
    def model(self, name: str, *, tags: Tags = ()) -> ModelHandle[Any]: ...
    @overload
    def model(self, name: str, *, output: type[T], tags: Tags = ()) -> ModelHandle[T]: ...
    def model(self, name: str, *, output: Any = Any, tags: Tags = ()) -> ModelHandle[Any]:
        """Return a handle on a model, whose outputs come as instances of `output`.

        Args:
            name: `name` or `name@version`.
            output: a pydantic model, a dataclass, a `TypedDict`, whatever pydantic can validate.
            tags: of every input that is submitted by it, or a function that returns them, beside those of a call.

        Example:
            >>> file_type = producer.model("file-type", output=Label)
            >>> file_type.predict(data).mime_type
        """
        from producer.handle import ModelHandle

        return ModelHandle(self, name, output, tags)

    def pending(self, key: str) -> PendingPrediction[Any]:
        """Attach to a prediction by its key, from any process; never enqueues.

        Raises:
            InvalidKey: the text is not a key.
            UnknownKey: there is neither an entry nor a computation under way.
            CacheUnavailable: the cache does not answer; a retry may help.
        """
        return self._attach(key, as_it_travels)

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

    def invalidate_tag(self, tag: str) -> int:
        """Forget the entries of all inputs that were submitted with a tag, of every model; return how many there were.

        Computations under way cannot bring them back. What is submitted with the tag meanwhile, for the first time, may
        still be answered from before. Takes time with the inputs that have the tag, not with others.

        Raises:
            InvalidInput: it is no tag.
            CacheUnavailable: the cache does not answer; some may have been forgotten: do it again.
        """
        client = self._open()
        return client.run(client.engine.invalidate_tag(tag))

    def purge(self, model: str) -> int:
        """Forget every entry of `name@version`, or of all versions of `name`; return how many versions that were.

        When it returns, every look-up anywhere misses what was computed before; computations under way answer those who
        wait for them, and are not kept.
        """
        client = self._open()
        return client.run(client.engine.purge(model))

    # --- life ---------------------------------------------------------------------------------------------------------

    def outages(self) -> Outages:
        """Return what this process has counted of the cache's troubles since the producer opened; asks nobody."""
        client = self._open()
        return client.outage.told(client.engine.direct.sent)

    def near_cache(self) -> NearCache:
        """Return what this process keeps near, and what was counted of it since the producer opened; asks nobody."""
        from foreseen.near_cache import NearCache

        near = self._open().engine.near
        return NearCache() if near is None else near.told()

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
        if threading.Lock is not _LOCK:
            raise Misconfigured(
                "threading was patched (by gevent's monkey.patch_all(), say) after `producer` was imported: locks made "
                "before would stop the whole process. Patch first, then import producer."
            )
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
        self, model: str, data: Any, convert: Callable[[Any], T], **options: Unpack[Options]
    ) -> PendingPrediction[T]:
        client = self._open()
        found = client.run(client.engine.find(model))
        submission = client.engine.inputs.submission(found, data, Kind.DETACHED, bare="@" not in model, **options)
        client.submit(submission)
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return self._pending(client, submission, convert)

    def _submit_many(
        self, model: str, inputs: Iterable[Any], convert: Callable[[Any], T], **options: Unpack[Options]
    ) -> list[PendingPrediction[T]]:
        client = self._open()
        found = client.run(client.engine.find(model))
        submissions = client.engine.inputs.submissions(found, inputs, Kind.DETACHED, bare="@" not in model, **options)
        client.run(client.engine.submit(submissions))
        leave, hear = client.leave, client.hear
        pendings = [PendingPrediction(submission, leave, hear, convert) for submission in submissions]
        open_ones = [pending for pending in pendings if not pending.done()]
        client.engine.table.watch_all([(pending.submission, pending.resolve) for pending in open_ones])
        if any(pending.submission.answer is None for pending in open_ones):
            client.listen()
        return pendings

    def _attach(self, key: str, convert: Callable[[Any], T]) -> PendingPrediction[T]:
        client = self._open()
        submission = Submission(Key.parse(key), None, Kind.WAITER)
        client.submit(submission)
        if isinstance(submission.answer, Exception):
            raise submission.answer
        return self._pending(client, submission, convert)

    def _pending(self, client: SyncClient, submission: Submission, convert: Callable[[Any], T]) -> PendingPrediction[T]:
        """Return what is handed out: its caller may do anything before he waits, so the listener hears for him."""
        pending = self._pend(client, submission, convert)
        if submission.answer is None:
            client.listen()
        return pending

    def _pend(
        self, client: SyncClient, submission: Submission, convert: Callable[[Any], T] = as_it_travels
    ) -> PendingPrediction[T]:
        pending = PendingPrediction(submission, client.leave, client.hear, convert)
        if not pending.done():
            client.engine.table.watch(submission, pending.resolve)
        return pending

    def _key(self, client: SyncClient, model: str, data: Any) -> Key:
        return client.run(client.engine.key(model, client.engine.inputs.canonical(data)))


#: Every producer of this process, to be told of a fork.
_forkable: weakref.WeakSet[Producer] = weakref.WeakSet()


def _after_fork() -> None:
    for producer in _forkable:
        producer.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
