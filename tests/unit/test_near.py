"""The near cache's rules, with a clock of the test's own and nothing sent anywhere."""

from __future__ import annotations

import threading
import tracemalloc
import uuid
from typing import Any

import numpy as np
import pytest

from foreseen.canonical import CanonicalInput, canonicalize
from foreseen.client.near import ALIVE_S, Near
from foreseen.entry import Entry, Kind
from foreseen.errors import DeadlineExceeded
from foreseen.keys import Key, KeySpace, key_of
from foreseen.outcome import Failure, Outcome, Result
from foreseen.payload import pack

MODEL = ("model", "1")
SPACE = KeySpace("t")
#: Seconds since 1970 by the server's clock when ours says 100.
SERVER_S = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    @property
    def server_s(self) -> float:
        return SERVER_S + self.now - 100.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def near(clock: Clock) -> Near:
    """One whose connection stands, and whose latest ping has just been answered."""
    return made(clock)


def made(clock: Clock, max_bytes: int = 10**6) -> Near:
    near = Near(SPACE, max_bytes, clock)
    near.tracked()
    ping(near, clock)
    return near


def ping(near: Near, clock: Clock) -> None:
    near.answered(clock.now, clock.server_s)


def key(data: Any, version: str = "1") -> Key:
    return key_of("model", version, canonicalize(data))


def entry(value: Any, kind: Kind = Kind.RESULT, life_s: float = 60.0) -> Entry:
    """Return one that is written at the test's beginning."""
    written_ms = round(SERVER_S * 1000)
    return Entry(kind, b"generatn", 7, written_ms, written_ms + round(life_s * 1000), 5, pack(value))


def land(near: Near, mark: int, data: Any, found: Entry, *, version: str = "1", known: bool = True) -> None:
    """Let the answer to a look-up arrive."""
    canonical: CanonicalInput = canonicalize(data)
    near.insert(mark, key_of("model", version, canonical), canonical if known else None, found, found.outcome())


def keep(near: Near, data: Any, value: Any = "answer", **options: Any) -> None:
    """Look something up."""
    land(near, near.sent(), data, entry(value, **options))


def ask(near: Near, data: Any, version: str = "1") -> Outcome | None:
    """Ask as `predict` does."""
    return near.look(("model", version), data) or near.find(key(data, version))


