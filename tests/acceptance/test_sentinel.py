"""A cache that Sentinels watch over: its master is killed under traffic, and all goes on with another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from acceptance.cache_troubles import SERVICE, answered_again, faces, sentinel
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import in_threads

from foreseen.checks import at_start
from foreseen.embedded import EmbeddedServer, _free_port
from producer import CacheUnavailable

pytestmark = pytest.mark.acceptance


def test_the_master_is_killed_under_traffic(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    at_once = {"repl-diskless-sync-delay": "0"}
    with (
        EmbeddedServer(config=at_once) as master,
        EmbeddedServer(config={"replicaof": f"127.0.0.1 {master.port}", **at_once}) as replica,
        sentinel(deployment, master) as port,
    ):
        nobody = _free_port()  # a Sentinel that is down
        deployment.use_cache(f"sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/{SERVICE}/1")
        deployment.start_worker("threads", 4)
        with faces(deployment) as both:
            for face in both:
                assert face.predict("slow", {"value": "known"})["value"] == "known"
            with redis.Redis(port=master.port) as client, redis.Redis(port=replica.port) as behind:
                written = client.info("replication")["master_repl_offset"]
                wait_until(lambda: behind.info("replication")["slave_repl_offset"] >= written, "the replica has it")
            running = deployment.producer().submit("slow", {"value": "running", "wait_for": str(deployment.gate("go"))})
            deployment.wait_for_computations("running")
            stop = threading.Event()
            answered: Counter[str] = Counter()
            slowest: list[float] = [0.0]

            def ask(n: int) -> None:
                face, call = both[n % 2], 0
                while not stop.is_set():
                    value = f"{n} {call}"
                    began = time.monotonic()
                    try:
                        assert face.predict("slow", {"value": value}, timeout=DEADLINE_S)["value"] == value
                        answered[face.name] += 1
                        call += 1
                    except CacheUnavailable:
                        time.sleep(0.02)
                    slowest[0] = max(slowest[0], time.monotonic() - began)

            outcomes: list[Any] = []
            crowd = threading.Thread(target=lambda: outcomes.extend(in_threads(6, ask, 2 * DEADLINE_S)), daemon=True)
            crowd.start()
            try:
                wait_until(lambda: all(answered[face.name] > 20 for face in both), "answers come")
                os.kill(master.pid, signal.SIGKILL)
                killed = Counter(answered)
                with redis.Redis(port=port, decode_responses=True) as client:
                    address = client.sentinel_get_master_addr_by_name
                    wait_until(lambda: address(SERVICE)[1] == replica.port, "the Sentinel names the replica")
                # What was computed may be taken for a dead worker's, since the new master has yet to hear this one;
                # then it is computed alone, once all others have ended.
                deployment.open_gate("go")
                wait_until(lambda: all(answered[face.name] > killed[face.name] + 20 for face in both), "and again")
                assert running.result(DEADLINE_S)["value"] == "running"
            finally:
                stop.set()
                crowd.join(2 * DEADLINE_S)
            assert outcomes == [None] * 6, "no answer was another's, and nobody was told anything but CacheUnavailable"
            assert slowest[0] < DEADLINE_S / 2
            for face in both:
                assert answered_again(face, {"value": "known"}) == "known"
                assert not face.outages().is_away
            assert len(deployment.computations("known")) == 1, "the replica had it"


def test_no_sentinel_knows_a_master(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.use_cache(f"sentinel://127.0.0.1:{_free_port()},127.0.0.1:{_free_port()}/{SERVICE}/1")
    with faces(deployment) as both:
        for face in both:
            began = time.monotonic()
            with pytest.raises(CacheUnavailable, match=f"of 2 Sentinels none names a live master of '{SERVICE}'"):
                face.predict("slow", {"value": "unheard"})
            assert time.monotonic() - began < deployment.settings.connect_timeout_s
    findings, _ = at_start(deployment.settings)
    assert not [each for each in findings if "cache" in each.check or "sentinel" in each.seen]
