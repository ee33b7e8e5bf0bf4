"""Reading entries without a script, while nearly everything is a hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from foreseen.canonical import canonicalize
from foreseen.client.effects import Ask, Read, Steps
from foreseen.client.engine import Engine
from foreseen.client.reading import READS, Habit, entries_in, read
from foreseen.client.submission import Source, Submission
from foreseen.entry import Entry, Kind, Refreshing
from foreseen.errors import CacheUnavailable, ProducerClosed
from foreseen.flights import Call, Hit, Joined
from foreseen.flights import Kind as Who
from foreseen.keys import KeySpace, key_of
from foreseen.outcome import Result
from foreseen.parcels import Command
from foreseen.payload import pack
from foreseen.settings import Settings

GENERATION = b"generatn"
SPACE = KeySpace("t")


def entry(value: Any = "answer") -> bytes:
    return Entry(Kind.RESULT, GENERATION, 7, 1, 2, 5, pack(value)).encode()


def submission(value: Any = 1, **options: Any) -> Submission:
    canonical = canonicalize(value)
    return Submission(key_of("model", "1", canonical), canonical, Who.WAITER, **options)


class Server:
    """Holds entries by name; joins find nothing, unless told to."""

    def __init__(self, *known: Submission) -> None:
        self.entries: dict[str, bytes] = {SPACE.entry(each.key): entry(str(each.canonical)) for each in known}
        self.generation: bytes | None = GENERATION
        self.reads: list[Command] = []
        self.joined: list[Call[Any]] = []
        self.round_trips = 0
        self.error: Exception | None = None

    def run(self, steps: Steps[Any]) -> None:
        try:
            effect = next(steps)
            while True:
                try:
                    result = self.answer(effect)
                except CacheUnavailable as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration:
            return

    def answer(self, effect: Any) -> Any:
        match effect:
            case Read(commands) if commands[0][0] == "MGET":
                self.round_trips += 1
                if self.error is not None:
                    raise self.error
                self.reads += commands
                return [[self.generation, *(self.entries.get(name) for name in names)] for _, _, *names in commands]
            case Ask(calls):
                self.round_trips += 1
                if self.error is not None:
                    raise self.error
                self.joined += calls
                return [Joined(False, False, "flight-1", 5, 1000, 1, 0, 4) for _ in calls]
        raise AssertionError(effect)


@pytest.fixture
def engine() -> Engine:
    return Engine(Settings(namespace="t"))


@pytest.fixture
def hitting(engine: Engine) -> Engine:
    """An engine whose look-ups were all hits, of late."""
    engine._habit.note(1000, 1000)
    return engine


class TestHabit:
    def test_nothing_is_expected_of_a_new_producer(self) -> None:
        assert not Habit().is_hitting

    def test_it_takes_many_hits_in_a_row(self) -> None:
        habit = Habit()
        for _ in range(100):
            habit.note(1)
        assert not habit.is_hitting
        for _ in range(100):
            habit.note(1)
        assert habit.is_hitting

    def test_a_few_misses_end_it(self) -> None:
        habit = Habit()
        habit.note(500, 500)
        assert habit.is_hitting
        for _ in range(4):
            habit.note(0)
        assert not habit.is_hitting

    def test_one_large_call_says_as_much_as_many_small_ones(self) -> None:
        habit = Habit()
        habit.note(64, 64)
        assert habit.is_hitting
        habit.note(0, 64)
        assert not habit.is_hitting


class TestEntriesIn:
    @pytest.mark.parametrize("data", [None, b"", b"\1", b"\2" + entry()[1:], entry().replace(GENERATION, b"purgedxx")])
    def test_only_one_of_the_current_generation_and_layout_counts(self, data: bytes | None) -> None:
        assert entries_in([GENERATION, entry(), data]) == [entry(), None]

    def test_without_a_generation_nothing_counts(self) -> None:
        assert entries_in([None, entry(), None]) == [None, None]


def test_a_read_names_the_generation_and_entries_of_one_bucket() -> None:
    key = submission().key
    assert read(SPACE, [key, key]) == ("MGET", SPACE.generation(key), SPACE.entry(key), SPACE.entry(key))


class TestOne:
    def test_a_hit_is_one_read(self, hitting: Engine) -> None:
        one = submission()
        server = Server(one)
        server.run(hitting.submit_one(one))
        assert isinstance(one.answer, Result)
        assert (one.source, server.round_trips, server.joined) == (Source.HIT, 1, [])
        assert len(hitting.table) == 0

    def test_a_miss_joins_after_it(self, hitting: Engine) -> None:
        one, server = submission(), Server()
        server.run(hitting.submit_one(one))
        assert (one.source, server.round_trips, len(server.joined)) == (Source.COALESCED, 2, 1)
        assert len(hitting.table) == 1

    def test_what_cannot_be_read_joins(self, hitting: Engine) -> None:
        one = submission()
        server = Server(one)
        server.entries[SPACE.entry(one.key)] = entry()[:-1] + b"?"
        server.run(hitting.submit_one(one))
        assert (one.answer, one.source, len(server.joined)) == (None, Source.COALESCED, 1)

    def test_a_refresh_does_not_read(self, hitting: Engine) -> None:
        one = submission(refresh=True)
        server = Server(one)
        server.run(hitting.submit_one(one))
        assert (server.reads, len(server.joined)) == ([], 1)

    def test_what_waits_for_a_round_trip_goes_with_a_join(self, hitting: Engine) -> None:
        one = submission()
        server = Server(one)
        hitting._asking.leave_soon(one, serial=1)
        server.run(hitting.submit_one(one))
        assert (server.reads, len(server.joined)) == ([], 2)

    def test_a_producer_that_does_not_mostly_hit_joins_at_once(self, engine: Engine) -> None:
        one = submission()
        server = Server(one)
        server.run(engine.submit_one(one))
        assert (server.reads, len(server.joined)) == ([], 1)

    def test_misses_end_the_reading(self, hitting: Engine) -> None:
        server = Server()
        for n in range(10):
            server.run(hitting.submit_one(submission(n)))
        assert len(server.reads) < 5

    def test_a_cache_that_is_away_is_told_and_nothing_is_left_behind(self, hitting: Engine) -> None:
        one, server = submission(), Server()
        server.error = CacheUnavailable("away")
        with pytest.raises(CacheUnavailable):
            server.run(hitting.submit_one(one))
        assert len(hitting.table) == 0
        assert server.round_trips == 2, "the look-up finds out, and can have it computed without the cache"

    def test_an_entry_that_is_to_be_refreshed_is_left_to_the_look_up(self, hitting: Engine) -> None:
        """Only the server's clock can tell whether it is due."""
        one = submission()
        server = Server(one)
        name = hitting.space.entry(one.key)
        entry = Entry.decode(server.entries[name])
        server.entries[name] = entry._replace(refreshing=Refreshing(0, 0)).encode()
        server.run(hitting.submit_one(one))
        assert [call.script.name for call in server.joined] == ["join"]

    def test_after_close_nothing_is_read(self, hitting: Engine) -> None:
        one = submission()
        server = Server(one)
        server.run(hitting.close())
        with pytest.raises(ProducerClosed):
            server.run(hitting.submit_one(one))
        assert server.reads == []


