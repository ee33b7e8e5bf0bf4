"""What tests of losses look at, and do, behind the product's back: queues, statistics, keys, connections."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import redis
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from foreseen.embedded import EmbeddedServer
from foreseen.keys import KeySpace
from producer import Producer

#: kombu keeps a queue in one list for each of its priority steps; all but the first carry this and the step.
_STEP_SEPARATOR: Final = "\x06\x16"
_STEPS: Final = (0, 3, 6, 9)


def cache_of(deployment: Deployment) -> contextlib.AbstractContextManager[redis.Redis]:
    """Return a client of the cache, wherever it is."""
    return redis.Redis.from_url(deployment.settings.cache_url)


def queue_keys(deployment: Deployment, model_id: str) -> list[str]:
    """Return the broker's lists of a model's queue."""
    name = f"{deployment.settings.namespace}.{model_id}"
    return [f"{name}{_STEP_SEPARATOR}{step}" if step else name for step in _STEPS]


def queued(deployment: Deployment, model_id: str = "slow@1") -> int:
    """Return how many messages lie in a model's queue; what a worker has taken is not among them."""
    with deployment.redis(0) as broker:
        return sum(int(broker.llen(key)) for key in queue_keys(deployment, model_id))


def remove_messages(deployment: Deployment, model_id: str = "slow@1") -> int:
    """Remove every message from a model's queue; return how many there were."""
    removed = 0
    with deployment.redis(0) as broker:
        for key in queue_keys(deployment, model_id):
            while broker.lpop(key) is not None:
                removed += 1
    return removed


def push_raw(deployment: Deployment, message: bytes | dict[str, Any], model_id: str = "slow@1") -> None:
    """Put something into a model's queue, before everything that is there: bytes, or an envelope as kombu's."""
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    with deployment.redis(0) as broker:
        broker.rpush(queue_keys(deployment, model_id)[0], raw)


def messages_sent(deployment: Deployment) -> int:
    """Return how many messages the broker has ever taken; look at differences only."""
    with deployment.redis(0) as broker:
        statistics: dict[str, Any] = dict(broker.info("commandstats"))
    return int(statistics.get("cmdstat_lpush", {}).get("calls", 0))


def statistics(deployment: Deployment, model_id: str = "slow@1") -> Counter[str]:
    """Return a model's statistics over all buckets."""
    total: Counter[str] = Counter()
    with cache_of(deployment) as cache:
        for key in cache.scan_iter(f"{deployment.settings.namespace}:s:{{{model_id}:*", count=1000):
            total.update({name.decode(): int(value) for name, value in cache.hgetall(key).items()})
    return total


def flights(deployment: Deployment) -> list[bytes]:
    """Return the names of all flights there are."""
    with cache_of(deployment) as cache:
        return list(cache.scan_iter(f"{deployment.settings.namespace}:f:*", count=1000))


def entries(deployment: Deployment, model_id: str = "slow@1") -> int:
    """Return how many entries a model has."""
    with cache_of(deployment) as cache:
        return sum(1 for _ in cache.scan_iter(f"{deployment.settings.namespace}:e:{{{model_id}:*", count=1000))


def keys_without_expiry(deployment: Deployment) -> list[bytes]:
    """Return the keys of the cache database that would stay for ever; there should be none."""
    with cache_of(deployment) as cache:
        return [key for key in cache.scan_iter(count=1000) if cache.pttl(key) == -1]


def kill_subscribers(deployment: Deployment) -> int:
    """Close every inbox, as the server does with a subscriber that reads too slowly; return how many.

    The workers' own subscriptions are closed too, and not counted. Other databases are left alone: in the broker's,
    workers are subscribed for Celery's remote control.
    """
    with cache_of(deployment) as cache:
        n_workers = len(cache.pubsub_channels(KeySpace(deployment.settings.namespace).worker("*")))
        db = str(cache.get_connection_kwargs()["db"])
        ids = [each["id"] for each in cache.client_list(_type="pubsub") if each["db"] == db]
        return max(0, sum(int(cache.client_kill_filter(_id=each)) for each in ids) - n_workers)


@contextlib.contextmanager
def deafened(producer: Producer, deployment: Deployment) -> Iterator[Callable[[], None]]:
    """Kill the producer's inbox and keep it from coming back; yields what ends that. Use the producer before."""
    client = producer._client
    assert client is not None
    hear_again = threading.Event()
    pubsub = client.pubsub

    def held() -> Any:
        hear_again.wait(DEADLINE_S)
        return pubsub()

    client.pubsub = held  # type: ignore[method-assign]
    try:
        wait_until(lambda: kill_subscribers(deployment) == 0, "the inbox is gone")
        yield hear_again.set
    finally:
        hear_again.set()


def waiting(producer: Producer) -> int:
    """Return how many submissions of a producer are past their join and their publish, and wait to be answered."""
    client = producer._client
    assert client is not None
    table = client.engine.table
    with table._lock:
        members = [each for group in table._groups.values() for each in group]
    return sum(each.on_answer is not None and not each.joining for each in members)


@contextlib.contextmanager
def cache_apart(deployment: Deployment, **config: str) -> Iterator[EmbeddedServer]:
    """Move a deployment's cache to a server of its own, before anything of it has started."""
    with EmbeddedServer(config=config) as cache:
        deployment._settings = deployment.settings.model_copy(update={"cache_url": cache.url(1)})
        yield cache


def in_threads(count: int, call: Callable[[int], Any], timeout_s: float = DEADLINE_S) -> list[Any]:
    """Call `call(0)` to `call(count - 1)` at the same time; return what each returned or raised."""
    outcomes: list[Any] = [None] * count

    def run(index: int) -> None:
        try:
            outcomes[index] = call(index)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    hanging = [index for index, thread in enumerate(threads) if thread.is_alive()]
    assert not hanging, f"{len(hanging)} of {count} calls hang, such as {hanging[:5]}"
    return outcomes


class Supervisor(threading.Thread):
    """Starts the worker again whenever it has ended, as a container's restart policy does."""

    def __init__(self, deployment: Deployment, **options: Any) -> None:
        super().__init__(daemon=True)
        self._deployment, self._options = deployment, options
        self._done = threading.Event()
        self.starts = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        worker = None
        while not self._done.wait(0.05):
            if worker is None or not worker.is_running:
                worker = self._deployment.start_worker(**self._options)
                self.starts += 1
