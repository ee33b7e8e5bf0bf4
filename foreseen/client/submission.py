"""A submission: one request of this process, from its first look-up to its one outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

from foreseen.canonical import CanonicalInput
from foreseen.context import NO_CONTEXT
from foreseen.errors import ForeseenError
from foreseen.flights import Kind, Ticket
from foreseen.keys import Key
from foreseen.outcome import Outcome

__all__ = ["DEFAULT_IN_FLIGHT", "DEFAULT_PRIORITY", "DEFAULT_TIMEOUT_S", "Answer", "Source", "Submission"]

#: How long `predict` waits unless it is told: long enough for a cold model, short enough for a person.
DEFAULT_TIMEOUT_S: Final = 60.0
#: Priorities run from 0 to 9; most submissions take the middle, so that there is room on both sides.
DEFAULT_PRIORITY: Final = 4
#: What `map` takes ahead: enough to keep dozens of worker processes busy with batches, and about 1 MB of small inputs.
DEFAULT_IN_FLIGHT: Final = 1000

#: What ends a submission: the outcome that the cache told, or an error of this side (closed, unavailable, invalid).
Answer: TypeAlias = Outcome | ForeseenError


class Source(StrEnum):
    """How a submission was answered."""

    HIT = "hit"
    STALE = "stale"
    COMPUTED = "computed"
    COALESCED = "coalesced"


class Submission:
    """What the engine knows of one request. Its fields change under the table's lock, or before it is in the table.

    Attributes:
        key: of the input.
        canonical: the input; None if it was attached by key, which then can never be sent.
        kind: waiter or detached.
        refresh: it is to be computed anew.
        priority: 0 to 9.
        began: when it was made (monotonic seconds).
        context: of who asks.
        tags: under which its key is registered before each of its look-ups.
        expiry_ms: how long what its message has computed is kept at most; None is as long as the model says.
        bare: it was asked by the model's bare name, and follows that to another version should its own have no workers.
        serial: of its latest join.
        tokens: of the flights it joined, oldest first.
        not_before: order that an entry must have to answer it, 0 = any.
        mark: the near cache's of its look-up; 0 is none.
        joining: its join or look is in the air; pushes that arrive meanwhile are held in `early`.
        hurry: pushes may have been missed while it was joining: look again at once.
        direct: token under which it was sent without the cache; empty if it was not.
        patient_until: when its caller stops waiting (monotonic seconds); None if nobody said.
        due_at: when it looks again (monotonic seconds).
        source: None until it is known.
        task_id: of the message that was sent for it; None for a hit and for a follower.
        answer: the outcome; set once.
    """

    __slots__ = (
        "answer", "bare", "began", "canonical", "context", "deadline_at", "direct", "due_at", "early",
        "expiry_ms", "hurry", "joining", "key", "kind", "mark", "not_before", "on_answer", "patient_until", "priority",
        "refresh", "serial", "source", "tags", "task_id", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        key: Key,
        canonical: CanonicalInput | None,
        kind: Kind,
        *,
        refresh: bool = False,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_ms: int | None = None,
        tags: tuple[str, ...] = (),
        bare: bool = False,
    ) -> None:
        self.key = key
        self.canonical = canonical
        self.kind = kind
        self.refresh = refresh
        self.priority = priority
        self.began = time.monotonic()
        self.context = NO_CONTEXT
        self.deadline_at = self.began + deadline_s if deadline_s is not None else None
        self.expiry_ms = expiry_ms
        self.tags = tags
        self.bare = bare
        self.patient_until: float | None = None
        self.serial = 0
        self.tokens: tuple[str, ...] = ()
        self.not_before = 0
        self.mark = 0
        self.joining = True
        self.hurry = False
        self.direct = ""
        self.due_at = 0.0
        self.early: tuple[tuple[str, bytes], ...] = ()
        self.source: Source | None = None
        self.task_id: str | None = None
        self.answer: Answer | None = None
        self.on_answer: Callable[[Answer], None] | None = None

    def ticket(self, inbox: str, serial: int, token: str) -> Ticket:
        """Return what its next join or look says of it."""
        self.serial = serial
        deadline_ms = 0
        if self.deadline_at is not None:  # one that has passed is told as the shortest that a script can tell from none
            deadline_ms = max(1, round((self.deadline_at - time.monotonic()) * 1000))
        return Ticket(
            self.key,
            inbox,
            serial,
            self.kind,
            token,
            self.refresh,
            self.canonical is not None,
            self.priority,
            deadline_ms,
            self.bare and self.kind is Kind.DETACHED,
        )

    @property
    def is_unsent(self) -> bool:
        """Whether it opened a flight, and no message is known to have been sent for it."""
        return self.source is Source.COMPUTED and self.task_id is None

    def joined_any(self, tokens: str) -> bool:
        """Tell whether it joined one of the flights (comma-separated)."""
        return any(token in tokens for token in self.tokens)  # tokens have one length: none is a part of another
