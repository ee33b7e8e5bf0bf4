"""Hits that are computed again behind their readers' backs: what differs is found, and nothing changes by it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import cache_of, statistics
from click.testing import CliRunner

from foreseen.canonical import canonicalize
from foreseen.cli.demo.files import find_input
from foreseen.cli.root import root
from foreseen.keys import key_of
from producer import AsyncProducer, Producer, Source

pytestmark = pytest.mark.acceptance

#: `FORESEEN_AUDITED_FILES=2000` for the long run, two or three minutes.
FILES = int(os.environ.get("FORESEEN_AUDITED_FILES", "60"))
#: Hits between two looks at what became of their audits, which are dropped where 32 messages wait.
ROUND = 30
TEXTS = [f"text {n}" for n in range(8)]


def audited(deployment: Deployment, model_id: str, count: int, timeout_s: float = DEADLINE_S) -> Counter[str]:
    """Return a model's statistics once so many of its hits were audited."""
    wait_until(lambda: statistics(deployment, model_id)["audited"] >= count, f"{count} audits of {model_id}", timeout_s)
    return statistics(deployment, model_id)


@pytest.mark.parametrize(("pool", "keys"), [("prefork", ""), ("threads", f"one:{'s' * 32}")])
def test_noise_is_caught(deploy: Callable[..., Deployment], pool: Literal["prefork", "threads"], keys: str) -> None:
    deployment = deploy(models=("served.noisy",), audit_share=1, signing_keys=keys)
    worker = deployment.start_worker(pool)
    producer = deployment.producer()
    first = [producer.predict("noisy", text, timeout=DEADLINE_S) for text in TEXTS]
    with cache_of(deployment) as cache:
        entries = {name: cache.get(name) for name in cache.scan_iter("foreseen:e:*")}
    assert [producer.predict("noisy", text) for text in TEXTS] == first
    told = audited(deployment, "noisy@1", len(TEXTS))
    assert (told["audited"], told["differed"]) == (len(TEXTS), len(TEXTS))
    assert (told["begun"], told["computed"], told["opened"]) == (len(TEXTS),) * 3, "an audit is in nobody's statistics"
    with cache_of(deployment) as cache:
        assert {name: cache.get(name) for name in cache.scan_iter("foreseen:e:*")} == entries, "no entry has changed"
    short = key_of("noisy", "1", canonicalize(TEXTS[0])).short
    assert worker.logged(f"audit: {short} was computed again, and its entry is another: its numbers by up to ") == 1
    assert not any(worker.logged(secret) for secret in ("text 0", str(first[0]["scores"][0])))
    environment = {
        "FORESEEN_CACHE_URL": deployment.settings.cache_url,
        "FORESEEN_BROKER_URL": deployment.settings.broker_url,
    }
    shown = CliRunner(env=environment).invoke(root, ["stats", "noisy"])
    assert "hits audited" in shown.output, shown.output


