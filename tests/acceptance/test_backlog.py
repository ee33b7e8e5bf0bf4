"""Bursts: everything submitted is computed once, and a long queue does not multiply its own messages."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest
from acceptance.harness import Deployment, wait_until
from acceptance.probes import entries, flights, keys_without_expiry, messages_sent, statistics

pytestmark = pytest.mark.acceptance

#: Submits of the burst; FORESEEN_TEST_BURST=10000 is the size that the project promises something about.
BURST: Final = int(os.environ.get("FORESEEN_TEST_BURST", "1000"))
#: More messages than submits, at most.
ALLOWANCE: Final = 0.02


@pytest.mark.parametrize(("count", "end"), [(1000, "the interpreter returns"), (200, "os._exit")])
def test_submits_and_then_the_producer_is_gone(deploy: Callable[..., Deployment], count: int, end: str) -> None:
    deployment = deploy(lease_s=5.0)
    deployment.start_worker("prefork", 2)
    producer = deployment.start_producer(
        """
producer = Producer()
for value in range(arguments["count"]):
    producer.submit("slow", {"value": value})
if arguments["end"] == "os._exit":
    os._exit(0)
""",
        count=count,
        end=end,
    )
    assert producer.finish() == []
    assert producer.tail() == ""  # nothing complained on the way out
    wait_until(lambda: entries(deployment) == count, f"{count} entries", 60)
    assert len(deployment.computations()) == count
    assert flights(deployment) == []
    assert keys_without_expiry(deployment) == []


def lose(deployment: Deployment, count: int) -> int:
    """Remove messages from the queue, spread over what waits there; return how many."""
    with deployment.redis(0) as broker:
        waiting = [(name, each) for name in broker.keys("*slow@1*") for each in broker.lrange(name, 0, -1)]
        return sum(
            int(broker.lrem(name, 1, each)) for name, each in waiting[:: max(1, len(waiting) // max(1, count))][:count]
        )


@pytest.mark.timeout(60 + BURST // 50)
@pytest.mark.parametrize(
    ("away_leases", "lost_share"),
    [(0, 0.0), (0, 0.01), (4, 0.0)],
    ids=["the worker is behind", "one in a hundred is lost", "the worker comes late"],
)
def test_a_burst_into_a_backlog_of_several_leases_sends_each_message_once(
    deploy: Callable[..., Deployment], away_leases: int, lost_share: float
) -> None:
    """Everyone who submitted waits on, and so looks again and again while the queue is worked off.

    While nothing begins at all, nobody can tell a message that waits from one that is lost: then each is sent again
    after one, two, four… leases of silence, and no more.
    """
    lease_s = 0.5 if BURST <= 2000 else 2.0
    deployment = deploy(lease_s=lease_s, heartbeat_s=20.0)  # the model stays known while nobody serves it
    worker = deployment.start_worker("prefork", 2)
    busy = deployment.producer()
    busy.predict("slow", {"value": "known"})
    gate = deployment.gate("busy")
    if away_leases:
        worker.kill()
    else:
        for value in ("busy 0", "busy 1"):
            busy.submit("slow", {"value": value, "wait_for": str(gate)})
            deployment.wait_for_computations(value)

    before = messages_sent(deployment)
    timeout_s = 60 + BURST / 100
    producer = deployment.start_producer(
        """
from concurrent.futures import ThreadPoolExecutor

producer = Producer()
began = time.monotonic()
with ThreadPoolExecutor(8) as pool:
    pendings = list(pool.map(
        lambda value: producer.submit("slow", {"value": value, "sleep_s": arguments["sleep_s"]}),
        range(arguments["burst"]),
    ))
say(time.monotonic() - began)
values = [pending.result(arguments["timeout_s"])["value"] for pending in pendings]
say(time.monotonic() - began)
say(values == list(range(arguments["burst"])))
""",
        burst=BURST,
        sleep_s=10 * lease_s / BURST,  # so that two processes need five leases at least, however fast they are
        timeout_s=timeout_s,
    )
    wait_until(lambda: messages_sent(deployment) > before, "the burst has begun")
    began = time.monotonic()
    if away_leases:
        time.sleep(away_leases * lease_s)  # no event: that nothing begins for this long is the condition
        deployment.start_worker("prefork", 2)
        wait_until(lambda: statistics(deployment)["begun"] > 1, "something begins")
        silent_leases = (time.monotonic() - began) / lease_s
    else:
        gate.touch()
        silent_leases = 0.0
    submitting_s = producer.hear(timeout_s)
    lost = lose(deployment, round(lost_share * BURST))
    answered_s = producer.hear(timeout_s)
    assert producer.hear(timeout_s) is True
    backlog_s = time.monotonic() - began
    producer.finish()

    sent = messages_sent(deployment) - before
    print(
        f"{BURST} submits in {submitting_s:.1f} s, answered after {answered_s:.1f} s, a backlog of "
        f"{backlog_s / lease_s:.1f} leases, {lost} lost: {sent} messages, {100 * (sent / BURST - 1):.2f} % more"
    )
    assert backlog_s > 3 * lease_s
    assert lost == round(lost_share * BURST)
    assert sent <= (1 + lost_share + ALLOWANCE + math.floor(math.log2(1 + silent_leases))) * BURST
    counts = Counter(each.digest for each in deployment.computations())
    assert len(counts) == BURST + (1 if away_leases else 3)
    assert set(counts.values()) == {1}
    assert statistics(deployment)["begun"] == entries(deployment) == len(counts)
    assert flights(deployment) == []
    assert keys_without_expiry(deployment) == []
