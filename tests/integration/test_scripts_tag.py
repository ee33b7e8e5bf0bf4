"""The index of a tag: what is registered, what is found, and what an index that was lost makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from foreseen.async_cache import AsyncCache
from foreseen.cache import Cache
from foreseen.client.sync import SyncClient
from foreseen.client.tagging import PAGE, Index
from foreseen.embedded import EmbeddedServer
from foreseen.errors import InvalidInput
from foreseen.flights import DAY_MS, TAG_MS, Call, Joined
from foreseen.keys import Key, tag_digest
from foreseen.scripts import load

if TYPE_CHECKING:
    from conftest import Steps

TAG = "customer:42"
#: Digests of these begin with the same two digits as that of TAG, so that they share its directory.
BESIDE = "tag 294"


class Tagged:
    """A tag of one test's."""

    def __init__(self, steps: Steps, tag: str = TAG) -> None:
        self.steps = steps
        self.tag = tag
        self.index = steps.space.tag_index(tag)
        self.directory = steps.space.tag_directory(tag)

    def register(self, *keys: Key) -> list[int]:
        told: list[int] = self.steps.run(self.steps.flights.tag(self.tag, keys or [self.steps.key]))
        return told

    def settle(self, key: Key, since_ms: int) -> None:
        self.steps.run(self.steps.flights.settle(self.tag, {key: since_ms}))

    def score(self, key: str, member: object) -> float | None:
        score: Any = self.steps.redis.zscore(key, str(member))
        return None if score is None else float(score)

    def members(self) -> set[str]:
        found: Any = self.steps.redis.zrangebyscore(self.index, 0, "+inf")
        return {member.decode() for member in found}

    def age(self, key: str, member: object, ms: int) -> None:
        """Let something have been noted so long ago."""
        score = self.score(key, member)
        assert score is not None
        self.steps.redis.zadd(key, {str(member): score - ms if score > 0 else score + ms})


@pytest.fixture
def tagged(steps: Steps) -> Tagged:
    return Tagged(steps)


def keys_of(count: int) -> list[Key]:
    return [Key("model", "1", f"{number:040x}") for number in range(count)]


def test_a_key_is_told_since_when_the_directory_has_known_of_tags(tagged: Tagged) -> None:
    """And always so: who was told first may have died before he could do anything about it."""
    before = tagged.steps.now_ms()
    (since,) = tagged.register()
    assert before < since <= tagged.steps.now_ms() + 1, "what was written in this very millisecond may be older"
    assert tagged.score(tagged.directory, "") == -since
    assert tagged.register() == [since]
    assert tagged.members() == {str(tagged.steps.key)}


def test_many_are_registered_at_once(tagged: Tagged) -> None:
    one, two, three = keys_of(3)
    (since,) = tagged.register(two)
    assert tagged.register(one, two, three) == [since] * 3
    assert tagged.members() == {str(one), str(two), str(three)}


def test_another_tag_of_an_old_directory_has_nothing_to_fear(steps: Steps) -> None:
    assert tag_digest(TAG)[:2] == tag_digest(BESIDE)[:2]
    tagged, beside = Tagged(steps), Tagged(steps, BESIDE)
    (since,) = tagged.register()
    tagged.age(tagged.directory, "", 5_000)
    assert beside.register() == [since - 5_000]


def test_what_is_new_to_an_index_that_was_lost_is_doubted_until_it_is_settled(tagged: Tagged) -> None:
    one, two = keys_of(2)
    tagged.register(one)
    tagged.steps.redis.delete(tagged.index)
    before = tagged.steps.now_ms()
    (doubted,) = tagged.register(one)
    assert before <= -doubted <= tagged.steps.now_ms()
    assert tagged.register(one, two)[0] == doubted, "whoever asks: nobody has settled it"
    tagged.settle(one, -doubted)
    since, still = tagged.register(one, two)
    assert before < since <= tagged.steps.now_ms() + 1
    assert still < 0
    assert tagged.members() == {str(one), str(two)}