class TestWhatIsFound:
    @pytest.mark.parametrize("data", ["text", "", "ünïcode \U0001f600", '"quoted" \\ \n', b"bytes", b""])
    def test_a_text_and_bytes_are_found_without_their_key(self, near: Near, data: str | bytes) -> None:
        keep(near, data)
        same = data[:1] + data[1:]
        assert near.look(MODEL, same) == near.find(key(data)) == Result("answer")

    @pytest.mark.parametrize("data", [1, None, {"a": "text"}, ["text"], np.arange(3), {"$bytes": "x"}])
    def test_anything_else_is_found_by_its_key(self, near: Near, data: Any) -> None:
        keep(near, data)
        assert near.look(MODEL, data) is None
        assert near.find(key(data)) == Result("answer")

    def test_what_is_equal_in_python_alone_is_not_found(self, near: Near) -> None:
        keep(near, True, "true")
        assert ask(near, 1) is None
        keep(near, 1, "one")
        assert [ask(near, data) for data in (True, 1, 1.0)] == [Result("true"), Result("one"), Result("one")]

    def test_a_text_is_not_the_bytes_that_it_encodes_to(self, near: Near) -> None:
        keep(near, "same", "text")
        assert ask(near, b"same") is None
        keep(near, b"same", "bytes")
        assert [ask(near, data) for data in ("same", b"same")] == [Result("text"), Result("bytes")]

    def test_bytes_likes_and_a_str_of_ones_own_are_their_keys(self, near: Near) -> None:
        class Own(str):
            __slots__ = ()

            def __eq__(self, _: object) -> bool:
                return True

            __hash__ = str.__hash__

        keep(near, "text", "of text")
        keep(near, b"bytes", "of bytes")
        assert near.look(MODEL, Own("text")) is None
        assert ask(near, Own("text")) == Result("of text")
        assert ask(near, bytearray(b"bytes")) == Result("of bytes")

    def test_a_lone_surrogate_is_found_nowhere(self, near: Near) -> None:
        keep(near, "?")
        assert near.look(MODEL, "\ud800") is None

    def test_another_version_is_another_model(self, near: Near) -> None:
        keep(near, "text")
        assert ask(near, "text", version="2") is None

    def test_an_entry_that_was_attached_to_by_its_key_alone(self, near: Near) -> None:
        land(near, near.sent(), "text", entry("answer"), known=False)
        assert near.look(MODEL, "text") is None
        assert near.find(key("text")) == Result("answer")

    @pytest.mark.parametrize("value", [None, False, 0, "", b"", float("inf")])
    def test_no_value_passes_for_none_at_all(self, near: Near, value: Any) -> None:
        keep(near, "text", value)
        assert near.look(MODEL, "text") == Result(value)

    def test_a_failure_is_an_answer_too_and_each_gets_an_error_of_his_own(self, near: Near) -> None:
        wire = {"name": "DeadlineExceeded", "message": "late", "details": {}}
        keep(near, "text", wire, kind=Kind.FAILURE)
        first, second = near.look(MODEL, "text"), near.look(MODEL, "text")
        assert isinstance(first, Failure)
        assert isinstance(second, Failure)
        assert type(first.error) is type(second.error) is DeadlineExceeded
        assert first.error is not second.error

    def test_mutation_of_an_output_does_not_leak(self, near: Near) -> None:
        for data, value in (("list", [1]), ("dict", {"a": [1]}), ("array", np.zeros(3))):
            keep(near, data, value)
            for _ in range(2):
                outcome = near.look(MODEL, data)
                assert isinstance(outcome, Result)
                assert np.array_equal(outcome.value, value) if data == "array" else outcome.value == value
                spoil(outcome.value)


def spoil(value: Any) -> None:
    if isinstance(value, dict):
        value["a"].append(2)
    elif isinstance(value, list):
        value.append(2)
    else:
        value[0] = 7


class TestWhileTheConnectionStands:
    def test_nothing_is_answered_before_the_server_has_confirmed_and_answered_a_ping(self, clock: Clock) -> None:
        near = Near(SPACE, 10**6, clock)
        ping(near, clock)
        keep(near, "text")
        assert not near.told().is_on
        near.tracked()
        keep(near, "text")
        assert ask(near, "text") is None
        ping(near, clock)
        assert ask(near, "text") == Result("answer")
        assert near.told().is_on

    def test_a_ping_vouches_for_a_second_from_when_it_was_sent(self, near: Near, clock: Clock) -> None:
        keep(near, "text")
        sent_at = clock.now
        clock.now += 0.75 * ALIVE_S
        near.answered(sent_at, clock.server_s)  # late
        assert ask(near, "text") is not None
        clock.now = sent_at + ALIVE_S
        assert ask(near, "text") is None
        assert not near.told().is_on
        ping(near, clock)
        assert ask(near, "text") == Result("answer"), "nothing was missed meanwhile: the connection stood"

    def test_connection_lost_empties_and_turns_off_and_back_turns_on(self, near: Near, clock: Clock) -> None:
        keep(near, "text")
        near.lost()
        assert ask(near, "text") is None
        assert (near.told().entries, near.told().bytes, near.told().is_on, near.told().emptied) == (0, 0, False, 1)
        keep(near, "while it was lost")
        ping(near, clock)
        assert not near.told().is_on, "that ping was sent on a connection that is gone"
        near.tracked()
        ping(near, clock)
        assert near.told().is_on
        assert ask(near, "text") is None
        assert ask(near, "while it was lost") is None
        keep(near, "text", "new")
        assert ask(near, "text") == Result("new")

    def test_a_connection_that_never_stood_empties_nothing(self, clock: Clock) -> None:
        near = Near(SPACE, 10**6, clock)
        near.lost()
        assert near.told().emptied == 0


