"""One producer, many threads; one producer, and the processes forked from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from acceptance.harness import Deployment
from acceptance.probes import in_threads, keys_without_expiry

from producer import Source

pytestmark = pytest.mark.acceptance


def test_a_producer_works_on_in_the_parent_and_in_forked_children(deploy: Callable[..., Deployment]) -> None:
    """As gunicorn's preload does it: made and used before the fork, used by all at the same time after it."""
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 4)
    gate = deployment.gate("parents")
    process = deployment.start_producer(
        """
producer = Producer()
producer.predict("slow", {"value": "before"})
parents = producer.submit("slow", {"value": "parent's", "wait_for": arguments["gate"]})
inbox = producer._client.engine.inbox

def use(name):
    own = [producer.submit("slow", {"value": f"{name} {index}"}) for index in range(20)]
    shared = [producer.submit("slow", {"value": index, "sleep_s": 0.01}) for index in range(20)]
    got = [pending.result(20)["value"] for pending in own + shared]
    hit = producer.predict("slow", {"value": "before"})["value"]
    return got == [f"{name} {index}" for index in range(20)] + list(range(20)) and hit == "before"

children = []
for number in range(3):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {
                "works": use(f"child {number}"),
                "inbox": producer._client.engine.inbox,
                "open": len(producer._client.engine.table),
            }
            os.write(writer, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    children.append((pid, reader))
works = use("parent")
said = []
for pid, reader in children:
    with os.fdopen(reader) as pipe:
        said.append(json.loads(pipe.read() or "null"))
    os.waitpid(pid, 0)
say(said)
say({"works": works, "inbox": producer._client.engine.inbox == inbox, "done": parents.done()})
hear()
say(parents.result(20)["value"])
""",
        gate=str(gate),
    )
    children = process.hear(60)
    assert [child["works"] for child in children] == [True] * 3
    assert len({child["inbox"] for child in children}) == 3
    assert [child["open"] for child in children] == [0] * 3  # theirs are done, and the parent's are not theirs
    assert process.hear() == {"works": True, "inbox": True, "done": False}
    gate.touch()
    process.say()
    assert process.hear() == "parent's"
    process.finish()
    assert process.tail() == ""
    assert all(len(deployment.computations(value)) == 1 for value in [*range(20), "before", "parent's"])
    assert len(deployment.computations()) == 1 + 1 + 4 * 20 + 20


def test_forks_while_other_threads_submit(deploy: Callable[..., Deployment]) -> None:
    """Whatever locks those threads held at the fork, a child is not held up by them."""
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 4)
    process = deployment.start_producer(
        """
producer = Producer()
producer.predict("slow", {"value": "before"})
stop = threading.Event()
answered = [0] * 8

def ask(index):
    while not stop.is_set():
        value = f"{index} {answered[index]}"
        assert producer.predict("slow", {"value": value}, timeout=20)["value"] == value
        answered[index] += 1

threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
for thread in threads:
    thread.start()
statuses = []
for number in range(20):
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = producer.predict("slow", {"value": f"child {number}"}, timeout=20)["value"] == f"child {number}"
        finally:
            os._exit(0 if ok else 1)
    statuses.append(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads:
    thread.join()
say(statuses)
say(min(answered))
""",
    )
    assert process.hear(90) == [0] * 20
    assert process.hear() > 0
    process.finish()
    assert process.tail() == ""


def test_a_fork_while_another_thread_connects_to_the_broker(deploy: Callable[..., Deployment]) -> None:
    """Whoever connects holds a lock of kombu's class, which the child would find locked for ever."""
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 2)
    process = deployment.start_producer(
        """
from kombu.transport import redis

producer = Producer()
producer.predict("slow", {"value": "before"})
lock = vars(redis.Channel)["client"].lock
held, let_go = threading.Event(), threading.Event()

def connect():
    with lock:
        held.set()
        let_go.wait()

thread = threading.Thread(target=connect)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    ok = False
    try:
        ok = producer.predict("slow", {"value": "child"}, timeout=10)["value"] == "child"
    finally:
        os._exit(0 if ok else 1)
say(os.waitpid(pid, 0)[1])
let_go.set()
thread.join()
say(producer.predict("slow", {"value": "parent"}, timeout=10)["value"])
""",
    )
    assert process.hear(25) == 0
    assert process.hear() == "parent"
    process.finish()


