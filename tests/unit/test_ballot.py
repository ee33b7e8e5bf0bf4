"""Which members are asked next, and what their outcomes come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ballot import SAME, Ask, Ballot, Combined, Missed, Wait
from workers.combine import Combiner, FirstGood, Mean, Stacking

MEMBERS = ("a", "b", "c")


def ballot(combiner: Combiner | None = None, quorum: int = 3, members: tuple[str, ...] = MEMBERS) -> Ballot:
    return Ballot(members, combiner or Mean(), quorum)


class TestAllAtOnce:
    def test_every_member_is_asked_once(self) -> None:
        one = ballot()
        assert one.step() == Ask(MEMBERS, SAME)
        assert one.step() == Wait()

    def test_it_waits_for_the_last_and_then_combines(self) -> None:
        one = ballot()
        one.step()
        one.answered("c", 3)
        one.answered("a", 1)
        assert one.step() == Wait()
        one.answered("b", 2)
        assert one.step() == Combined(2.0, MEMBERS, {})

    def test_answers_are_in_the_members_order_whichever_came_first(self) -> None:
        class Listed(Combiner):
            version = "1"

            def combine(self, answers: Mapping[str, Any]) -> Any:
                return [*answers.items()]

        one = ballot(Listed())
        one.step()
        for name in reversed(MEMBERS):
            one.answered(name, name.upper())
        assert one.step() == Combined([("a", "A"), ("b", "B"), ("c", "C")], MEMBERS, {})

    def test_with_a_quorum_the_others_are_waited_for_all_the_same(self) -> None:
        one = ballot(quorum=1)
        one.step()
        one.answered("a", 1)
        assert one.step() == Wait()

    def test_with_a_quorum_it_combines_what_there_is_once_the_others_have_failed(self) -> None:
        one = ballot(quorum=2)
        one.step()
        one.answered("a", 1)
        one.failed("b", "broken")
        assert one.step() == Wait()
        one.answered("c", 3)
        assert one.step() == Combined(2.0, ("a", "c"), {"b": "broken"})

    def test_where_the_quorum_cannot_be_reached_any_more_nobody_else_is_waited_for(self) -> None:
        one = ballot(quorum=2)
        one.step()
        one.failed("a", "broken")
        assert one.step() == Wait()
        one.failed("b", "late")
        assert one.step() == Missed({"a": "broken", "b": "late"})

    def test_what_is_missing_from_a_member_s_own_answer_is_missing_from_this_one(self) -> None:
        one = ballot(quorum=1, members=("a",))
        one.step()
        one.answered("a", 1, {"deep@1": "broken"})
        assert one.step() == Combined(1.0, ("a",), {"a/deep@1": "broken"})


class TestInTurn:
    def test_the_next_is_asked_only_while_nobody_is_confident(self) -> None:
        one = ballot(FirstGood(confidence=0.9), 1)
        assert one.step() == Ask(("a",))
        assert one.step() == Wait()
        one.answered("a", {"x": 0.5})
        assert one.step() == Ask(("b",))
        one.answered("b", {"x": 0.95})
        assert one.step() == Combined({"x": 0.95}, ("b",), {})

    def test_the_last_one_s_answer_is_taken_as_it_is(self) -> None:
        one = ballot(FirstGood(confidence=0.9), 1)
        for name in MEMBERS:
            assert one.step() == Ask((name,))
            one.answered(name, {"x": 0.1})
        assert one.step() == Combined({"x": 0.1}, ("c",), {})

    def test_after_one_that_fails_the_next_is_asked(self) -> None:
        one = ballot(FirstGood(), 1)
        one.step()
        one.failed("a", "broken")
        assert one.step() == Ask(("b",))
        one.answered("b", 0.99)
        assert one.step() == Combined(0.99, ("b",), {"a": "broken"})

    def test_where_the_last_ones_fail_an_earlier_answer_is_better_than_none(self) -> None:
        one = ballot(FirstGood(), 1)
        one.step()
        one.answered("a", 0.2)
        for name in ("b", "c"):
            assert one.step() == Ask((name,))
            one.failed(name, "broken")
        assert one.step() == Combined(0.2, ("a",), {"b": "broken", "c": "broken"})

    def test_where_all_fail_there_is_no_answer(self) -> None:
        one = ballot(FirstGood(), 1)
        for name in MEMBERS:
            assert one.step() == Ask((name,))
            one.failed(name, "broken")
        assert one.step() == Missed(dict.fromkeys(MEMBERS, "broken"))


class TestStacking:
    def test_the_stacker_is_asked_about_the_answers(self) -> None:
        one = ballot(Stacking("judge"))
        one.step()
        for number, name in enumerate(MEMBERS):
            one.answered(name, number)
        assert one.step() == Ask(("judge",), {"a": 0, "b": 1, "c": 2})
        assert one.step() == Wait()
        one.answered("judge", "well")
        assert one.step() == Combined("well", (*MEMBERS, "judge"), {})

    def test_without_the_stacker_there_is_no_answer_whatever_the_quorum(self) -> None:
        one = ballot(Stacking("judge"), 1)
        one.step()
        for name in MEMBERS:
            one.answered(name, 1)
        one.step()
        one.failed("judge", "broken")
        assert one.step() == Missed({"judge": "broken"})


def test_answers_that_do_not_go_together_raise() -> None:
    one = ballot()
    one.step()
    for name, answer in zip(MEMBERS, (1, "two", [3]), strict=True):
        one.answered(name, answer)
    with pytest.raises(ValueError, match="answers that have no average"):
        one.step()


@given(st.data())
def test_every_ballot_ends_whatever_its_members_do(data: st.DataObject) -> None:
    """Each member is asked at most once; once nobody is open there is an answer, or the reason why there is none."""
    members = tuple("abcde"[: data.draw(st.integers(1, 5))])
    combiner = data.draw(st.sampled_from([Mean(), FirstGood(confidence=0.5), Stacking("z")]))
    quorum = 1 if combiner.in_turn else data.draw(st.integers(1, len(members)))
    one = Ballot(members, combiner, quorum)
    open_: list[str] = []
    asked: list[str] = []
    while True:
        step = one.step()
        if isinstance(step, Ask):
            assert not {*step.members} & {*asked}
            open_ += step.members
            asked += step.members
        elif isinstance(step, Wait):
            assert open_, "nobody is left who could end it"
            name = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
            if data.draw(st.booleans()):
                one.answered(name, data.draw(st.floats(0, 1)))
            else:
                one.failed(name, "broken")
        else:
            break
    answered = [name for name in members if name in one.answers]
    if isinstance(step, Combined):
        assert len(answered) >= quorum
        assert set(step.missing) == set(one.missing)
    else:
        assert isinstance(step, Missed)
        assert len(answered) < quorum or "z" in one.missing