def test_only_the_doubt_that_was_told_is_settled(tagged: Tagged) -> None:
    """It is one of another loss else, after which the same may have happened again."""
    tagged.register()
    tagged.steps.redis.delete(tagged.index)
    (doubted,) = tagged.register()
    tagged.age(tagged.index, tagged.steps.key, -5)
    tagged.settle(tagged.steps.key, -doubted)
    assert tagged.register() == [doubted - 5]
    tagged.steps.redis.delete(tagged.index)
    tagged.settle(tagged.steps.key, -doubted)
    assert tagged.members() == set()


def test_a_doubt_is_not_forgotten_by_registering_anew(tagged: Tagged) -> None:
    tagged.register()
    tagged.steps.redis.delete(tagged.index)
    tagged.register()
    tagged.age(tagged.index, tagged.steps.key, DAY_MS + 1)
    before = tagged.steps.now_ms()
    (doubted,) = tagged.register()
    assert -doubted >= before
    assert tagged.register() == [doubted]


def test_who_loses_the_directory_alone_loses_nothing(tagged: Tagged) -> None:
    one, two = keys_of(2)
    (since,) = tagged.register(one)
    tagged.age(tagged.index, "", 5_000)
    tagged.steps.redis.delete(tagged.directory)
    assert tagged.register(one, two) == [since - 5_000] * 2


def test_a_directory_that_is_made_anew_lists_what_is_registered_all_the_time(tagged: Tagged) -> None:
    """Else an index that is lost then would pass for one that there never was."""
    beside = Tagged(tagged.steps, BESIDE)
    tagged.register()
    tagged.steps.redis.delete(tagged.directory)
    beside.register()
    tagged.register()
    assert tagged.score(tagged.directory, tag_digest(TAG)) is not None


def test_when_both_are_lost_everything_from_before_is_too_old(tagged: Tagged) -> None:
    tagged.register()
    tagged.steps.redis.delete(tagged.index, tagged.directory)
    before = tagged.steps.now_ms()
    (since,) = tagged.register()
    assert before < since <= tagged.steps.now_ms() + 1


def test_a_key_that_was_registered_of_late_costs_no_write(tagged: Tagged) -> None:
    def writes() -> int:
        counted: Any = tagged.steps.redis.info("commandstats")
        return sum(counted.get(f"cmdstat_{verb}", {"calls": 0})["calls"] for verb in ("zadd", "zrem", "pexpire"))

    tagged.register()
    before = writes()
    for _ in range(5):
        tagged.register()
    assert writes() == before


def test_after_a_day_it_is_registered_anew(tagged: Tagged) -> None:
    told = tagged.register()
    registered = tagged.score(tagged.index, tagged.steps.key)
    tagged.age(tagged.index, tagged.steps.key, DAY_MS + 1)
    tagged.age(tagged.directory, tag_digest(TAG), DAY_MS + 1)
    assert tagged.register() == told
    assert (tagged.score(tagged.index, tagged.steps.key) or 0) >= (registered or 0)
    assert (tagged.score(tagged.directory, tag_digest(TAG)) or 0) >= (registered or 0)


def test_what_was_not_asked_for_in_all_that_time_goes(tagged: Tagged) -> None:
    one, two, three = keys_of(3)
    tagged.register(one, two)
    tagged.age(tagged.index, one, TAG_MS)
    tagged.register(three)
    assert tagged.members() == {str(two), str(three)}
    assert tagged.score(tagged.index, "") is not None


def test_who_comes_again_after_that_is_new(tagged: Tagged) -> None:
    tagged.register()
    tagged.steps.redis.delete(tagged.index)
    (doubted,) = tagged.register()
    tagged.settle(tagged.steps.key, -doubted)
    tagged.age(tagged.index, tagged.steps.key, TAG_MS + 1000)
    assert tagged.register()[0] < 0, "it has been forgotten, though it was still there"


def test_an_index_that_was_forgotten_is_not_lost(tagged: Tagged) -> None:
    (since,) = tagged.register()
    tagged.steps.redis.delete(tagged.index)  # as if it had expired
    tagged.age(tagged.directory, tag_digest(TAG), TAG_MS)
    assert tagged.register() == [since]


