"""Versions that have no workers left: who asked by the bare name is answered by the current one, others are told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from acceptance.harness import POOLS, Deployment, Pool, Worker, wait_until

from foreseen.canonical import canonicalize
from foreseen.flights import Kind
from foreseen.keys import KeySpace, key_of
from producer import AsyncProducer, Producer, VersionGone

pytestmark = pytest.mark.acceptance

MODEL = """
from served.record import record
from workers import Model

class Mark(Model[str, str]):
    name = "mark"
    version = "{version}"

    def predict(self, batch):
        for text in batch:
            record(self.version, text)
        return [text + "{version}" for text in batch]
"""


class Rollout:
    """A deployment whose model `mark` has versions, each of which appends itself to its input."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.space = KeySpace(deployment.settings.namespace)
        self.producer = deployment.producer()

    def start(self, version: str, pool: Pool = "solo", *, promote: bool = True) -> Worker:
        """Start a worker of that version, and wait until all know that it is served: it consumes a moment earlier."""
        folder = self.deployment.directory / version
        folder.mkdir(exist_ok=True)
        (folder / "mark.py").write_text(MODEL.format(version=version))
        path = f"{folder}:{self.deployment.environment['PYTHONPATH']}"
        worker = self.deployment.start_worker(
            pool, PYTHONPATH=path, FORESEEN_MODELS="mark", FORESEEN_PROMOTE=str(promote).lower()
        )
        with self.deployment.redis() as cache:
            wait_until(lambda: cache.exists(self.space.card(f"mark@{version}")), "its card is published")
        return worker

    def leave_behind(self, *texts: str) -> None:
        """Let this test's producer know version 1, and end its worker with a message for each text in its queue."""
        worker = self.start("1")
        assert self.producer.predict("mark", "known") == "known1"
        wait_until(lambda: self.deployment.unsettled_messages() == 0, "that message is settled")
        worker.kill()
        for text in texts:
            self.producer.submit("mark", text)

    def flight(self, text: str, version: str) -> dict[str, str]:
        return self.deployment.flight(text, "mark", version)

    def entry(self, text: str, version: str) -> bool:
        with self.deployment.redis() as cache:
            return bool(cache.exists(self.space.entry(key_of("mark", version, canonicalize(text)))))

    def computed(self, version: str) -> int:
        return sum(each.model == version for each in self.deployment.computations())


@pytest.fixture
def rollout(deploy: Callable[..., Deployment]) -> Rollout:
    return Rollout(deploy(models=("mark",), heartbeat_s=0.3, card_refresh_s=60.0, take_over_s=1.0))


@pytest.mark.parametrize("pool", POOLS)
def test_who_asked_by_the_bare_name_is_answered_by_the_current_version(rollout: Rollout, pool: Pool) -> None:
    rollout.leave_behind()
    waiting = [rollout.producer.submit("mark", f"bare {n}") for n in range(20)]
    named = [rollout.producer.submit("mark@1", f"named {n}") for n in range(20)]
    rollout.start("2", pool)
    assert [pending.result(30) for pending in waiting] == [f"bare {n}2" for n in range(20)]
    assert {pending.key.partition(":")[0] for pending in waiting} == {"mark@2"}
    for pending in named:
        with pytest.raises(VersionGone, match="mark@1 has no workers left; ask for 'mark', which means mark@2 now"):
            pending.result(30)
    assert rollout.computed("2") == 20, "nobody asked the current version for what named the other"
    assert not any(rollout.entry(f"bare {n}", "1") for n in range(20)), "no answer of 2 lies under a key of 1"
    wait_until(lambda: rollout.deployment.unsettled_messages() == 0, "every message is settled")


def test_who_waits_in_predict_is_answered_too(rollout: Rollout) -> None:
    rollout.leave_behind()
    script = """
producer = Producer()
def ask():
    say(producer.predict("mark", "hello", timeout=30))
say(producer.predict("mark", "known"))
threads = [threading.Thread(target=ask) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    process = rollout.deployment.start_producer(script)
    assert process.hear() == "known1"
    wait_until(lambda: rollout.flight("hello", "1"), "it waits")
    rollout.start("2")
    assert [process.hear() for _ in range(3)] == ["hello2"] * 3
    process.finish()
    assert rollout.computed("2") == 1


def test_who_asks_when_its_card_has_lapsed_is_answered_too(rollout: Rollout) -> None:
    """No producer that comes then can send a message for it, and so no queue tells anybody to take it over."""
    rollout.leave_behind()
    with rollout.deployment.redis() as cache:
        wait_until(lambda: not cache.exists(rollout.space.card("mark@1")), "its card has lapsed")
    script = """
def ask(n, producer, call):
    say([n, getattr(producer, call)("mark", "hello", **({"timeout": 30} if call == "predict" else {}))])

