"""`foreseen doctor` as a user runs it, and what a worker says of its servers when it starts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from acceptance.harness import Deployment
from acceptance.test_docs import ROOT, blocks_of

pytestmark = [pytest.mark.acceptance]

FORESEEN: Final = str(Path(sys.executable).with_name("foreseen"))
#: Far beyond what it takes, which is a second and a half.
LIMIT_S: Final = 20.0


def doctor(deployment: Deployment, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, in the deployment's directory."""
    ended = subprocess.run(
        [FORESEEN, "doctor", *arguments],
        cwd=deployment.directory,
        env=deployment.environment | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def findings(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {one["check"]: one["seen"] for one in json.loads(ended.stdout)["findings"]}


def test_it_finds_what_is_wrong_with_servers_workers_and_settings(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(server_config={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"})
    worker = deployment.start_worker(
        "threads", 1, FORESEEN_VISIBILITY_TIMEOUT_S="30", arguments=("--prefetch-multiplier", "8")
    )
    (said,) = [line for line in worker.log.read_text().splitlines() if "WARNING" in line and "allkeys-lru" in line]
    assert "CONFIG SET maxmemory-policy volatile-lfu" in said

    ended = doctor(deployment, "--json", CELERY_BROKER_URL=deployment.server.url(7))
    assert ended.returncode == 1
    assert set(findings(ended)) == {
        "evicting-broker",  # the worker's own line, above
        "forgetful-broker",
        "other-broker",
        "differing-visibility-timeouts",
        "hoarding-worker",
    }
    assert findings(ended)["differing-visibility-timeouts"].startswith("worker worker0@localhost has")

    worker.kill()
    (deployment.directory / "workers.py").write_text("")
    (deployment.directory / "eager.py").write_text("from foreseen.celery_settings import *\ntask_acks_late = False\n")

    ended = doctor(deployment)
    assert ended.returncode == 1
    assert "workers.py hides foreseen's own package 'workers'" in ended.stdout
    (deployment.directory / "workers.py").unlink()
    ended = doctor(deployment, CELERY_CONFIG_MODULE="eager")
    assert "✗ task_acks_late is False; it must be True" in ended.stdout.splitlines()


def test_it_prints_what_its_page_shows(deploy: Callable[..., Deployment]) -> None:
    """But for the ports, the worker's name, and where lines are broken, which depends on both."""
    deployment = deploy(
        lease_s=10.0,
        visibility_timeout_s=600.0,
        server_config={"maxmemory": "20mb", "maxmemory-policy": "allkeys-lru"},
    )
    deployment.start_worker("threads", 1, FORESEEN_VISIBILITY_TIMEOUT_S="30")
    (shown,) = [each.text for each in blocks_of(ROOT / "docs" / "doctor.md") if "$ foreseen doctor" in each.text]
    here = (
        shown.partition("\n")[2]
        .replace(":6399/", f":{deployment.server.port}/")
        .replace("celery@vm", "worker0@localhost")
    )
    ended = doctor(deployment)
    assert ended.returncode == 1
    assert re.sub(r"Valkey [\d.]+", "", ended.stdout).split() == re.sub(r"Valkey [\d.]+", "", here).split()


def test_warnings_alone_end_with_0(deployment: Deployment) -> None:
    deployment.start_worker("threads", 1)
    ended = doctor(deployment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "✗" not in ended.stdout
    assert ended.stdout.splitlines()[-1] == "2 warnings."
    assert "\n! the cache at redis://127.0.0.1" in ended.stdout
    assert "\n✓ looked at, and right: " in ended.stdout
    assert "\n- " not in ended.stdout


def test_a_server_that_does_not_answer_is_named_and_the_rest_is_told(deployment: Deployment) -> None:
    ended = doctor(deployment, "--json", FORESEEN_CACHE_URL="redis://:secret@127.0.0.1:1/1")
    told: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == 4
    assert findings(ended)["unavailable-server"].startswith("the cache at redis://127.0.0.1:1/1 does not answer")
    assert "clustered-broker" in told["right"]
    assert told["not_looked_at"]["unbounded-cache"] == "the cache does not answer"
    assert "secret" not in ended.stdout + ended.stderr


def test_a_setting_that_cannot_be_read_ends_with_2(deployment: Deployment) -> None:
    ended = doctor(deployment, FORESEEN_LEASE_S="soon")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "FORESEEN_LEASE_S" in ended.stderr


def test_a_worker_does_not_start_on_a_cluster_and_says_why(deployment: Deployment, cluster_server: Any) -> None:
    url = cluster_server.url()
    worker = deployment.start_worker("solo", wait=False, FORESEEN_BROKER_URL=url, FORESEEN_CACHE_URL=url)
    assert worker.wait() != 0
    assert worker.logged("foreseen: the broker at redis://127.0.0.1") == 1
    assert worker.logged("is part of a cluster") == 1