def test_both_expire_when_nothing_is_registered(tagged: Tagged) -> None:
    tagged.register()
    for key in (tagged.index, tagged.directory):
        assert TAG_MS - 60_000 < tagged.steps.redis.pttl(key) <= TAG_MS


# --- order ------------------------------------------------------------------------------------------------------------


def registering(steps: Steps) -> list[Call[Any]]:
    return [steps.flights.tag(TAG, [steps.key]), steps.flights.join(steps.ticket("a"))]


def on_a_thread(steps: Steps) -> list[Any]:
    with closing(Cache(steps.settings)) as cache:
        return cache.run(registering(steps))


def on_a_loop(steps: Steps) -> list[Any]:
    async def run() -> list[Any]:
        cache = AsyncCache(steps.settings)
        try:
            return await cache.run(registering(steps))
        finally:
            await cache.close()

    return asyncio.run(run())


@pytest.mark.parametrize("is_loaded", [True, False], ids=["loaded", "flushed-at-once"])
@pytest.mark.parametrize("run", [on_a_thread, on_a_loop])
def test_a_look_up_runs_after_its_registration_also_where_a_script_is_missing(
    steps: Steps, run: Callable[[Steps], list[Any]], monkeypatch: pytest.MonkeyPatch, *, is_loaded: bool
) -> None:
    nothing: list[Any] = []
    if not is_loaded:
        for module in ("cache", "async_cache"):
            monkeypatch.setattr(f"foreseen.{module}.loads", lambda _: nothing)
    steps.redis.script_flush()
    steps.redis.script_load(load("join").text)
    with steps.redis.monitor() as monitor:
        told, joined = run(steps)
        steps.redis.echo("that is all")
        seen: list[str] = []
        for command in monitor.listen():
            words = str(command["command"])
            if words.startswith("ECHO"):
                break
            if command["client_type"] == "lua" and steps.space.namespace in words:
                seen += [kind for kind in ("t", "f") if f"{steps.space.namespace}:{kind}:" in words]
    assert len(told) == 1
    assert isinstance(joined, Joined)
    assert "t" in seen
    assert "f" in seen[seen.index("t") :], "the flight was joined once the key was in the index"


# --- invalidating -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["server", "cluster_server"])
def anywhere(request: pytest.FixtureRequest, steps_on: Callable[..., Steps]) -> Steps:
    """On a single server, and on a cluster, where index and entries lie in slots of their own."""
    server: EmbeddedServer = request.getfixturevalue(request.param)
    return steps_on(server.url(0 if request.param == "cluster_server" else 1))


@pytest.fixture
def client(anywhere: Steps) -> Iterator[SyncClient]:
    with closing(SyncClient(anywhere.settings)) as client:
        yield client


def test_a_tag_s_entries_are_forgotten_and_no_others(anywhere: Steps, client: SyncClient) -> None:
    anywhere.compute()
    with_tag, anywhere.key = anywhere.key, Key("model", "1", "f" * 40)
    anywhere.compute()
    Tagged(anywhere).register(with_tag, Key("never-asked-for", "1", "e" * 40))
    assert client.run(client.engine.invalidate_tag(TAG)) == 1
    assert anywhere.entry() is not None
    anywhere.key = with_tag
    assert anywhere.entry() is None
    assert client.run(client.engine.invalidate_tag(TAG)) == 0


def test_it_beats_computations_under_way(anywhere: Steps, client: SyncClient) -> None:
    begun = anywhere.begin(anywhere.joined())
    Tagged(anywhere).register()
    client.run(client.engine.invalidate_tag(TAG))
    anywhere.finish(begun)
    assert anywhere.entry() is None


def test_a_key_stays_registered_for_the_next_time(anywhere: Steps, client: SyncClient) -> None:
    Tagged(anywhere).register()
    client.run(client.engine.invalidate_tag(TAG))
    anywhere.compute()
    assert client.run(client.engine.invalidate_tag(TAG)) == 1


