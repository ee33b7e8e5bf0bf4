"""Natural batching for threads: what gathers goes together, and an interrupted thread takes nobody along."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from foreseen.gathering import Gathering

WAIT_S = 10.0


class Lines:
    """Two lines' worth of round trips that a test holds up, lets go, or breaks."""

    def __init__(self, n_lines: int = 1, **options: Any) -> None:
        self.trips: list[list[str]] = []
        self.began = threading.Semaphore(0)
        self.may_go = threading.Semaphore(0)
        self.errors: dict[str, BaseException] = {}
        self.made = n_lines
        options = {"most": 100, "patience_s": WAIT_S, **options}
        self.gathering: Gathering[int, str, str] = Gathering(range(n_lines), self.new, self.carry, **options)

    def new(self) -> int:
        self.made += 1
        return self.made

    def carry(self, line: int, works: Sequence[str]) -> list[str]:
        del line
        self.trips.append(list(works))
        self.began.release()
        assert self.may_go.acquire(timeout=WAIT_S)
        for work in works:
            if work in self.errors:
                raise self.errors.pop(work)
        return [work.upper() for work in works]

    def has_begun(self) -> None:
        assert self.began.acquire(timeout=WAIT_S)

    def waiting(self, n: int) -> None:
        """Wait until so many calls have gathered."""
        done = threading.Event()
        while not done.wait(0.001):
            if len(self.gathering._waiting) == n:
                done.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def answers(asked: Sequence[Future[str]]) -> list[str]:
    return [each.result(WAIT_S) for each in asked]


def test_a_lone_caller_goes_at_once_and_alone(threads: ThreadPoolExecutor) -> None:
    lines = Lines()
    lines.may_go.release()
    assert threads.submit(lines.gathering.send, "a").result(WAIT_S) == "A"
    assert lines.trips == [["a"]]


def held(threads: ThreadPoolExecutor, lines: Lines, works: str) -> list[Future[str]]:
    """Send the first, and the others in order while it is in the air."""
    asked = [threads.submit(lines.gathering.send, works[0])]
    lines.has_begun()
    for n, work in enumerate(works[1:], start=1):
        asked.append(threads.submit(lines.gathering.send, work))
        lines.waiting(n)
    return asked


def test_what_is_asked_meanwhile_goes_together_in_order(threads: ThreadPoolExecutor) -> None:
    lines = Lines()
    asked = held(threads, lines, "abcd")
    lines.may_go.release(2)
    assert answers(asked) == list("ABCD")
    assert lines.trips == [["a"], ["b", "c", "d"]]


def test_every_line_is_used_before_anything_gathers(threads: ThreadPoolExecutor) -> None:
    lines = Lines(2)
    asked = [threads.submit(lines.gathering.send, work) for work in "ab"]
    lines.has_begun()
    lines.has_begun()
    lines.may_go.release(2)
    assert answers(asked) == list("AB")
    assert sorted(lines.trips) == [["a"], ["b"]]


def test_a_round_trip_takes_no_more_than_it_may(threads: ThreadPoolExecutor) -> None:
    lines = Lines(most=2)
    asked = held(threads, lines, "abcde")
    lines.may_go.release(3)
    assert answers(asked) == list("ABCDE")
    assert [len(trip) for trip in lines.trips] == [1, 2, 2]


def test_each_hears_an_error_of_his_own(threads: ThreadPoolExecutor) -> None:
    lines = Lines()
    asked = held(threads, lines, "abc")
    cause = OSError("cut")
    lines.errors["c"] = ConnectionError("no answer")
    lines.errors["c"].__cause__ = cause
    lines.may_go.release(2)
    assert asked[0].result(WAIT_S) == "A"
    errors = [each.exception(WAIT_S) for each in asked[1:]]
    assert [str(error) for error in errors] == ["no answer"] * 2
    assert errors[0] is not errors[1]
    assert all(error is not None and error.__cause__ is cause for error in errors)


def test_a_thread_that_is_interrupted_while_it_carries_strands_nobody(threads: ThreadPoolExecutor) -> None:
    lines = Lines()
    asked = held(threads, lines, "abcd")
    lines.errors["b"] = KeyboardInterrupt()  # whichever of them carries
    lines.may_go.release(3)
    wait(asked, WAIT_S)
    interrupted = [each for each in asked if each.exception() is not None]
    assert [type(each.exception()) for each in interrupted] == [KeyboardInterrupt]
    rest = [work for work, each in zip("abcd", asked, strict=True) if each not in interrupted]
    assert sorted(answers([each for each in asked if each not in interrupted])) == [work.upper() for work in rest]
    assert not lines.gathering._waiting


def interrupt(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))


def noting_thread(idents: list[int], send: Callable[[str], str], work: str) -> str:
    idents.append(threading.get_ident())
    return send(work)


def test_who_is_interrupted_while_he_waits_takes_his_call_back_and_passes_the_wake_on(
    threads: ThreadPoolExecutor,
) -> None:
    lines, idents = Lines(), list[int]()
    first = threads.submit(lines.gathering.send, "a")
    lines.has_begun()
    leaver = threads.submit(noting_thread, idents, lines.gathering.send, "b")
    lines.waiting(1)
    last = threads.submit(lines.gathering.send, "c")
    lines.waiting(2)
    interrupt(idents[0])  # noticed when he is woken, which is to carry
    lines.may_go.release(2)
    assert isinstance(leaver.exception(WAIT_S), KeyboardInterrupt)
    assert answers([first, last]) == ["A", "C"]
    assert not lines.gathering._waiting


def test_who_has_waited_longer_than_any_round_trip_takes_goes_by_himself(threads: ThreadPoolExecutor) -> None:
    lines = Lines(patience_s=0.02)
    lines.gathering.idle()  # and nobody gives it back
    lines.may_go.release(2)
    assert threads.submit(lines.gathering.send, "a").result(WAIT_S) == "A"
    assert threads.submit(lines.gathering.send, "b").result(WAIT_S) == "B", "the new line stays"
    assert lines.made == 2


def test_there_are_never_more_idle_lines_than_there_were(threads: ThreadPoolExecutor) -> None:
    lines = Lines(patience_s=0.02)
    (line,) = lines.gathering.idle()
    lines.may_go.release()
    assert threads.submit(lines.gathering.send, "a").result(WAIT_S) == "A"
    lines.gathering.give_back(line)
    assert len(lines.gathering.idle()) == 1


def test_who_waits_can_be_told_at_once(threads: ThreadPoolExecutor) -> None:
    lines = Lines()
    asked = held(threads, lines, "abc")
    lines.gathering.tell_all(ConnectionError("away"))
    assert [str(each.exception(WAIT_S)) for each in asked[1:]] == ["away"] * 2
    lines.may_go.release()
    assert asked[0].result(WAIT_S) == "A"


@pytest.mark.parametrize("n_lines", [1, 3])
def test_a_storm_of_threads_is_answered_to_the_last(threads: ThreadPoolExecutor, n_lines: int) -> None:
    lines = Lines(n_lines, most=7)
    lines.may_go.release(10_000)
    asked = [threads.submit(lambda n=n: [lines.gathering.send(f"x{n} {i}") for i in range(50)]) for n in range(20)]
    for n, each in enumerate(asked):
        assert each.result(60) == [f"X{n} {i}" for i in range(50)]
    assert len(lines.gathering.idle()) == n_lines
