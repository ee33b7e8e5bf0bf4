"""An ensemble: a model whose answer is made of other models' answers.

class Digit(Ensemble[NDArray[np.float32], Elected]):
    name = "digit"
    members = ("digit-forest", "digit-svm", "digit-neighbours")
    combine = SoftVote()

No instance of it computes: a worker asks the members, each a prediction of its own, and waits for them without holding
a slot of its pool (`workers.waiting`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from typing_extensions import TypedDict

from foreseen.errors import InvalidInput, Misconfigured
from foreseen.keys import split_model
from workers.ballot import Ballot
from workers.combine import Combiner, Mean
from workers.model import Model

__all__ = ["Answer", "Ensemble", "Pinned"]

In = TypeVar("In")
Out = TypeVar("Out")


class Answer(TypedDict, Generic[Out]):
    """What an ensemble answers.

    Attributes:
        answer: the combiner's.
        members: `name@version` of those whose answers are in it.
        missing: by `name@version`, why others that were asked have none; with any, it is kept for a short time only.
    """

    answer: Out
    members: list[str]
    missing: dict[str, str]


class Pinned(NamedTuple):
    """A member's version, as it is while this worker runs.

    Attributes:
        model: its name.
        version: its version.
        is_ensemble: its answers are `Answer`s.
    """

    model: str
    version: str
    is_ensemble: bool = False

    @property
    def model_id(self) -> str:
        """`name@version`."""
        return f"{self.model}@{self.version}"


class Ensemble(Model[In, Answer[Out]], ABC, Generic[In, Out]):
    """A model that combines what others answer about the same input.

    Its version says its own, its members' and the combiner's. A member that is named without a version is pinned to the
    current one when the worker starts.

    Attributes:
        members: `name` or `name@version`; with a combiner that asks in turn, the cheapest first.
        combine: makes one answer of theirs.
        quorum: answers that are enough, once the others have failed or their time is up; None is all.
        member_timeout_s: how long each may take.
        partial_expiry_s: how long an answer is kept that members are missing from.
        pinned: by member, what it means in this worker; set when it starts.
    """

    members: ClassVar[Sequence[str]] = ()
    combine: ClassVar[Combiner] = Mean()
    quorum: ClassVar[int | None] = None
    member_timeout_s: ClassVar[float] = 60.0
    partial_expiry_s: ClassVar[float] = 5.0
    pinned: ClassVar[Mapping[str, Pinned]] = {}
    VERSIONED: ClassVar[frozenset[str]] = frozenset({"preprocess", "pinned", "combine"})

    def predict(self, batch: Sequence[In]) -> Sequence[Any]:
        """Not called: its members are asked instead."""
        raise NotImplementedError(f"{self.model_id()} is an ensemble: its members are asked instead")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.members or "members" in cls.__dict__:
            _check(cls)
        super().__init_subclass__(**kwargs)

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Return what its answers depend on: its members, by `name@version`, and the combiner."""
        return (*(f"{name}={pinned.model_id}" for name, pinned in cls.pinned.items()), cls.combine.part())

    @classmethod
    def asked(cls) -> tuple[str, ...]:
        """Return every model that it asks: its members, and the one that makes the answer, if there is one."""
        return (*cls.members, *([cls.combine.final] if cls.combine.final is not None else []))

    @classmethod
    def ballot(cls) -> Ballot:
        """Return a ballot about one input."""
        return Ballot(cls.members, cls.combine, cls.quorum or (1 if cls.combine.in_turn else len(cls.members)))

    @classmethod
    def is_complete(cls) -> bool:
        """Say whether the class is a model: it has members, too."""
        return bool(cls.members) and super().is_complete()


def _check(cls: type[Ensemble[Any, Any]]) -> None:
    try:
        _check_members(cls)
        _check_numbers(cls)
    except (InvalidInput, Misconfigured) as error:
        raise Misconfigured(f"class {cls.__qualname__}: {error}") from None


def _check_members(cls: type[Ensemble[Any, Any]]) -> None:
    members: Any = cls.members
    if isinstance(members, str) or not members or not all(isinstance(name, str) for name in members):
        raise Misconfigured('members must be names of models: members = ("digit-forest", "digit-svm")')
    combiner: Any = cls.combine
    if not isinstance(combiner, Combiner):
        raise Misconfigured("combine must be a combiner: combine = SoftVote()")
    names = cls.asked()
    for name in names:
        split_model(name)
    if len(set(names)) < len(names):
        raise Misconfigured(f"a model is asked once: {[*names]}")
    combiner.check(cls.members)
    if cls.preprocess is not None:
        raise Misconfigured("an ensemble has no preprocess; its members have")


def _check_numbers(cls: type[Ensemble[Any, Any]]) -> None:
    quorum: Any = cls.quorum
    if quorum is not None and not (type(quorum) is int and 1 <= quorum <= len(cls.members)):
        raise Misconfigured(f"quorum={quorum!r}: give a number from 1 to {len(cls.members)}, or None for all members")
    if cls.combine.in_turn and quorum not in {None, 1}:
        raise Misconfigured(f"quorum={quorum!r}: with {type(cls.combine).__name__} one answer is taken; leave it out")
    if not (cls.member_timeout_s > 0 and cls.partial_expiry_s >= 0):
        raise Misconfigured("give seconds: member_timeout_s above 0, partial_expiry_s from 0 on")