def fenced(steps: Steps, keys: Sequence[Key]) -> int:
    return sum(steps.redis.exists(steps.space.invalidated(key)) for key in keys)


def test_more_are_found_than_are_read_at_a_time(anywhere: Steps, client: SyncClient) -> None:
    keys = keys_of(2 * PAGE + 1)
    tagged = Tagged(anywhere)
    for start in range(0, len(keys), 500):
        tagged.register(*keys[start : start + 500])
    client.run(client.engine.invalidate_tag(TAG))
    assert fenced(anywhere, keys) == len(keys)


def test_so_are_more_of_one_moment(anywhere: Steps, client: SyncClient) -> None:
    keys = keys_of(3 * PAGE + 1)
    tagged = Tagged(anywhere)
    tagged.register(*keys[:1])
    now = anywhere.now_ms()
    anywhere.redis.zadd(tagged.index, dict.fromkeys(map(str, keys), now))
    client.run(client.engine.invalidate_tag(TAG))
    assert fenced(anywhere, keys) == len(keys)


def test_a_key_that_is_registered_anew_between_two_pages_is_found(anywhere: Steps, client: SyncClient) -> None:
    """It moves to the end: every page but the first begins where the last has ended, wherever that is by then."""
    keys = keys_of(PAGE + 10)
    tagged = Tagged(anywhere)
    tagged.register(*keys[:1])
    old = anywhere.now_ms() - 2 * DAY_MS
    scores = {str(key): old + number for number, key in enumerate(keys)}
    anywhere.redis.zadd(tagged.index, scores)
    index = Index(anywhere.space, TAG)
    first = client.run(index.page())
    assert first == keys[:PAGE]
    tagged.register(keys[PAGE + 3], keys[0])
    rest: list[Key] = []
    while page := client.run(index.page()):
        rest += page
    assert sorted(rest) == sorted([keys[0], *keys[PAGE:]])


def test_what_somebody_else_put_there_is_passed_over(anywhere: Steps, client: SyncClient) -> None:
    anywhere.compute()
    tagged = Tagged(anywhere)
    tagged.register()
    anywhere.redis.zadd(tagged.index, {"no key": anywhere.now_ms(), b"\xff\x00": 5, "model@1:zz": 1e300})
    assert client.run(client.engine.invalidate_tag(TAG)) == 1


def test_a_key_of_another_type_in_the_place_of_an_index_is_removed(anywhere: Steps, client: SyncClient) -> None:
    tagged = Tagged(anywhere)
    for name in (tagged.index, tagged.directory):
        anywhere.redis.set(name, "planted", px=60_000)
    assert client.run(client.engine.invalidate_tag(TAG)) == 0
    assert anywhere.redis.exists(tagged.index, tagged.directory) == 0


def test_of_a_lost_index_it_is_said_that_keys_are_missing(
    anywhere: Steps, client: SyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    tagged = Tagged(anywhere)
    client.run(client.engine.invalidate_tag(TAG))
    tagged.register()
    client.run(client.engine.invalidate_tag(TAG))
    assert caplog.messages == []
    anywhere.redis.delete(tagged.index)
    client.run(client.engine.invalidate_tag(TAG))
    tagged.register()
    client.run(client.engine.invalidate_tag(TAG))
    assert len(caplog.messages) == 2
    assert all(f"index of tag {TAG} was lost" in message for message in caplog.messages)


def test_of_one_that_has_expired_nothing_is_said(
    anywhere: Steps, client: SyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    tagged = Tagged(anywhere)
    tagged.register()
    anywhere.redis.delete(tagged.index)
    tagged.age(tagged.directory, tag_digest(TAG), TAG_MS + 1000)
    client.run(client.engine.invalidate_tag(TAG))
    assert caplog.messages == []


def test_what_is_no_tag_is_refused(anywhere: Steps, client: SyncClient) -> None:
    del anywhere
    with pytest.raises(InvalidInput, match="not a tag"):
        client.run(client.engine.invalidate_tag("new\nline"))
