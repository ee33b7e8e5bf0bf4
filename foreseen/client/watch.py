"""Who is told of each answer of a producer: nobody, unless the deployment wants to see them.

Three may be: Flower, of a sample; OpenTelemetry; and the log, at level DEBUG, a line for each.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from foreseen.client.submission import Source, Submission
from foreseen.context import NO_CONTEXT, current
from foreseen.errors import ForeseenError, Misconfigured
from foreseen.outcome import Result
from foreseen.settings import Settings

if TYPE_CHECKING:
    from foreseen.client.events import Events
    from foreseen.client.spans import Spans

__all__ = ["Watch"]

#: A logger of its own, so that it can be turned on alone.
log: Final = logging.getLogger("foreseen.client.predictions")


class Watch:
    """Hears of each submission and of its answer. Safe for threads.

    Args:
        events: that Flower is shown, if any.
        spans: that OpenTelemetry gets, if any.

    Attributes:
        sees_all: also what the near cache would answer without a submission, which events alone are told of apart.
    """

    def __init__(self, events: Events | None, spans: Spans | None = None) -> None:
        self.events = events
        self._spans = spans
        self._logs = log.isEnabledFor(logging.DEBUG)
        self.sees_all = spans is not None or self._logs

    @classmethod
    def of(cls, settings: Settings) -> Watch | None:
        """Return who is to hear of answers; None if nobody is: a hit then pays for no more than finding that out.

        Whether there is a log of them is decided now: a level that is changed later counts for the next producer.
        """
        events: Events | None = None
        spans: Spans | None = None
        if settings.events_share:
            from foreseen.client.events import Events

            events = Events(settings.events_share)
        if settings.tracing:
            try:
                from foreseen.client.spans import Spans
            except ModuleNotFoundError:
                raise Misconfigured("FORESEEN_TRACING needs OpenTelemetry: pip install 'foreseen[tracing]'") from None

            spans = Spans()
        watch = cls(events, spans)
        return watch if events is not None or watch.sees_all else None

    def asked(self, submission: Submission) -> None:
        """Hear of a submission, on the thread that makes it."""
        if self._spans is not None:
            self._spans.begin(submission)
        elif submission.context is NO_CONTEXT:
            submission.context = current()

    def pushed(self, submission: Submission, computed_in: str) -> None:
        """Hear that the outcome of a computation is about to answer it; which, by its `traceparent`, if it has one."""
        if self._spans is not None and computed_in:
            self._spans.link(submission, computed_in)

    def answered(self, submission: Submission) -> None:
        """Hear of a submission that has its answer."""
        source = submission.source
        if (
            self.events is not None
            and source is not None
            and source is not Source.COMPUTED  # which its worker tells
            and not isinstance(submission.answer, ForeseenError)
        ):
            self.events.note(submission.key, source, submission.began)
        if self._spans is not None:
            self._spans.end(submission)
        if self._logs:
            _log(submission)

    def withdrawn(self, submission: Submission) -> None:
        """Hear of one whose caller is told an error instead."""
        if self._spans is not None:
            self._spans.end(submission)


def _log(submission: Submission) -> None:
    """Write one line: what was asked for, how it was answered, who asked; nothing of the input or the output."""
    answer, took_s = submission.answer, time.monotonic() - submission.began
    error = None if isinstance(answer, Result) else getattr(answer, "error", answer)
    told = {
        "key": submission.key.short,
        "source": str(submission.source) if submission.source else None,
        "duration_s": round(took_s, 6),
        "error": type(error).__name__ if error is not None else None,
        "task_id": submission.task_id,
        "correlation_id": submission.context.correlation or None,
    }
    log.debug(
        "%s %s in %.1f ms", told["key"], told["error"] or told["source"], took_s * 1000,
        extra={name: value for name, value in told.items() if value is not None},
    )  # fmt: skip
