"""A hit, from the cache server and from a near cache, beside a plain GET of the same bytes."""

from __future__ import annotations

from benchmarks.harness import Comparison, Tell, compare
from benchmarks.stage import MODEL, Stage, fresh_text
from producer import Producer

__all__ = ["many_hits", "near_hit", "single_hit"]

#: One chunk of look-ups is 500: two round trips, as the pipeline that it is compared with has one.
_MANY = 1000


def single_hit(stage: Stage, tell: Tell) -> Comparison:
    """`predict` of what is cached, beside redis-py's GET of the same 200 bytes."""
    text, producer, client = stage.known, stage.producer, stage.client
    client.set("bench:value", text)
    assert client.get("bench:value") == text.encode()
    return compare(
        "single hit", lambda: producer.predict(MODEL, text),
        "redis-py GET", lambda: client.get("bench:value"),
        rounds=60, calls=300, target=1.25, tell=tell,
    )  # fmt: skip


def near_hit(stage: Stage, tell: Tell) -> Comparison:
    """`predict` of what is in the producer's near cache, beside the same GET."""
    text, client = stage.known, stage.client
    client.set("bench:value", text)
    with Producer(stage.settings.model_copy(update={"near_cache_bytes": 10_000_000})) as producer:
        while not producer.near_cache().hits:
            producer.predict(MODEL, text)
        compared = compare(
            "near hit", lambda: producer.predict(MODEL, text),
            "redis-py GET", lambda: client.get("bench:value"),
            rounds=60, calls=300, target=0.05, tell=tell,
        )  # fmt: skip
        told = producer.near_cache()
        if told.misses > told.hits / 100:  # some are, where the machine stands still for a second
            raise RuntimeError(f"these were no hits of the near cache: {told}")
    return compared


def many_hits(stage: Stage, tell: Tell) -> Comparison:
    """`submit_many` of 1,000 that are cached, beside one pipeline of 1,000 GETs; per item."""
    texts = [fresh_text() for _ in range(_MANY)]
    producer, client = stage.producer, stage.client
    for pending in producer.submit_many(MODEL, texts):
        pending.result(60)
    client.mset({f"bench:{text}": text for text in texts})

    def hits() -> None:
        answers = [pending.result() for pending in producer.submit_many(MODEL, texts)]
        assert answers == texts

    def gets() -> None:
        with client.pipeline(transaction=False) as pipeline:
            for text in texts:
                pipeline.get(f"bench:{text}")
            assert len(pipeline.execute()) == _MANY

    return compare(
        "submit_many of 1,000 hits, per item", hits, "redis-py pipeline of 1,000 GETs", gets,
        rounds=12, calls=5, items=_MANY, tell=tell,
    )  # fmt: skip
