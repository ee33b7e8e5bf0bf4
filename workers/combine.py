"""Combiners: how the answers of an ensemble's members become one. No I/O, and the same for the same answers.

    Mean            numbers, lists, objects, arrays: averaged place by place
    SoftVote        probabilities by label: the label of the highest average
    HardVote        a label each: the label of most
    FirstGood       one member after the other, until one is confident enough (a cascade)
    Stacking        a model that is given all answers

Answers come as they travel, by the member's name, in the order of the members. `weights` say how much each counts.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from typing_extensions import TypedDict

from foreseen.errors import Misconfigured

__all__ = ["Combiner", "Elected", "FirstGood", "HardVote", "Mean", "SoftVote", "Stacking"]

Weights: TypeAlias = "Mapping[str, float] | None"


class Elected(TypedDict):
    """What a vote comes to: the label, and its share of the votes, or its average probability."""

    label: str | int | float | bool
    confidence: float


class Combiner(ABC):
    """Makes one answer of several.

    Attributes:
        version: part of the ensemble's version; left out, the digest of the file that defines the class.
        in_turn: members are asked one after the other, until `is_enough`; else all at once.
        final: the model that makes the answer of what `combine` returns; None: that is the answer.
    """

    version: ClassVar[str] = ""
    in_turn: ClassVar[bool] = False

    @property
    def final(self) -> str | None:
        """The model that makes the answer; none, as a rule."""
        return None

    @abstractmethod
    def combine(self, answers: Mapping[str, Any]) -> Any:
        """Return the answer.

        Args:
            answers: by the names of those members that have answered, in the ensemble's order.

        Raises:
            ValueError: they do not go together; the message says why, and does not quote them.
        """

    def is_enough(self, answer: Any) -> bool:
        """Tell whether no other member need be asked after this answer; for one that asks them in turn."""
        del answer
        return True

    def check(self, members: Sequence[str]) -> None:
        """Refuse members that it cannot combine.

        Raises:
            Misconfigured: says why.
        """
        weights: Any = getattr(self, "weights", None)
        if weights is None:
            return
        if set(weights) != set(members) or not all(_is_weight(weight) for weight in weights.values()):
            raise Misconfigured(
                f"{type(self).__name__}(weights={dict(weights)!r}): give a number above 0 for each of {[*members]}"
            )

    def part(self) -> str:
        """Return what the ensemble's version depends on: class, version and parameters."""
        version = self.version or _digest_of_file(type(self))
        parameters = {name: value for name, value in sorted(vars(self).items()) if not name.startswith("_")}
        return f"{type(self).__qualname__}@{version} {json.dumps(parameters, sort_keys=True)}"


@dataclass(frozen=True)
class Mean(Combiner):
    """The average of numbers, place by place: of numbers, lists, objects or arrays, all members' alike."""

    version: ClassVar[str] = "1"
    weights: Weights = None

    def combine(self, answers: Mapping[str, Any]) -> Any:
        """Return the average."""
        return _mean([*answers.values()], _weights_of(self.weights, answers))


@dataclass(frozen=True)
class SoftVote(Combiner):
    """The label with the highest average probability, as `Elected`; the first such label where two are equal.

    A member answers with an object of probabilities by label, or with a list or array of them, whose labels are the
    places from 0. A label that a member does not name has the probability 0.
    """

    version: ClassVar[str] = "1"
    weights: Weights = None

    def combine(self, answers: Mapping[str, Any]) -> Elected:
        """Return the label and its average probability."""
        weights = _weights_of(self.weights, answers)
        scores: dict[Any, float] = {}
        for answer, weight in zip(answers.values(), weights, strict=True):
            for label, probability in _probabilities(answer):
                scores[label] = scores.get(label, 0.0) + weight * probability
        return _elected(scores, sum(weights))


@dataclass(frozen=True)
class HardVote(Combiner):
    """The label that most members name, as `Elected`; where two are equal, the one that the earlier member names.

    A member answers with a label; with what a vote comes to; or with probabilities as for `SoftVote`, of which it names
    the highest.
    """

    version: ClassVar[str] = "1"
    weights: Weights = None

    def combine(self, answers: Mapping[str, Any]) -> Elected:
        """Return the label and its share of the votes."""
        weights = _weights_of(self.weights, answers)
        scores: dict[Any, float] = {}
        for answer, weight in zip(answers.values(), weights, strict=True):
            label = _label(answer)
            scores[label] = scores.get(label, 0.0) + weight
        return _elected(scores, sum(weights))


