"""A prediction that is under way, as a `concurrent.futures.Future`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from foreseen.client.submission import Answer, Source, Submission
from foreseen.errors import ForeseenError, PredictionTimeout
from foreseen.outcome import Failure, Result

__all__ = ["PendingPrediction", "Submitted", "as_it_travels", "value_of"]

T = TypeVar("T")

#: What `concurrent.futures` calls one that has no outcome yet, and one that has.
_PENDING: Final = "PENDING"
_FINISHED: Final = "FINISHED"
#: What it calls one that has an outcome, or was cancelled.
_DONE: Final = frozenset({_FINISHED, "CANCELLED", "CANCELLED_AND_NOTIFIED"})
#: What it keeps for those who wait.
_MADE_LATE: Final[dict[str, Callable[[], Any]]] = {
    "_condition": threading.Condition, "_waiters": list, "_done_callbacks": list,
}  # fmt: skip


def value_of(answer: Answer) -> Any:
    """Return a result's value, or raise what the answer says."""
    if isinstance(answer, Result):
        return answer.value
    error = error_of(answer)
    try:
        raise error
    finally:
        del answer, error  # the error has this frame in its traceback: neither is to keep the other


def error_of(answer: Failure | ForeseenError) -> ForeseenError:
    """Return the error that an answer is, or tells of."""
    return answer.error if isinstance(answer, Failure) else answer


def as_it_travels(value: Any) -> Any:
    """Return an output as it travels: JSON values, bytes, numpy arrays."""
    return value


class Submitted:
    """What is known of a submission, whichever face handed it out.

    Attributes:
        key: `model@version:digest`; attaches to the same prediction from any process, with `pending`.
        source: how it was answered, or how it joined: hit, computed (it led) or coalesced (it followed).
        task_id: of the task that was sent for it; None for a hit and for a follower, shared by the items of a batch.
    """

    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    @property
    def submission(self) -> Submission:
        """What the engine knows of it."""
        return self._submission

    @property
    def key(self) -> str:
        """`model@version:digest`."""
        return str(self._submission.key)

    @property
    def source(self) -> Source:
        """How it was answered, or how it joined."""
        assert self._submission.source is not None  # noqa: S101 - for the type checker: whoever joined knows
        return self._submission.source

    @property
    def task_id(self) -> str | None:
        """The id of the task that was sent for it."""
        return self._submission.task_id

    def _timed_out(self, timeout: float) -> PredictionTimeout:
        return PredictionTimeout(
            f"No outcome for {self._submission.key.short} within {timeout:g} s; it is still pending."
        )


class PendingPrediction(Submitted, Future[T]):
    """What `submit` returns: wait for it, attach callbacks, or cancel it.

    Whoever hears the outcome resolves it: the producer's listener, or a thread that waits for one. Callbacks run on
    that thread and should be short.

    They are handed out by the thousand, and most have their outcome before anybody looks: what a Future needs for those
    who wait is made for one only once somebody does.
    """

    _result: Any
    _exception: BaseException | None
    _is_open: bool  # there until it ends, by its outcome or by `cancel`
    _is_watched = False  # by somebody who waits, or is to be called

    def __init__(
        self,
        submission: Submission,
        leave: Callable[[Submission, Answer], bool],
        hear: Callable[[Submission, float | None], None],
        convert: Callable[[Any], T] = as_it_travels,
    ) -> None:
        self._submission = submission
        self._leave = leave
        self._listen = hear
        self._convert = convert
        answer = submission.answer
        if isinstance(answer, Result) and convert is as_it_travels:
            self._state = _FINISHED
            self._exception = None
            self._result = answer.value
        else:
            self._state = _PENDING
            self._exception = None
            self._result = None
            self._is_open = True

    def __getattr__(self, name: str) -> Any:
        make = _MADE_LATE.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        self._is_watched = True
        return self.__dict__.setdefault(name, make())  # in one step, whichever threads do the same

    def done(self) -> bool:
        """Tell whether there is an outcome, or it was cancelled."""
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome and return its value.

        Args:
            timeout: seconds; None waits until there is an outcome. Running out leaves the prediction pending.

        Raises:
            PredictionTimeout: the timeout ran out; call again to go on waiting.
            PredictionFailed: the outcome is a failure.
            ProducerClosed: the producer was closed meanwhile.
            concurrent.futures.CancelledError: it was cancelled.
        """
        if self._state == _FINISHED and self._exception is None:
            value: T = self._result
            return value
        try:
            return super().result(self._hear(timeout))
        except TimeoutError as error:
            raise self._told(error, timeout) from None
        finally:
            del self  # it keeps its error, which has this frame in its traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome and return its error, None for a result; `timeout` as for `result`."""
        try:
            return super().exception(self._hear(timeout))
        except TimeoutError as error:
            raise self._told(error, timeout) from None

    def _hear(self, timeout: float | None) -> float | None:
        """Hear the inbox on this thread for a moment; return what is left of the timeout."""
        if self.done():
            return timeout
        began = time.monotonic()
        self._listen(self._submission, timeout)
        return None if timeout is None else timeout - (time.monotonic() - began)

    def _told(self, error: TimeoutError, timeout: float | None) -> TimeoutError:
        """Return the error of a timeout: an outcome may be one too, of the model's or of the engine's."""
        return error if isinstance(error, PredictionTimeout) or timeout is None else self._timed_out(timeout)

    def cancel(self) -> bool:
        """Leave: it counts no longer as wanting the prediction; others who want it still get it.

        Returns:
            False if there was an outcome already.

        Raises:
            CacheUnavailable: it is cancelled here, but the cache could not be told: it may still be computed.
        """
        if self.done() or not self._ends_now():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()  # tells those in concurrent.futures.wait
        self._leave(self._submission, PredictionTimeout("cancelled"))
        return True

    def resolve(self, answer: Answer) -> None:
        """Take in the one answer; the producer calls this. One that comes after `cancel` is dropped."""
        if not self._ends_now():
            return
        if isinstance(answer, Result):
            try:
                self._result = self._convert(answer.value)
            except ForeseenError as error:
                self._exception = error
        else:
            self._exception = error_of(answer)  # without a traceback: it was raised nowhere yet
        # Before the look at who waits: whoever comes to wait after that look sees that he need not.
        self._state = _FINISHED
        if self._is_watched:
            self._wake()

    def _ends_now(self) -> bool:
        """Tell whether it had not ended yet: of several who end it one is told so."""
        try:
            del self._is_open  # in one step
        except AttributeError:
            return False
        return True

    def _wake(self) -> None:
        """Do for those who look at it what a Future does once it has its outcome."""
        failed = self._exception is not None
        with self._condition:
            for waiter in self._waiters:
                (waiter.add_exception if failed else waiter.add_result)(self)
            self._condition.notify_all()
        self._invoke_callbacks()
