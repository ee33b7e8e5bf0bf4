"""Threads that put together what they bring: who makes a call, who waits for it, who is let go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from workers.gathering import Answered, Gathering
from workers.policies import Batching

DEADLINE_S = 20.0
#: Longer than any test: nothing starts because of it.
NEVER_S = 1000.0


@dataclass(eq=False)
class Thing:
    name: str
    priority: int = 4
    deadline_at: float = float("inf")


def things(names: str, **options: Any) -> list[Thing]:
    return [Thing(name, **options) for name in names]


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.001)


@dataclass
class Call:
    """A call under way, which waits to be let go on."""

    names: str
    thread: int
    answered: Answered
    go: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def end(self, error: BaseException | None = None) -> None:
        self.error = error
        self.go.set()


class Scene:
    """A gathering, the threads that bring to it, and calls that end when the test says so."""

    def __init__(self, pool: ThreadPoolExecutor, max_batch_size: int, max_wait_s: float) -> None:
        self.gathering: Gathering[Thing] = Gathering(Batching(max_batch_size=max_batch_size, max_wait_s=max_wait_s))
        self.pool = pool
        self.calls: list[Call] = []
        self.told: list[str] = []
        self.telling: BaseException | None = None

    def call(self, batch: Sequence[Thing], answered: Answered) -> None:
        call = Call("".join(one.name for one in batch), threading.get_ident(), answered)
        self.calls.append(call)
        assert call.go.wait(DEADLINE_S)
        if call.error is not None:
            raise call.error

    def tell(self, batch: Sequence[Thing]) -> None:
        self.told.append("".join(one.name for one in batch))
        if self.telling is not None:
            raise self.telling

    def bring(self, brought: Sequence[Thing]) -> Future[int]:
        """Bring them on a thread of their own, and return once they are there; it returns that thread."""

        def compute() -> int:
            self.gathering.compute(brought, self)
            return threading.get_ident()

        there = len(self.waiting) + sum(len(call.names) for call in self.calls)
        future = self.pool.submit(compute)
        until(
            lambda: len(self.waiting) + sum(len(call.names) for call in self.calls) == there + len(brought),
            "it has come",
        )
        return future

    @property
    def waiting(self) -> str:
        return "".join(each.thing.thing.name for each in self.gathering._gathered.waiting)

    def nth(self, number: int) -> Call:
        """Wait for the call of that number, counted from 0."""
        until(lambda: len(self.calls) > number, f"call {number}")
        return self.calls[number]


@pytest.fixture
def make() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []
    with ThreadPoolExecutor(32) as pool:

        def scene(max_batch_size: int = 4, max_wait_s: float = NEVER_S) -> Scene:
            scenes.append(Scene(pool, max_batch_size, max_wait_s))
            return scenes[-1]

        yield scene
        for one in scenes:  # so that a test which failed ends
            for call in one.calls:
                call.go.set()


def test_a_lone_one_is_computed_at_once_by_the_thread_that_brings_it(make: Callable[..., Scene]) -> None:
    scene = make()
    future = scene.bring(things("a"))
    call = scene.nth(0)
    call.end()
    assert future.result(DEADLINE_S) == call.thread
    assert scene.told == ["a"]


def test_what_comes_while_a_call_runs_is_computed_together_when_it_ends(make: Callable[..., Scene]) -> None:
    scene = make()
    futures = [scene.bring(things(names)) for names in ("x", "ab", "c")]
    assert [call.names for call in scene.calls] == ["x"]
    scene.nth(0).end()
    scene.nth(1).end()
    threads = [future.result(DEADLINE_S) for future in futures]
    assert [call.names for call in scene.calls] == ["x", "abc"]
    assert scene.calls[1].thread in threads[1:]  # whose call has ended goes on with its own
    assert sorted(scene.told) == ["abc", "x"]


def test_a_full_batch_starts_beside_the_call_that_runs(make: Callable[..., Scene]) -> None:
    scene = make()
    futures = [scene.bring(things(names)) for names in ("x", "ab", "cd")]
    assert scene.nth(1).names == "abcd"
    for call in scene.calls:
        call.end()
    assert all(future.result(DEADLINE_S) for future in futures)


def test_who_has_waited_long_enough_starts_beside_it(make: Callable[..., Scene]) -> None:
    scene = make(max_wait_s=0.01)
    futures = [scene.bring(things(names)) for names in ("x", "a")]
    assert scene.nth(1).names == "a"
    for call in scene.calls:
        call.end()
    assert all(future.result(DEADLINE_S) for future in futures)


def test_more_than_a_batch_is_started_in_as_many_calls_as_it_takes(make: Callable[..., Scene]) -> None:
    """Each by a thread that is free; none waits for another's to end."""
    scene = make(max_batch_size=2)
    futures = [scene.bring(things("x"))]
    futures += [scene.bring(things(name)) for name in "abc"]
    futures.append(scene.bring(things("d")))
    assert sorted(scene.nth(n).names for n in range(3)) == ["ab", "cd", "x"]
    for call in scene.calls:
        call.end()
    assert len({future.result(DEADLINE_S) for future in futures}) == 5


def test_what_is_left_of_more_than_a_batch_is_started_by_another_thread(make: Callable[..., Scene]) -> None:
    scene = make(max_batch_size=2)
    futures = [scene.bring(things("x")), scene.bring(things("a", priority=0)), scene.bring(things("bcd", priority=9))]
    assert sorted(scene.nth(n).names for n in range(3)) == ["bc", "da", "x"]
    for call in scene.calls:
        call.end()
    assert all(future.result(DEADLINE_S) for future in futures)


