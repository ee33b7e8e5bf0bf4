from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from foreseen.errors import Misconfigured
from workers.combine import Combiner, FirstGood, HardVote, Mean, SoftVote, Stacking


def answers(*each: Any) -> dict[str, Any]:
    return dict(zip("abcdef", each, strict=False))


class TestMean:
    @pytest.mark.parametrize(
        ("given", "average"),
        [
            ((1, 2, 6), 3.0),
            (([1, 2], [3, 6]), [2.0, 4.0]),
            (({"x": 1, "y": {"z": [2]}}, {"x": 3, "y": {"z": [4]}}), {"x": 2.0, "y": {"z": [3.0]}}),
            ((5,), 5.0),
        ],
    )
    def test_is_of_numbers_place_by_place(self, given: tuple[Any, ...], average: Any) -> None:
        assert Mean().combine(answers(*given)) == average

    def test_of_arrays_is_an_array(self) -> None:
        mean = Mean().combine(answers(np.array([1.0, 2.0]), np.array([3.0, 6.0])))
        assert mean.tolist() == [2.0, 4.0]

    def test_weights_count(self) -> None:
        assert Mean(weights={"a": 3, "b": 1}).combine(answers(1, 5)) == 2.0

    def test_weights_of_those_who_are_missing_count_nothing(self) -> None:
        assert Mean(weights={"a": 3, "b": 1, "c": 9}).combine(answers(1, 5)) == 2.0

    @pytest.mark.parametrize(
        "given",
        [(1, "2"), ([1], [1, 2]), ({"x": 1}, {"y": 1}), (True, False), (np.zeros(2), np.zeros(3)), (None, None)],
    )
    def test_what_is_not_alike_has_none(self, given: tuple[Any, ...]) -> None:
        with pytest.raises(ValueError, match="no average"):
            Mean().combine(answers(*given))


class TestSoftVote:
    @pytest.mark.parametrize(
        ("given", "label", "confidence"),
        [
            (({"x": 0.6, "y": 0.4}, {"x": 0.1, "y": 0.9}), "y", 0.65),
            (([0.2, 0.8], [0.4, 0.6]), 1, 0.7),
            ((np.array([0.9, 0.1]), np.array([0.5, 0.5])), 0, 0.7),
            (({"x": 0.9, "y": 0.1}, {"y": 0.6, "z": 0.4}), "x", 0.45),
            (({"x": 0.5, "y": 0.5}, {"x": 0.5, "y": 0.5}), "x", 0.5),
        ],
    )
    def test_is_for_the_highest_average_and_the_first_of_equals(
        self, given: tuple[Any, ...], label: Any, confidence: float
    ) -> None:
        assert SoftVote().combine(answers(*given)) == {"label": label, "confidence": pytest.approx(confidence)}

    def test_weights_count(self) -> None:
        vote = SoftVote(weights={"a": 3, "b": 1}).combine(answers([0.6, 0.4], [0.1, 0.9]))
        assert vote == {"label": 1, "confidence": pytest.approx(0.525)}

    @pytest.mark.parametrize("given", ["x", {"label": "x", "confidence": 1}, [[0.5, 0.5]], np.zeros((2, 2)), 0.5])
    def test_what_is_no_probabilities_is_told_what_would_be(self, given: Any) -> None:
        with pytest.raises(ValueError, match="is no probabilities: an object of numbers by label"):
            SoftVote().combine(answers(given))

    def test_nothing_at_all_names_no_label(self) -> None:
        with pytest.raises(ValueError, match="no member named a label"):
            SoftVote().combine(answers([]))


class TestHardVote:
    @pytest.mark.parametrize(
        ("given", "label", "share"),
        [
            (("x", "y", "y"), "y", 2 / 3),
            (("y", "x"), "y", 1 / 2),  # the earlier member's, of equals
            (({"label": "x", "confidence": 0.1}, "x", "y"), "x", 2 / 3),
            (([0.1, 0.9], 1, {"label": 1}), 1, 1.0),
            (({"x": 0.2, "y": 0.3},), "y", 1.0),
        ],
    )
    def test_is_for_the_label_of_most(self, given: tuple[Any, ...], label: Any, share: float) -> None:
        assert HardVote().combine(answers(*given)) == {"label": label, "confidence": pytest.approx(share)}

    def test_weights_count(self) -> None:
        vote = HardVote(weights={"a": 5, "b": 1, "c": 1}).combine(answers("x", "y", "y"))
        assert vote["label"] == "x"


class TestFirstGood:
    @pytest.mark.parametrize(
        ("answer", "confidence"),
        [
            ({"label": "x", "confidence": 0.7}, 0.7),
            ({"label": "x", "score": 0.8}, 0.8),
            ({"x": 0.1, "y": 0.9}, 0.9),
            ([0.3, 0.6], 0.6),
            (np.array([0.3, 0.6]), 0.6),
            (0.4, 0.4),
        ],
    )
    def test_knows_how_confident_an_answer_is(self, answer: Any, confidence: float) -> None:
        assert FirstGood().confidence_of(answer) == confidence
        assert FirstGood(confidence=confidence).is_enough(answer)
        assert not FirstGood(confidence=confidence + 0.01).is_enough(answer)

    def test_what_says_nothing_of_confidence_is_refused(self) -> None:
        with pytest.raises(ValueError, match="is no probabilities"):
            FirstGood().is_enough("x")


class TestParts:
    def test_say_class_version_and_parameters(self) -> None:
        parts = {
            Mean().part(), Mean(weights={"a": 1}).part(), SoftVote().part(), HardVote().part(), FirstGood().part(),
            FirstGood(confidence=0.8).part(), Stacking("x").part(), Stacking("y").part(),
        }  # fmt: skip
        assert len(parts) == 8
        assert Mean(weights={"a": 1, "b": 2}).part() == Mean(weights={"b": 2, "a": 1}).part()

    def test_of_a_combiner_of_one_s_own_say_its_file_unless_it_has_a_version(self) -> None:
        class Own(Combiner):
            def combine(self, answers: Mapping[str, Any]) -> Any:
                return [*answers]

        class Said(Own):
            version = "7"

        assert "Own@" in Own().part()
        assert len(Own().part().partition("@")[2].split()[0]) == 12
        assert "Said@7 " in Said().part()


@pytest.mark.parametrize(
    "weights", [{"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": -1}, {"a": 1, "b": True}, {"a": 1, "b": 2, "c": 3}]
)
def test_weights_are_of_each_member_and_above_0(weights: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match=r"give a number above 0 for each of \['a', 'b'\]"):
        Mean(weights=weights).check(("a", "b"))