def test_a_forked_child_that_ends_normally_leaves_its_parent_alone(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 2)
    process = deployment.start_producer(
        """
import multiprocessing

producer = Producer()

def child():
    assert producer.predict("slow", {"value": "child's"}, timeout=20)["value"] == "child's"
    producer.close()

if __name__ == "__main__":
    pending = producer.submit("slow", {"value": "parent's", "wait_for": arguments["gate"]})
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child) for _ in range(3)]
    for each in children:
        each.start()
    for each in children:
        each.join()
    say([each.exitcode for each in children])
    hear()
    say(pending.result(20)["value"])
    say(producer.predict("slow", {"value": "more"}, timeout=20)["value"])
""",
        gate=str(deployment.gate("parents")),
    )
    assert process.hear(60) == [0, 0, 0]
    deployment.open_gate("parents")
    process.say()
    assert process.hear() == "parent's"
    assert process.hear() == "more"
    process.finish()
    assert process.tail() == ""
    assert len(deployment.computations("child's")) == 1


def test_fifty_threads_share_one_producer(deploy: Callable[..., Deployment]) -> None:
    """Hits, misses and equal keys, waited for and submitted, one and many; every answer is the question's."""
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 8)
    producer = deployment.producer(max_connections=8)  # fewer than threads: they take turns
    hits = {value: producer.predict("slow", {"value": value}) for value in range(5)}
    start = threading.Barrier(50)

    def ask(index: int) -> list[Any]:
        start.wait()
        got = []
        for step in range(4):
            hit, shared, own = step % 5, 100 + step, f"{index} {step}"
            got.append(producer.predict("slow", {"value": hit}) == hits[hit])
            got.append(producer.predict("slow", {"value": shared, "sleep_s": 0.02})["value"] == shared)
            pendings = [
                producer.submit("slow", {"value": own}),
                producer.submit("slow", {"value": own}),
                *producer.submit_many("slow", [{"value": hit}, {"value": own}, {"value": shared, "sleep_s": 0.02}]),
            ]
            wanted = [own, own, hit, own, shared]
            got.append([pending.result(20)["value"] for pending in pendings] == wanted)
            got.append(pendings[2].source is Source.HIT and pendings[0].key == pendings[1].key)
        return got

    assert in_threads(50, ask, 90) == [[True] * 16] * 50
    assert len(deployment.computations()) == 5 + 4 + 50 * 4
    client = producer._client
    assert client is not None
    assert len(client.engine.table) == 0
    assert keys_without_expiry(deployment) == []


def test_close_while_threads_submit_leaves_nobody_waiting(deploy: Callable[..., Deployment]) -> None:
    """Whoever is told nothing else is told that the producer was closed."""
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("threads", 4)
    for attempt in range(10):
        producer = deployment.producer()
        producer.predict("slow", {"value": "known"})
        answered = threading.Event()

        def ask(index: int, attempt: int = attempt, producer: Any = producer, answered: Any = answered) -> object:
            for step in range(1000):
                pending = producer.submit("slow", {"value": f"{attempt} {index} {step}"})
                pending.result(20)
                answered.set()
            return None

        outcomes: list[Any] = []
        crowd = threading.Thread(target=lambda out=outcomes, call=ask: out.extend(in_threads(8, call)), daemon=True)
        crowd.start()
        answered.wait(20)
        producer.close()
        crowd.join(60)
        names = [type(outcome).__name__ for outcome in outcomes]
        assert len(names) == 8
        assert set(names) <= {"ProducerClosed", "CacheUnavailable"}, outcomes


def test_threading_patched_after_the_import_is_refused(deploy: Callable[..., Deployment]) -> None:
    """As gevent does it: a lock made before would stop every greenlet of the process."""
    process = deploy().start_producer(
        """
threading.Lock = lambda: None
try:
    Producer().predict("slow", {})
except Misconfigured as error:
    say(str(error))
"""
    )
    assert "Patch first, then import producer" in process.hear()