producer = Producer()
threads = [threading.Thread(target=ask, args=(n, producer, "predict")) for n in range(3)]
for thread in threads: thread.start()
hear()
pending = producer.submit("mark", "detached")
say(["detached", pending.result(30)])
for thread in threads: thread.join()
"""
    process = rollout.deployment.start_producer(script)
    wait_until(lambda: rollout.flight("hello", "1"), "it waits")
    process.say("go")
    wait_until(lambda: rollout.flight("detached", "1"), "and it")
    rollout.start("2")
    said = dict(process.hear() for _ in range(4))
    assert said == {0: "hello2", 1: "hello2", 2: "hello2", "detached": "detached2"}
    process.finish()
    assert rollout.computed("2") == 2
    assert not rollout.flight("hello", "1"), "nobody waits there any more"


def test_and_on_an_event_loop(rollout: Rollout) -> None:
    rollout.leave_behind()

    async def ask() -> list[str]:
        async with AsyncProducer(rollout.deployment.settings) as producer:
            asking = [asyncio.create_task(producer.predict("mark", f"{n}", timeout=30)) for n in range(5)]
            submitted = await producer.submit("mark", "detached")
            await asyncio.to_thread(wait_until, lambda: all(rollout.flight(f"{n}", "1") for n in range(5)), "all wait")
            await asyncio.to_thread(rollout.start, "2")
            return [*await asyncio.gather(*asking), await submitted]

    assert asyncio.run(ask()) == ["02", "12", "22", "32", "42", "detached2"]


def test_what_was_submitted_is_computed_though_nobody_is_there_any_more(rollout: Rollout) -> None:
    rollout.leave_behind("left behind")
    rollout.producer.close()
    with rollout.deployment.redis() as cache:  # and another's flight was evicted: nobody knows how it was asked for
        Producer(rollout.deployment.settings).submit("mark", "evicted")
        cache.delete(rollout.space.flight(key_of("mark", "1", canonicalize("evicted"))))
    rollout.start("2")
    for text in ("left behind", "evicted"):
        wait_until(lambda text=text: rollout.entry(text, "2"), f"{text} is computed")
    wait_until(lambda: rollout.deployment.unsettled_messages() == 0, "every message is settled")
    assert not rollout.flight("left behind", "1")


def test_a_submission_that_follows_who_named_the_version_is_not_lost(rollout: Rollout) -> None:
    rollout.leave_behind()
    named = rollout.producer.submit("mark@1", "both")
    other = rollout.deployment.producer()
    other.submit("mark", "both")
    assert rollout.flight("both", "1")["bare"] == "1"
    other.close()
    rollout.start("2")
    with pytest.raises(VersionGone):
        named.result(30)
    # The flight first: it goes when the entry comes.
    assert rollout.flight("both", "2") or rollout.entry("both", "2"), "it was passed on before the other was told"
    wait_until(lambda: rollout.entry("both", "2"), "it is computed")


def test_a_version_that_comes_back_has_its_queue_to_itself(rollout: Rollout) -> None:
    rollout.leave_behind("first")
    two = rollout.start("2")
    wait_until(lambda: rollout.entry("first", "2"), "the queue was taken over")
    one = rollout.start("1", promote=False)
    assert rollout.producer.predict("mark@1", "second") == "second1"
    assert one.is_running
    assert two.is_running
    assert rollout.computed("1") == 2


def test_a_version_whose_workers_only_start_again_keeps_what_waits(deploy: Callable[..., Deployment]) -> None:
    rollout = Rollout(deploy(models=("mark",), heartbeat_s=0.3, card_refresh_s=60.0, take_over_s=30.0))
    rollout.leave_behind()
    pending = rollout.producer.submit("mark@1", "named")
    rollout.start("2")
    with rollout.deployment.redis() as cache:
        wait_until(lambda: not cache.exists(rollout.space.card("mark@1")), "its card has lapsed")
    rollout.start("1", promote=False)
    assert pending.result(30) == "named1"


def test_a_worker_that_is_killed_while_it_passes_on_loses_nothing(deploy: Callable[..., Deployment]) -> None:
    """The next one finds the flight of the current version, or opens it.

    But for what kombu loses: it takes a message from Redis and notes that in two steps, and a kill between them costs
    the message. Whoever asks for it again has it.
    """
    settings = {"lease_s": 1.0, "visibility_timeout_s": 4.0, "heartbeat_s": 0.3, "take_over_s": 1.0}
    rollout = Rollout(deploy(models=("mark",), card_refresh_s=60.0, **settings))
    texts = [f"text {n}" for n in range(200)]
    rollout.leave_behind(*texts)
    rollout.producer.close()
    for _ in range(3):
        before = rollout.computed("2")
        worker = rollout.start("2")
        wait_until(lambda before=before: rollout.computed("2") > before, "it passes on, and computes")
        worker.signal(signal.SIGKILL)
        worker.wait()
    rollout.start("2")
    wait_until(lambda: rollout.deployment.unsettled_messages() == 0, "every message is settled")
    missing = [text for text in texts if not rollout.entry(text, "2")]
    assert len(missing) <= 3, "one for each kill"
    with rollout.deployment.producer() as producer:
        assert list(producer.map("mark", missing)) == [f"{text}2" for text in missing]


def test_where_nobody_has_taken_its_place_it_waits(rollout: Rollout) -> None:
    rollout.leave_behind()
    pending = rollout.producer.submit("mark", "patient")
    rollout.start("2", promote=False)
    with rollout.deployment.redis() as cache:
        assert cache.get(rollout.space.current("mark")) == b"1"
    assert not pending.done()
    assert rollout.flight("patient", "1")[f"{Kind.DETACHED}:{rollout.producer._client.engine.inbox}"]  # type: ignore[union-attr]
    rollout.start("1", promote=False)
    assert pending.result(30) == "patient1"