@dataclass(frozen=True)
class FirstGood(Combiner):
    """A cascade: the first answer that is confident enough, of members that are asked in turn, the cheapest first.

    The last member's answer is taken as it is. How confident an answer is, `confidence_of` tells.

    Attributes:
        confidence: that is enough, from 0 to 1.
    """

    version: ClassVar[str] = "1"
    in_turn: ClassVar[bool] = True
    confidence: float = 0.9

    def combine(self, answers: Mapping[str, Any]) -> Any:
        """Return the answer of the last that was asked and has answered."""
        return [*answers.values()][-1]

    def is_enough(self, answer: Any) -> bool:
        """Tell whether it is as confident as it should be."""
        return self.confidence_of(answer) >= self.confidence

    def confidence_of(self, answer: Any) -> float:
        """Return how confident an answer is: its `confidence` or `score`, or the highest of its probabilities."""
        told: Any = answer
        if isinstance(answer, dict):
            told = next((answer[name] for name in ("confidence", "score") if _is_number(answer.get(name))), answer)
        return float(told) if _is_number(told) else max((p for _, p in _probabilities(told)), default=0.0)


@dataclass(frozen=True)
class Stacking(Combiner):
    """A model over the members' answers: it is given an object of them by their names, and its answer is the answer.

    Attributes:
        model: its name, or `name@version`; a prediction of its own, cached and coalesced as the members' are.
    """

    version: ClassVar[str] = "1"
    model: str

    @property
    def final(self) -> str | None:
        """The model."""
        return self.model

    def combine(self, answers: Mapping[str, Any]) -> Any:
        """Return what the model is asked about."""
        return dict(answers)


def _weights_of(weights: Weights, answers: Iterable[str]) -> list[float]:
    return [1.0 if weights is None else float(weights[name]) for name in answers]


def _elected(scores: Mapping[Any, float], total: float) -> Elected:
    if not scores:
        raise ValueError("no member named a label")
    label = max(scores, key=lambda each: scores[each])  # the first, where several are equal
    return {"label": label, "confidence": scores[label] / total}


def _label(answer: Any) -> Any:
    if isinstance(answer, Mapping) and "label" in answer:
        answer = answer["label"]
    if isinstance(answer, (str, int, float, bool)):
        return answer
    probabilities = [*_probabilities(answer)]
    if not probabilities:
        raise ValueError("an answer without a label")
    return max(probabilities, key=lambda each: each[1])[0]


def _probabilities(answer: Any) -> list[tuple[Any, float]]:
    """Return labels and their probabilities."""
    named: Any = answer.tolist() if getattr(answer, "ndim", None) == 1 else answer  # an array
    if isinstance(named, list):
        named = dict(enumerate(named))
    if isinstance(named, dict) and all(map(_is_number, named.values())):
        return [(label, float(each)) for label, each in named.items()]
    raise ValueError(
        f"a member's answer, a {type(answer).__name__}, is no probabilities: an object of numbers by label, "
        "a list of numbers, or an array of one dimension"
    )


def _mean(values: Sequence[Any], weights: Sequence[float]) -> Any:
    first = values[0]
    if all(map(_is_number, values)):
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    if all(isinstance(value, Mapping) and value.keys() == first.keys() for value in values):
        return {name: _mean([value[name] for value in values], weights) for name in first}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [_mean([value[place] for value in values], weights) for place in range(len(first))]
    if all(hasattr(value, "dtype") and value.shape == first.shape for value in values):
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    kinds = sorted({type(value).__name__ for value in values})
    raise ValueError(f"answers that have no average, of {kinds}: they must be numbers, or alike down to their numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_weight(value: Any) -> bool:
    return _is_number(value) and 0 < value < float("inf")


def _digest_of_file(cls: type[Combiner]) -> str:
    try:
        content = Path(inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError):
        raise Misconfigured(f"class {cls.__qualname__} is defined in no file: give it a version") from None
    return hashlib.sha256(content).hexdigest()[:12]
