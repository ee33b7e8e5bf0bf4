"""What workers give up on is left for an operator: seen, tried again, dropped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from acceptance.harness import Deployment, wait_until

from foreseen.broker import Publisher
from foreseen.dead_letters import DeadLetter
from foreseen.keys import Key
from producer import TimeLimitExceeded, TooManyAttempts

pytestmark = pytest.mark.acceptance

FORESEEN = str(Path(sys.executable).with_name("foreseen"))
_LIMIT_S = 30.0


def dead(deployment: Deployment, *arguments: str, status: int = 0) -> str:
    """Run `foreseen dead`; return what it printed."""
    done = subprocess.run(
        [FORESEEN, "dead", *arguments],
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def listed(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dead(deployment, "list", "--json"))
    return found


def test_of_a_batch_of_32_the_one_that_kills_leaves_one_letter_and_is_computed_once_it_can_be(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=2)
    deployment.start_worker(concurrency=1)
    producer = deployment.producer()
    stone = deployment.gate("stone")
    requests = [{"value": value} for value in range(31)]
    requests.insert(17, {"value": "poison", "die_unless": str(stone)})
    pendings = producer.submit_many("wide", requests)
    assert len({pending.task_id for pending in pendings}) == 1
    poison = pendings.pop(17)
    with pytest.raises(TooManyAttempts, match=r"died 2 times.*signal 9") as failure:
        poison.result(60)
    assert [pending.result(60)["value"] for pending in pendings] == [*range(31)]

    (letter,) = listed(deployment)
    assert letter["key"] == poison.key
    assert letter["failure"] == failure.value.to_wire()
    assert "wide@1:" in dead(deployment, "list")
    assert json.loads(dead(deployment, "show", poison.key.rpartition(":")[2][:8]))["input"]["value"] == "poison"
    assert listed(deployment) == [letter]  # looking takes nothing away
    with pytest.raises(TooManyAttempts):
        producer.predict("wide", requests[17], refresh=True)  # it is not tried, and there is one letter
    assert listed(deployment) == [letter]

    deployment.open_gate("stone")  # what it died of is mended
    assert poison.key in dead(deployment, "retry", poison.key[:-30])
    wait_until(lambda: producer.peek("wide", requests[17]) is not None, "it is computed")
    assert producer.predict("wide", requests[17])["value"] == "poison"
    assert listed(deployment) == []
    assert "No dead letters" in dead(deployment, "list")
    wait_until(lambda: deployment.unsettled_messages() == 0, "every message is settled")


def test_a_letter_without_its_input_says_what_to_do(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=1, dead_letter_inputs=False)
    deployment.start_worker(concurrency=1)
    pending = deployment.producer().submit("slow", {"value": "secret", "die": True})
    with pytest.raises(TooManyAttempts):
        pending.result(60)
    (letter,) = listed(deployment)
    assert not letter["has_input"]
    assert "FORESEEN_DEAD_LETTER_INPUTS" in dead(deployment, "retry", "--all", status=2)
    assert "no dead letter of 'ffff'" in dead(deployment, "show", "ffff", status=3)
    assert "or --all" in dead(deployment, "drop", status=2)
    assert "secret" not in "".join(text for _, text in deployment.logs())
    assert dead(deployment, "drop", "--all", "--yes") == "Dropped 1 letter.\n"
    assert listed(deployment) == []


def test_an_item_that_takes_too_long_leaves_a_letter(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0)
    deployment.start_worker(concurrency=1)
    with pytest.raises(TimeLimitExceeded):
        deployment.producer().predict("limited", {"value": "slow", "sleep_s": 30})
    (letter,) = listed(deployment)
    assert letter["failure"]["name"] == "TimeLimitExceeded"


def test_no_more_are_kept_than_the_deployment_allows(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=2.0, max_attempts=1, max_dead_letters=1)
    worker = deployment.start_worker(concurrency=1)
    producer = deployment.producer()
    for value in range(2):
        with pytest.raises(TooManyAttempts):
            producer.predict("slow", {"value": value, "die": True})
    assert len(listed(deployment)) == 1
    assert worker.logged("FORESEEN_MAX_DEAD_LETTERS are kept") == 1


def test_what_is_no_letter_is_told_and_can_be_dropped(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    letter = DeadLetter(Key("slow", "1", "0" * 40), TooManyAttempts("x"), 0, None)
    with pytest.MonkeyPatch.context() as patch, closing(Publisher(deployment.settings)) as publisher:
        patch.setattr(DeadLetter, "body", lambda _: b"\x93 no letter")
        assert publisher.publish([letter]) == []
    assert "1 that cannot be read" in dead(deployment, "list")
    assert dead(deployment, "drop", "--all", "--yes") == "Dropped 1 letter.\n"
    assert "No dead letters" in dead(deployment, "list")
