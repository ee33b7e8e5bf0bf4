"""Who is told of each answer of a producer: nobody, unless the deployment wants to see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreseen.client.submission import Source, Submission
from foreseen.errors import ForeseenError
from foreseen.settings import Settings

if TYPE_CHECKING:
    from foreseen.client.events import Events

__all__ = ["Watch"]


class Watch:
    """Hears of each answer. Safe for threads.

    Args:
        events: that Flower is shown, if any.
    """

    def __init__(self, events: Events | None) -> None:
        self.events = events

    @classmethod
    def of(cls, settings: Settings) -> Watch | None:
        """Return who is to hear of answers; None if nobody is: a hit then pays for no more than finding that out."""
        if not settings.events_share:
            return None
        from foreseen.client.events import Events

        return cls(Events(settings.events_share))

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