class TestMany:
    def test_hits_are_one_round_trip_with_a_command_for_each_bucket(self, hitting: Engine) -> None:
        ones = [submission(n) for n in range(READS)]
        server = Server(*ones)
        server.run(hitting.submit(ones))
        assert [each.answer for each in ones] == [Result(str(each.canonical)) for each in ones]
        assert (server.round_trips, server.joined) == (1, [])
        assert len(server.reads) == len({each.key.bucket for each in ones})
        assert len(hitting.table) == 0

    def test_those_that_are_not_there_join_in_the_order_they_came(self, hitting: Engine) -> None:
        ones = [submission(n) for n in range(100)]
        missing: Sequence[Submission] = ones[::50]
        server = Server(*(each for each in ones if each not in missing))
        server.run(hitting.submit(ones))
        assert [call.keys[2] for call in server.joined] == [SPACE.entry(each.key) for each in missing]
        assert [each.source for each in ones].count(Source.HIT) == 98

    def test_a_refresh_among_them_joins(self, hitting: Engine) -> None:
        ones = [submission(1), submission(2, refresh=True)]
        server = Server(*ones)
        server.run(hitting.submit(ones))
        assert (ones[0].source, ones[1].answer, len(server.joined)) == (Source.HIT, None, 1)

    def test_a_repeat_gets_what_was_read(self, hitting: Engine) -> None:
        ones = [submission(1), submission(2), submission(1)]
        server = Server(*ones)
        server.run(hitting.submit(ones))
        assert (ones[2].answer, ones[2].source) == (ones[0].answer, Source.HIT)
        assert len(hitting.table) == 0

    def test_the_reading_ends_when_a_part_of_it_finds_little(self, hitting: Engine) -> None:
        ones = [submission(n) for n in range(READS + 10)]
        server = Server()
        server.run(hitting.submit(ones))
        assert len(server.joined) == READS + 10
        assert sum(len(names) - 2 for names in server.reads) == READS


class TestEntriesThatAreRefreshed:
    """No read may answer with them, so that one before each look-up would be in vain."""

    @pytest.fixture
    def refreshed(self, monkeypatch: pytest.MonkeyPatch) -> Server:
        data = Entry(Kind.RESULT, GENERATION, 7, 1, 2, 5, pack("answer"), Refreshing(20, 0)).encode()
        server = Server()
        answer = server.answer

        def hit(effect: Any) -> Any:
            replies = answer(effect)
            return [Hit(data) for _ in replies] if isinstance(effect, Ask) else replies

        monkeypatch.setattr(server, "answer", hit)
        return server

    def test_one_by_one_they_take_a_round_trip_each(self, hitting: Engine, refreshed: Server) -> None:
        for value in range(300):
            one = submission(value)
            refreshed.run(hitting.submit_one(one))
            assert (one.source, one.answer) == (Source.HIT, Result("answer"))
        assert len(refreshed.reads) <= 10, "until that was noticed"
        assert refreshed.round_trips <= 310

    def test_so_do_many_at_once(self, hitting: Engine, refreshed: Server) -> None:
        for start in range(0, 300, 10):
            refreshed.run(hitting.submit([submission(start + each) for each in range(10)]))
        assert refreshed.round_trips <= 33