def test_what_a_model_tolerates_is_no_difference_and_what_differs_by_nature_is_left_alone(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(models=("served.noisy",), audit_share=1)
    deployment.start_worker("threads")
    producer = deployment.producer()
    for model in ("unaudited", "tolerant", "tolerant", "unaudited"):
        for text in TEXTS:
            producer.predict(model, text, timeout=DEADLINE_S)
    for text in TEXTS:
        producer.predict("unaudited", text)
        producer.predict("tolerant", text)
    assert audited(deployment, "tolerant@1", len(TEXTS))["differed"] == 0
    assert statistics(deployment, "unaudited@1")["audited"] == 0


def test_outputs_that_are_shifted_in_their_batch_are_caught(deploy: Callable[..., Deployment]) -> None:
    """As many outputs as inputs, and each at another's place: nothing but computing one again alone can tell."""
    deployment = deploy(models=("served.noisy",), audit_share=1)
    deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    wrong = list(producer.map("shifted", TEXTS, timeout=DEADLINE_S))
    assert wrong != TEXTS
    assert list(producer.map("shifted", TEXTS)) == wrong
    assert audited(deployment, "shifted@1", len(TEXTS))["differed"] == len(TEXTS)


def test_a_hit_waits_for_no_audit(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(audit_share=1)
    deployment.start_worker("threads", 2)
    producer = deployment.producer()
    gate = deployment.gate("audit")
    request = {"value": "held", "wait_for": str(gate)}
    deployment.open_gate("audit")
    answer = producer.predict("slow", request, timeout=DEADLINE_S)
    deployment.close_gate("audit")
    assert producer.predict("slow", request) == answer
    deployment.wait_for_computations("held", 2)
    began = time.monotonic()
    pending = producer.submit("slow", request)
    assert (pending.source, pending.result()) == (Source.HIT, answer)
    assert time.monotonic() - began < 1, "nor for one that runs"
    deployment.open_gate("audit")
    assert audited(deployment, "slow@1", 1)["differed"] == 0


def test_what_is_purged_while_it_is_audited_is_no_difference(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(audit_share=1)
    worker = deployment.start_worker("threads", 2)
    producer = deployment.producer()
    gate = deployment.gate("audit")
    request = {"value": "held", "nonce": True, "wait_for": str(gate)}
    deployment.open_gate("audit")
    producer.predict("slow", request, timeout=DEADLINE_S)
    deployment.close_gate("audit")
    producer.predict("slow", request)
    deployment.wait_for_computations("held", 2)
    producer.purge("slow")
    deployment.open_gate("audit")
    wait_until(lambda: worker.logged("succeeded") >= 2, "the audit has ended")
    assert statistics(deployment, "slow@1")["audited"] == 0


def test_an_audit_that_ends_its_process_is_not_tried_again(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(audit_share=1)
    worker = deployment.start_worker("prefork", 1)
    producer = deployment.producer()
    gate = deployment.gate("audit")
    request = {"value": "held", "wait_for": str(gate)}
    deployment.open_gate("audit")
    answer = producer.predict("slow", request, timeout=DEADLINE_S)
    deployment.close_gate("audit")
    with deployment.producer() as asking:
        assert asking.predict("slow", request) == answer
    worker.kill_child(deployment.wait_for_computations("held", 2)[1].pid)
    assert producer.predict("slow", {"value": "next"}, timeout=DEADLINE_S)
    wait_until(lambda: deployment.unsettled_messages() == 0, "its message was settled")
    assert len(deployment.computations("held")) == 2
    assert statistics(deployment, "slow@1")["audited"] == 0


def test_on_a_loop_too(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=("served.noisy",), audit_share=1)
    deployment.start_worker("threads")

    async def ask() -> None:
        async with AsyncProducer(deployment.settings) as producer:
            for _ in range(2):
                await asyncio.gather(*(producer.predict("noisy", text, timeout=DEADLINE_S) for text in TEXTS))

    asyncio.run(ask())
    assert audited(deployment, "noisy@1", len(TEXTS))["differed"] == len(TEXTS)


@pytest.mark.timeout(600)
def test_magika_answers_the_same_on_real_files(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=("workers.models.file_type",), audit_share=1)
    deployment.start_worker("prefork", 2)
    producer = deployment.producer()
    contents = list(dict.fromkeys(path.read_bytes() for path in find_input(FILES + FILES // 10, Path(__file__)).paths))
    files = contents[:FILES]
    assert len(files) == FILES
    list(producer.map("file-type", files, timeout=DEADLINE_S))
    asked = 0
    for start in range(0, FILES, ROUND):
        asked += ask_again(producer, files[start : start + ROUND])
        told = audited(deployment, "file-type@standard_v3_3", asked, 4 * DEADLINE_S)
    assert (told["audited"], told["differed"]) == (FILES, 0)


def ask_again(producer: Producer, files: list[bytes]) -> int:
    """Ask for files that have entries; return how many there are."""
    pendings = producer.submit_many("file-type", files)
    assert {pending.source for pending in pendings} == {Source.HIT}
    return len(files)
