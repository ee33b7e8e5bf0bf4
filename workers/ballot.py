"""A ballot: which members of an ensemble are asked about one input, and what their outcomes come to. Decisions alone.

A member is asked once. All at once, or one after the other where the combiner wants that; then, where there is one, the
model that makes the answer of theirs. With fewer answers than the quorum, and no more to come, there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from workers.combine import Combiner

__all__ = ["SAME", "Ask", "Ballot", "Combined", "Missed", "Step", "Wait"]

SAME: Final = object()
"""In an input's place: what the ensemble itself is asked about."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask these now, each about the input."""

    members: tuple[str, ...]
    input: Any = SAME


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done until another has an outcome."""


@dataclass(frozen=True, slots=True)
class Combined:
    """There is an answer.

    Attributes:
        answer: the combiner's.
        members: whose answers are in it.
        missing: who was asked, has no answer, and why; those that members of members miss, too.
    """

    answer: Any
    members: tuple[str, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Missed:
    """Too few have answered."""

    missing: Mapping[str, str]


Step: TypeAlias = Ask | Wait | Combined | Missed


@dataclass(slots=True)
class Ballot:
    """What is known of one input's members.

    Attributes:
        members: by name, in order.
        combiner: of the ensemble.
        quorum: answers that are enough.
        answers: of members, by name.
        missing: why others have none.
    """

    members: Sequence[str]
    combiner: Combiner
    quorum: int
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    _asked: set[str] = field(default_factory=set[str])
    _within: dict[str, str] = field(default_factory=dict[str, str])

    def answered(self, member: str, answer: Any, missing: Mapping[str, str] | None = None) -> None:
        """Note an answer, and who is missing in it."""
        self.answers[member] = answer
        self._within |= {f"{member}/{name}": why for name, why in (missing or {}).items()}

    def failed(self, member: str, why: str) -> None:
        """Note that a member has no answer."""
        self.missing[member] = why

    def step(self) -> Step:
        """Return what is to be done now; asks each member once.

        Raises:
            ValueError: the answers do not go together; see `Combiner.combine`.
        """
        voters = [name for name in self.members if name in self.answers]
        final = self.combiner.final
        if final is not None and final in self._asked:
            return self._finally(final, voters)
        asking = self._next(voters)
        if asking:
            self._asked |= {*asking}
            return Ask(asking)
        if len(self.missing) > len(self.members) - self.quorum:
            return Missed(dict(self.missing))
        if len(voters) + len(self.missing) < len(self._asked):
            return Wait()
        if self.combiner.in_turn:
            voters = voters[-1:]
        answer = self.combiner.combine({name: self.answers[name] for name in voters})
        if final is not None:
            self._asked.add(final)
            return Ask((final,), answer)
        return Combined(answer, tuple(voters), self.missing | self._within)

    def _next(self, voters: Sequence[str]) -> tuple[str, ...]:
        left = [name for name in self.members if name not in self._asked]
        if not self.combiner.in_turn:
            return tuple(left)
        is_open = len(voters) + len(self.missing) < len(self._asked)
        is_enough = bool(voters) and self.combiner.is_enough(self.answers[voters[-1]])
        return () if is_open or is_enough else tuple(left[:1])

    def _finally(self, final: str, voters: Sequence[str]) -> Step:
        if final in self.answers:
            return Combined(self.answers[final], (*voters, final), self.missing | self._within)
        return Missed(dict(self.missing)) if final in self.missing else Wait()