def test_a_thread_that_brings_more_than_a_batch_computes_them_one_after_the_other(make: Callable[..., Scene]) -> None:
    scene = make(max_batch_size=2)
    future = scene.bring(things("abcde"))
    for n, names in enumerate(("ab", "cd", "e")):
        assert scene.nth(n).names == names
        scene.nth(n).end()
    future.result(DEADLINE_S)
    assert scene.told == ["ab", "cd", "e"]


def test_the_next_call_starts_before_the_outcomes_of_the_last_are_told(make: Callable[..., Scene]) -> None:
    scene = make()
    told = threading.Event()

    def tell(batch: Sequence[Thing]) -> None:
        if batch[0].name == "x":
            assert told.wait(DEADLINE_S)

    scene.tell = tell  # type: ignore[method-assign]
    futures = [scene.bring(things(name)) for name in "xa"]
    scene.nth(0).end()
    scene.nth(1).end()
    futures[1].result(DEADLINE_S)
    assert not futures[0].done()
    told.set()
    futures[0].result(DEADLINE_S)


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(), ValueError()])
def test_what_ends_a_call_is_raised_wherever_somebody_waits_for_it(
    make: Callable[..., Scene], error: BaseException
) -> None:
    scene = make()
    first = scene.bring(things("x"))
    second, third = scene.bring(things("a")), scene.bring(things("bc"))
    scene.nth(0).end()
    scene.nth(1).end(error)
    assert [type(future.exception(DEADLINE_S)) for future in (second, third)] == [type(error)] * 2
    assert first.exception(DEADLINE_S) is None
    assert scene.told == ["x"]
    later = scene.bring(things("d"))  # the model counts as idle again
    scene.nth(2).end()
    assert later.exception(DEADLINE_S) is None


def test_outcomes_that_cannot_be_told_are_raised_likewise(make: Callable[..., Scene]) -> None:
    scene = make()
    futures = [scene.bring(things(name)) for name in "xab"]
    scene.nth(0).end()
    scene.nth(1)
    until(futures[0].done, "the first is told")
    scene.telling = ValueError("away")
    scene.nth(1).end()
    assert [type(future.exception(DEADLINE_S)) for future in futures] == [type(None), ValueError, ValueError]


def test_who_raises_leaves_nothing_waiting_behind(make: Callable[..., Scene]) -> None:
    scene = make(max_batch_size=2)
    future = scene.bring(things("abc"))
    scene.nth(0).end(ValueError())
    assert isinstance(future.exception(DEADLINE_S), ValueError)
    assert scene.waiting == ""
    assert len(scene.calls) == 1


def test_who_is_answered_for_goes_and_the_thread_of_the_call_stays(make: Callable[..., Scene]) -> None:
    scene = make()
    futures = [scene.bring(things(name)) for name in "xab"]
    scene.nth(0).end()
    stuck = scene.nth(1)
    stuck.answered(None)
    until(lambda: sum(future.done() for future in futures) == 2, "who only waited is let go")
    later = scene.bring(things("c"))  # a lost call is none that runs
    scene.nth(2).end()
    later.result(DEADLINE_S)
    stuck.end()  # comes back at last
    for future in futures:
        future.result(DEADLINE_S)
    another = scene.bring(things("d"))
    scene.nth(3).end()
    another.result(DEADLINE_S)


def test_who_could_not_be_answered_for_raises(make: Callable[..., Scene]) -> None:
    scene = make()
    futures = [scene.bring(things(name)) for name in "xab"]
    scene.nth(0).end()
    stuck = scene.nth(1)
    stuck.answered(ValueError("away"))
    until(lambda: sum(future.done() for future in futures) == 2, "who only waited is let go")
    stuck.end()
    assert [type(future.exception(DEADLINE_S)) for future in futures] == [type(None), ValueError, ValueError]


def test_what_is_late_is_handed_to_the_call_at_its_deadline(make: Callable[..., Scene]) -> None:
    scene = make()
    first = scene.bring(things("x"))
    late = scene.bring(things("a", deadline_at=time.monotonic() + 0.05))
    assert scene.nth(1).names == "a"
    for call in scene.calls:
        call.end()
    first.result(DEADLINE_S)
    late.result(DEADLINE_S)


def test_a_storm_computes_everything_once_and_never_more_than_a_batch() -> None:
    """Many threads, calls that end at once: nothing lost, nothing twice, and no thread left waiting."""

    class Caller:
        def __init__(self) -> None:
            self.called: list[list[str]] = []

        def call(self, batch: Sequence[Thing], answered: Answered) -> None:
            del answered
            self.called.append([one.name for one in batch])

        def tell(self, batch: Sequence[Thing]) -> None:
            del batch

    for max_wait_s in (0.0, 0.001, NEVER_S):
        caller = Caller()
        gathering: Gathering[Thing] = Gathering(Batching(max_batch_size=5, max_wait_s=max_wait_s))
        brought = [
            [Thing(f"{thread}-{n}-{k}", priority=k) for k in range(1 + n % 7)]
            for thread in range(16)
            for n in range(25)
        ]
        with ThreadPoolExecutor(16) as pool:
            futures = [pool.submit(gathering.compute, each, caller) for each in brought]
            for future in futures:
                future.result(DEADLINE_S)
        computed = [name for batch in caller.called for name in batch]
        assert sorted(computed) == sorted(one.name for each in brought for one in each)
        assert max(map(len, caller.called)) <= 5
        assert gathering._gathered._running == 0