class TestExpiry:
    def test_an_entry_is_never_served_past_its_time_by_the_servers_clock(self, near: Near, clock: Clock) -> None:
        keep(near, "text", life_s=10.0)
        clock.now += 9.99
        ping(near, clock)
        assert ask(near, "text") is not None
        clock.now += 0.01
        assert ask(near, "text") is None
        assert near.told().entries == 0

    def test_the_time_that_a_ping_took_counts_as_the_servers(self, near: Near, clock: Clock) -> None:
        """Its clock may have been read at once, and its answer may have been long on its way."""
        keep(near, "text", life_s=10.0)
        clock.now += 9.5
        sent_at, server_s = clock.now, clock.server_s
        clock.now += 0.5
        near.answered(sent_at, server_s)
        assert ask(near, "text") is None

    def test_a_servers_clock_that_jumps_is_followed(self, near: Near, clock: Clock) -> None:
        keep(near, "text", life_s=10.0)
        near.answered(clock.now, clock.server_s + 10.0)
        assert ask(near, "text") is None


class TestWhatHasChanged:
    @pytest.mark.parametrize("name_of", [SPACE.entry, SPACE.generation])
    def test_an_entry_goes_with_its_key_and_with_its_generation(self, near: Near, name_of: Any) -> None:
        for data in ("text", 7):
            keep(near, data)
            near.invalidated([name_of(key(data))])
            assert ask(near, data) is None
            keep(near, data, "new")
            assert ask(near, data) == Result("new")

    def test_others_stay(self, near: Near) -> None:
        keep(near, "text")
        near.invalidated(
            [SPACE.entry(key("other")), SPACE.generation(key("text", version="2")), SPACE.flight(key("text"))]
        )
        assert ask(near, "text") == Result("answer")

    def test_flushall_empties_everything(self, near: Near) -> None:
        keep(near, "text")
        near.emptied()
        assert ask(near, "text") is None
        assert (near.told().entries, near.told().is_on, near.told().emptied) == (0, True, 1)

    @pytest.mark.parametrize("name_of", [SPACE.entry, SPACE.generation])
    def test_invalidation_in_the_air_race(self, near: Near, name_of: Any) -> None:
        """The answer to a look-up that was sent before may be the old one, whenever it comes."""
        mark = near.sent()
        near.invalidated([name_of(key("text"))])
        land(near, mark, "text", entry("old"))
        assert ask(near, "text") is None
        keep(near, "text", "new")
        assert ask(near, "text") == Result("new")

    def test_what_became_of_others_in_the_air_does_not_matter(self, near: Near) -> None:
        mark = near.sent()
        near.invalidated([SPACE.entry(key("other"))])
        land(near, mark, "text", entry("answer"))
        assert ask(near, "text") == Result("answer")

    @pytest.mark.parametrize("event", ["emptied", "lost and back"])
    def test_what_is_in_the_air_when_all_is_dropped(self, near: Near, clock: Clock, event: str) -> None:
        mark = near.sent()
        if event == "emptied":
            near.emptied()
        else:
            near.lost()
            near.tracked()
            ping(near, clock)
        land(near, mark, "text", entry("old"))
        assert ask(near, "text") is None

    def test_a_look_up_from_before_all_that_is_remembered_is_not_kept(self, near: Near) -> None:
        """So what is remembered is bounded, however long a look-up takes and whatever goes on meanwhile."""
        mark = near.sent()
        near.invalidated([SPACE.entry(key("text"))])
        later = near.sent()
        for number in range(3000):
            near.invalidated([SPACE.entry(key(number))])
        assert len(near._changed) < 2500
        land(near, mark, "text", entry("old"))
        land(near, later, "other", entry("perhaps old"))
        assert ask(near, "text") is ask(near, "other") is None
        keep(near, "text", "new")
        assert ask(near, "text") == Result("new")

    def test_what_changes_again_and_again_takes_one_place(self, near: Near) -> None:
        mark = near.sent()
        for _ in range(5000):
            near.invalidated([SPACE.entry(key("other"))])
        land(near, mark, "text", entry("answer"))
        assert ask(near, "text") == Result("answer")


