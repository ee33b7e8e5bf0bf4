"""The open submissions of a process: one answer each, and a look when it was told to."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from foreseen.client.submission import Answer, Submission
from foreseen.client.table import NEVER, Table
from foreseen.errors import ProducerClosed
from foreseen.flights import Kind
from foreseen.keys import Key
from foreseen.outcome import Result

NOW = 100.0


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr("foreseen.client.table.time", SimpleNamespace(monotonic=lambda: NOW))
    return Table()


def submission(digest: str = "a", kind: Kind = Kind.WAITER) -> Submission:
    return Submission(Key("model", "1", digest * 40), None, kind)


def follow(table: Table, one: Submission, *tokens: str, serial: int = 1, wait_s: float = 10.0) -> Submission:
    """Put a submission into flights."""
    table.add(one)
    one.tokens, one.serial = tuple(tokens), serial
    assert table.joined(one, wait_s) is None
    return one


def listen(table: Table, one: Submission) -> list[Answer]:
    heard: list[Answer] = []
    table.watch(one, heard.append)
    return heard


def at_once(*actions: Callable[[], object]) -> None:
    """Run each on a thread of its own, let go together."""
    gate = threading.Barrier(len(actions))
    raised: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        try:
            gate.wait(10)
            action()
        except BaseException as error:  # noqa: BLE001 - told on the test's own thread
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert raised == []


class TestAnswers:
    def test_the_first_one_stands(self, table: Table) -> None:
        one = follow(table, submission(), "t1")
        heard = listen(table, one)
        assert table.settle(one, Result(1))
        assert not table.settle(one, Result(2))
        assert (one.answer, heard, len(table)) == (Result(1), [Result(1)], 0)

    def test_who_listens_late_hears_at_once(self, table: Table) -> None:
        one = follow(table, submission(), "t1")
        table.settle(one, Result(None))
        assert listen(table, one) == [Result(None)]

    def test_who_is_called_may_use_the_table(self, table: Table) -> None:
        """Nobody is called under the lock."""
        one, other = follow(table, submission(), "t1"), follow(table, submission(), "t1")

        def pass_on(answer: Answer) -> None:
            table.settle(other, answer)

        table.watch(one, pass_on)
        table.settle(one, Result(1))
        assert other.answer == Result(1)

    def test_a_submission_of_the_same_key_is_left_alone(self, table: Table) -> None:
        one, other = follow(table, submission(), "t1"), follow(table, submission(), "t2")
        table.settle(one, Result(1))
        assert other.answer is None
        assert len(table) == 1


class TestThreads:
    def test_each_is_answered_exactly_once_however_many_try(self) -> None:
        """Pushes, looks and leaves come from threads of their own."""
        table = Table()
        ones = [follow(table, submission("abcdef"[n % 6]), "t1") for n in range(300)]
        heard = [listen(table, one) for one in ones]
        won: list[tuple[int, Answer]] = []

        def settle(name: int) -> None:
            for n, one in enumerate(ones):
                if table.settle(one, Result(name)):
                    won.append((n, Result(name)))

        def leave() -> None:
            for n, one in enumerate(ones):
                was_open, _ = table.withdraw(one)
                error = ProducerClosed("gone")
                if was_open and table.settle(one, error):
                    won.append((n, error))

        at_once(lambda: settle(1), lambda: settle(2), leave, leave, lambda: settle(3))
        assert sorted(n for n, _ in won) == list(range(300))
        assert [heard[n] == [answer] for n, answer in won] == [True] * 300
        assert len(table) == 0

    def test_who_listens_while_it_is_answered_hears_exactly_once(self) -> None:
        table = Table()
        ones = [follow(table, submission("abcdef"[n % 6]), "t1") for n in range(300)]
        heard: list[list[Answer]] = [[] for _ in ones]

        def watch() -> None:
            for one, ear in zip(ones, heard, strict=True):
                table.watch(one, ear.append)

        def settle() -> None:
            for one in ones:
                table.settle(one, Result(1))

        at_once(watch, settle)
        assert heard == [[Result(1)]] * 300

    def test_only_one_who_leaves_tells_the_server(self) -> None:
        """Of all local waiters of a key one sends the leave, with the latest serial."""
        table = Table()
        for _ in range(50):
            ones = [follow(table, submission(), "t1", serial=n) for n in (1, 2, 3, 4)]
            serials: list[int] = []

            def leave(one: Submission, serials: list[int] = serials) -> None:
                serials.append(table.withdraw(one)[1])

            at_once(*(partial(leave, one) for one in ones))
            assert sorted(serials) == [0, 0, 0, 4]

    def test_one_look_is_taken_by_one_thread(self) -> None:
        table = Table()
        ones = [follow(table, submission("abcdef"[n % 6]), "t1", wait_s=-1.0) for n in range(300)]
        taken: list[Submission] = []

        def take() -> None:
            while some := table.due(1e12, 7):
                taken.extend(some)

        at_once(take, take, take)
        assert len(taken) == 300
        assert {id(one) for one in taken} == {id(one) for one in ones}

    def test_its_length_can_be_asked_while_it_changes(self) -> None:
        table = Table()

        def change() -> None:
            for n in range(500):
                one = Submission(Key("model", "1", f"{n:040x}"), None, Kind.WAITER)
                table.add(one)
                table.settle(one, Result(n))

        def measure() -> None:
            for _ in range(500):
                assert len(table) >= 0

        at_once(change, change, measure)
        assert len(table) == 0

    def test_nobody_slips_in_while_it_closes(self) -> None:
        """Either the closing finds a submission, or the submission finds that it is closed."""
        for _ in range(100):
            table, one = Table(), submission()
            found: list[Submission] = []
            refused: list[ProducerClosed] = []

            def add(table: Table = table, one: Submission = one, refused: list[ProducerClosed] = refused) -> None:
                try:
                    table.add(one)
                except ProducerClosed as error:
                    refused.append(error)

            at_once(add, lambda table=table, found=found: found.extend(table.close()))  # type: ignore[misc]
            assert len(found) + len(refused) == 1


class TestLooks:
    def test_come_when_they_were_told_to_and_in_that_order(self, table: Table) -> None:
        late = follow(table, submission("a"), "t1", wait_s=3)
        soon = follow(table, submission("b"), "t2", wait_s=1)
        assert table.next_due() == NOW + 1
        assert table.due(NOW + 0.9, 10) == []
        assert table.due(NOW + 5, 10) == [soon, late]

    def test_are_taken_once(self, table: Table) -> None:
        one = follow(table, submission(), "t1", wait_s=1)
        assert table.due(NOW + 5, 10) == [one]
        assert table.due(NOW + 5, 10) == []
        assert table.next_due() is None

    def test_are_taken_a_few_at_a_time(self, table: Table) -> None:
        ones = [follow(table, submission(), "t1", wait_s=1) for _ in range(5)]
        assert [table.due(NOW + 1, 2) for _ in range(4)] == [ones[:2], ones[2:4], ones[4:], []]

    def test_come_again_after_each_answer(self, table: Table) -> None:
        one = follow(table, submission(), "t1", wait_s=1)
        table.due(NOW + 1, 10)
        table.joined(one, 7)
        assert table.due(NOW + 6, 10) == []
        assert table.due(NOW + 7, 10) == [one]

    def test_a_superseded_time_causes_none(self, table: Table) -> None:
        """What is told to look now and is put off then looks once, at the time told last."""
        one = follow(table, submission(), "t1", wait_s=5)
        table.everybody_looks_now()
        table.everybody_looks_now()
        assert table.due(NOW, 10) == [one]
        table.joined(one, 9)
        assert table.due(NOW + 8, 10) == []  # the entry for NOW + 5 is stale
        assert table.due(NOW + 9, 10) == [one]

    @pytest.mark.parametrize("end", ["settle", "withdraw"])
    def test_who_is_gone_does_not_look(self, table: Table, end: str) -> None:
        one, other = follow(table, submission(), "t1", wait_s=1), follow(table, submission(), "t1", wait_s=1)
        if end == "settle":
            table.settle(one, Result(1))
        else:
            table.withdraw(one)
        assert table.due(NOW + 5, 10) == [other]

    def test_who_left_while_its_look_was_in_the_air_does_not_look_again(self, table: Table) -> None:
        one = follow(table, submission(), "t1", wait_s=1)
        table.due(NOW + 1, 10)
        table.withdraw(one)
        table.joined(one, 1)
        assert table.due(NOW + 50, 10) == []

    def test_of_many_who_are_answered_no_times_are_kept(self, table: Table) -> None:
        """Else each would be kept, with its input and its answer, until it was to look."""
        waiting = follow(table, submission("b"), "t0", wait_s=5)
        values: weakref.WeakSet[threading.Event] = weakref.WeakSet()
        for n in range(3000):
            value = threading.Event()  # of all objects one that can be watched
            values.add(value)
            assert table.settle(follow(table, submission(), f"t{n}", wait_s=10), Result(value))
        gc.collect()
        assert len(values) <= 600
        assert len(table) == 1
        assert table.next_due() == NOW + 5
        assert table.due(NOW + 10, 5000) == [waiting]

    def test_everybody_looks_now_after_a_reconnect(self, table: Table) -> None:
        ones = [follow(table, submission(digest), "t1", wait_s=10) for digest in "abc"]
        table.everybody_looks_now()
        assert table.due(NOW, 10) == ones

    def test_who_is_joining_then_looks_as_soon_as_that_is_answered(self, table: Table) -> None:
        """Its join may have been answered before the reconnect, and its push lost."""
        one = submission()
        table.add(one)
        table.everybody_looks_now()
        assert table.due(NOW, 10) == []
        table.joined(one, 10)
        assert table.due(NOW, 10) == [one]
        table.joined(one, 10)
        assert table.due(NOW, 10) == []  # once is enough


class TestPushes:
    def test_go_to_those_who_joined_one_of_the_flights(self, table: Table) -> None:
        first = follow(table, submission(), "t1")
        both = follow(table, submission(), "t1", "t2")
        follow(table, submission(), "t3")
        follow(table, submission("b"), "t1")
        assert table.pushed("a" * 40, "t1", b"entry") == [first, both]
        assert table.pushed("a" * 40, "t0,t2", b"entry") == [both]
        assert table.pushed("c" * 40, "t1", b"entry") == []

    def test_wait_for_those_whose_join_is_in_the_air(self, table: Table) -> None:
        one = submission()
        table.add(one)
        assert table.pushed("a" * 40, "t1", b"entry") == []
        one.tokens += ("t1",)
        assert table.joined(one, 10) == b"entry"

    def test_that_waited_in_vain_are_forgotten(self, table: Table) -> None:
        one = submission()
        table.add(one)
        table.pushed("a" * 40, "t1", b"entry")
        one.tokens += ("t2",)
        assert table.joined(one, 10) is None
        one.tokens += ("t1",)
        assert table.joined(one, 10) is None

    def test_that_came_early_change_nothing_for_who_is_answered(self, table: Table) -> None:
        one = submission()
        table.add(one)
        table.pushed("a" * 40, "t1", b"entry")
        one.tokens += ("t1",)
        table.settle(one, Result(1))
        assert table.joined(one, 10) is None

    @pytest.mark.parametrize("early", [True, False])
    def test_with_only_the_name_make_it_look_now(self, table: Table, early: bool) -> None:
        one = submission()
        table.add(one)
        one.tokens += ("t1" if not early else "t0",)
        if not early:
            table.joined(one, 10)
        assert table.pushed("a" * 40, "t1", b"") == []
        if early:
            one.tokens += ("t1",)
            assert table.joined(one, 10) is None
        assert table.due(NOW, 10) == [one]


class TestWithdrawing:
    def test_names_the_latest_serial_of_its_kind_once_the_last_leaves(self, table: Table) -> None:
        ones = [follow(table, submission(), "t1", serial=serial) for serial in (4, 9, 6)]
        assert [table.withdraw(one) for one in ones] == [(True, 0), (True, 0), (True, 9)]

    def test_kinds_are_counted_apart(self, table: Table) -> None:
        waiter = follow(table, submission(), "t1", serial=4)
        detached = follow(table, submission("a", Kind.DETACHED), "t1", serial=5)
        assert table.withdraw(waiter) == (True, 4)
        assert table.withdraw(detached) == (True, 5)

    def test_a_serial_in_the_air_counts(self, table: Table) -> None:
        one = follow(table, submission(), "t1", serial=4)
        one.serial = 8
        assert table.withdraw(one) == (True, 8)

    def test_who_never_joined_has_nothing_to_undo(self, table: Table) -> None:
        one = submission()
        table.add(one)
        assert table.withdraw(one) == (True, 0)

    def test_who_is_not_in_cannot_leave(self, table: Table) -> None:
        stranger, gone, answered = submission(), follow(table, submission(), "t1"), follow(table, submission(), "t1")
        table.withdraw(gone)
        table.settle(answered, Result(1))
        assert [table.withdraw(one) for one in (stranger, gone, answered)] == [(False, 0)] * 3

    def test_a_new_group_begins_with_no_serial(self, table: Table) -> None:
        table.withdraw(follow(table, submission(), "t1", serial=9))
        one = submission()
        table.add(one)
        assert table.withdraw(one) == (True, 0)


def test_closing_returns_what_is_open_and_refuses_what_comes_later(table: Table) -> None:
    ones: list[Any] = [follow(table, submission(), "t1"), follow(table, submission("b"), "t1")]
    table.settle(follow(table, submission(), "t1"), Result(1))
    assert list(table.close()) == ones
    with pytest.raises(ProducerClosed):
        table.add(submission())


class TestMoving:
    """Of one that asked by a bare name, to the key of the version that this means now."""

    OTHER = Key("model", "2", "b" * 40)

    def test_it_looks_there_at_once_and_from_the_beginning(self, table: Table) -> None:
        one = follow(table, submission(), "t1")
        one.not_before, one.direct = 7, "t1"
        table.move(one, self.OTHER, pushed=True)
        assert table.due(NOW, 10) == [one]
        assert (one.key, one.tokens, one.not_before, one.direct) == (self.OTHER, (), 0, "")
        assert table.pushed("a" * 40, "t1", b"old") == []
        one.tokens = ("t2",)
        table.joined(one, 10.0)
        assert table.pushed("b" * 40, "t2", b"new") == [one]

    def test_one_that_wants_it_computed_anew_takes_no_entry_that_is_there(self, table: Table) -> None:
        one = follow(table, submission(), "t1")
        one.refresh = True
        table.move(one, self.OTHER, pushed=True)
        assert one.not_before == NEVER

    def test_not_while_a_look_is_in_the_air_which_finds_it_out_itself(self, table: Table) -> None:
        one = follow(table, submission(), "t1", wait_s=0.0)
        assert table.due(NOW, 10) == [one]
        table.move(one, self.OTHER, pushed=True)
        assert one.key.version == "1"
        table.joined(one, 10.0)
        assert table.due(NOW, 10) == [one], "it looks again at once"
        table.move(one, self.OTHER, pushed=False)  # what that look was told
        assert one.key == self.OTHER

    def test_one_that_has_left_stays_away(self, table: Table) -> None:
        one = follow(table, submission(), "t1")
        table.withdraw(one)
        table.move(one, self.OTHER, pushed=True)
        assert len(table) == 0
        assert one.key.version == "1"
