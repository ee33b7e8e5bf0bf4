"""What somebody else puts under our names in the cache: a miss, computed anew, and never an answer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import cache_of, entries, statistics
from hostile.mutate import Mutator

from foreseen.canonical import canonicalize
from foreseen.entry import Entry, Kind
from foreseen.errors import ModelNotServed, UnsupportedLayout
from foreseen.keys import Key, KeySpace, key_of
from foreseen.payload import pack
from foreseen.planted import _TYPES
from producer import Producer, Source

pytestmark = pytest.mark.acceptance

SEED: Final = 20_260_103


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self._path,)


def key_of_value(value: Any) -> Key:
    return key_of("slow", "1", canonicalize({"value": value}))


@pytest.fixture
def served(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(lease_s=2.0)
    deployment.start_worker("threads", 2)
    return deployment


def test_bytes_under_an_entrys_name_are_computed_anew(served: Deployment, tmp_path: Path) -> None:
    producer, space, mutate = served.producer(), KeySpace(), Mutator(SEED)
    boom = tmp_path / "boom"
    with cache_of(served) as cache:
        for step in range(60):
            assert producer.predict("slow", {"value": step}, timeout=20)["value"] == step
            name = space.entry(key_of_value(step))
            good = cache.get(name)
            assert isinstance(good, bytes)
            pickled = Entry(Kind.RESULT, good[3:11], 2**40, 1, 2**50, 5, pickle.dumps(Bomb(boom))).encode()
            planted = (pickled, good[:-1], good[:43], b"", mutate.raw(good))[min(step, 4)]
            if planted[1:2] == b"F":
                continue  # a failure without a name, told as one
            cache.set(name, planted, px=60_000)
            assert producer.predict("slow", {"value": step}, timeout=20)["value"] == step
    assert not boom.exists()
    assert served.workers[0].is_running
    producer.close()
    assert statistics(served)["unreadable"] > 2


PLANTS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "a list": lambda cache, name: cache.rpush(name, "x"),
    "a hash": lambda cache, name: cache.hset(name, "x", "y"),
    "a set": lambda cache, name: cache.sadd(name, "x"),
    "a string": lambda cache, name: cache.set(name, "x"),
}
NAMES: Final[dict[str, Callable[[KeySpace, Key], str]]] = {
    "entry": KeySpace.entry,
    "flight": KeySpace.flight,
    "generation": KeySpace.generation,
    "clock": KeySpace.clock,
    "outcomes": KeySpace.outcomes,
    "ends": KeySpace.ends,
    "deaths": KeySpace.deaths,
    "invalidated": KeySpace.invalidated,
    "statistics": KeySpace.statistics,
    "watermark": lambda space, key: space.watermark(space.queue(key.model_id), 4),
    "directory of tags": lambda space, _: space.tag_directory("planted"),
    "index of a tag": lambda space, _: space.tag_index("planted"),
}


def test_a_key_of_another_type_is_removed_and_the_input_computed(served: Deployment) -> None:
    producer, space = served.producer(), KeySpace()
    assert producer.predict("slow", {"value": 0}, timeout=20)["value"] == 0
    step = 0
    with cache_of(served) as cache:
        for what, name_of in NAMES.items():
            tags = ["planted"] if "tag" in what else []
            for plant in PLANTS.values():
                step += 1
                name = name_of(space, key_of_value(step))
                its_type = _TYPES[name.split(":", 2)[1]]
                cache.delete(name)
                plant(cache, name)
                if cache.type(name) == its_type:
                    cache.delete(name)
                    continue
                for _ in range(2):
                    answer = producer.predict("slow", {"value": step}, timeout=20, tags=tags)
                    assert answer["value"] == step, (name, step)
    assert served.workers[0].is_running


def test_a_flight_of_another_layout_refuses_its_own_key_alone(served: Deployment) -> None:
    """What a producer has yet to tell the cache of that flight must not go with every later call, and fail it."""
    producer, space = served.producer(), KeySpace()
    with cache_of(served) as cache:
        cache.hset(space.flight(key_of_value("theirs")), "layout", "99")
    for step in range(3):
        with pytest.raises(UnsupportedLayout):
            producer.predict("slow", {"value": "theirs"}, timeout=20)
        assert producer.predict("slow", {"value": step}, timeout=20)["value"] == step


def test_a_card_of_another_model_is_none(served: Deployment) -> None:
    """Else what was asked of one model would be sent to the other's workers, under a digest that they refuse."""
    producer, space = served.producer(model_wait_s=0.5), KeySpace()
    with cache_of(served) as cache:
        theirs = wait_until(lambda: cache.get(space.card("slow@1")), "the worker has published its card")
        assert isinstance(theirs, bytes)
        cache.set(space.card("other@1"), theirs, px=60_000)
    with pytest.raises(ModelNotServed):
        producer.predict("other@1", {"value": 1}, timeout=5)


def test_what_is_too_large_is_told_and_not_kept(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_entry_bytes=100_000)
    deployment.start_worker("threads", 1)
    producer = deployment.producer()
    large, small = {"value": "large", "pad": 200_000}, {"value": "small", "pad": 50_000}
    for request, kept in ((large, 0), (small, 1)):
        assert len(producer.predict("slow", request, timeout=20)["pad"]) == request["pad"]
        assert entries(deployment) == kept
    assert producer.submit("slow", small).source is Source.HIT


def test_an_entry_that_is_too_large_is_not_even_looked_into(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_entry_bytes=100_000)
    deployment.start_worker("threads", 1)
    producer: Producer = deployment.producer()
    assert producer.predict("slow", {"value": 1}, timeout=20)["value"] == 1
    name = KeySpace().entry(key_of_value(1))
    with cache_of(deployment) as cache:
        good = cache.get(name)
        assert isinstance(good, bytes)
        large = Entry(Kind.RESULT, good[3:11], 2**40, 1, 2**50, 5, pack("x" * 200_000)).encode()
        cache.set(name, large, px=60_000)
        assert producer.peek("slow", {"value": 1}) is None
        assert producer.predict("slow", {"value": 1}, timeout=20)["value"] == 1
        wait_until(lambda: len(cache.get(name) or b"") < 1000, "the right one stands there again")