class TestBound:
    def test_what_was_asked_for_least_of_late_goes_first(self, clock: Clock) -> None:
        near = made(clock, max_bytes=4500)
        for data in ("a", "b", "c"):
            keep(near, data, "x" * 200)
        assert near.told().entries == 3
        assert ask(near, "a") is not None
        keep(near, "d", "x" * 200)
        assert [data for data in "abcd" if ask(near, data) is not None] == ["a", "c", "d"]

    def test_the_inputs_count_too(self, clock: Clock) -> None:
        near = made(clock)
        keep(near, "x" * 10_000)
        assert near.told().bytes > 10_000
        keep(near, b"x" * 10_000)
        assert near.told().bytes > 20_000

    def test_what_is_larger_than_all_room_costs_the_others_nothing(self, clock: Clock) -> None:
        near = made(clock, max_bytes=5000)
        keep(near, "a")
        keep(near, "b", "x" * 10_000)
        assert ask(near, "b") is None
        assert ask(near, "a") == Result("answer")

    def test_nothing_is_left_of_what_was_dropped(self, near: Near) -> None:
        for data in ("a", b"b", 3):
            keep(near, data)
            keep(near, data, "again")
            near.invalidated([SPACE.entry(key(data))])
        assert near.told().bytes == 0
        assert not near._items.exact
        assert not near._items.generations

    @pytest.mark.parametrize("shared", [True, False])
    def test_bound_in_bytes_held_under_load(self, clock: Clock, shared: bool) -> None:
        """Of what Python has really given out, the dictionaries' empty places included."""
        max_bytes = 2_000_000
        near = made(clock, max_bytes)
        keep(made(clock), "first")  # what is imported and cached for the first one is not the near cache's
        tracemalloc.start()
        try:
            began = tracemalloc.get_traced_memory()[0]
            for _ in range(4000):
                text = uuid.uuid4().hex
                keep(near, text, text * 8 if shared else [text] * 8)
            used = tracemalloc.get_traced_memory()[0] - began
        finally:
            tracemalloc.stop()
        assert 0.9 * max_bytes < near.told().bytes <= max_bytes
        assert 500 < near.told().entries < 4000
        assert used < 1.1 * max_bytes


def test_hits_and_misses_are_counted(near: Near) -> None:
    keep(near, "text")
    for _ in range(4):
        near.sent()
    for _ in range(3):
        assert ask(near, "text") is not None
    assert ask(near, "other") is None
    assert (near.told().hits, near.told().misses, near.told().entries) == (3, 5, 1)


def test_threads_may_do_all_of_it_at_once() -> None:
    """Small, so that something is dropped all the time; nothing of it is left behind, and no answer is another's."""
    near = Near(SPACE, 20_000)
    near.tracked()
    wrong: list[object] = []

    def work(seed: int) -> None:
        number = seed
        try:
            for _ in range(3000):
                number = (number * 31 + 7) % 97
                data: Any = f"{number}" if number % 2 else number
                outcome = ask(near, data)
                if outcome is None:
                    keep(near, data, number, life_s=1e9)
                elif outcome != Result(number):
                    wrong.append((data, outcome))
                if number % 13 == 0:
                    near.invalidated([SPACE.generation(key(data))])
                if number == seed:
                    near.answered(near._clock(), 0.0)
        except Exception as error:  # noqa: BLE001 - told on the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert near.told().hits > 100
    names = list(near._items)
    assert sorted(near._items.exact.values()) == sorted(name for name in names if near._items[name].exact is not None)
    assert sorted(name for each in near._items.generations.values() for name in each) == sorted(names)


class TestWhatIsCounted:
    def test_hits_are_counted_by_model_with_what_they_saved_and_their_key(self, near: Near) -> None:
        keep(near, "text")
        keep(near, b"bytes")
        for _ in range(100):
            assert ask(near, "text") is not None
        counted = near.take()["model@1"]
        assert (counted.hits, counted.saved_us) == (100, 500)
        assert list(counted.keys) == [key("text").digest[:8]]
        assert near.take() == {}

    def test_what_was_dropped_has_been_counted_all_the_same(self, near: Near) -> None:
        keep(near, "text")
        assert ask(near, "text") is not None
        near.emptied()
        keep(near, "text")
        assert ask(near, "text") is not None
        assert near.take()["model@1"].hits == 2
