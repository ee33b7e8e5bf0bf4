"""A cache server in trouble: what it refuses is said and never answered wrongly, and what ends by itself is noticed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import redis
from acceptance.cache_troubles import Doorway, answered_again, faces, told_of_cache
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import cache_apart, cache_of, in_threads, keys_without_expiry

from foreseen import outage
from foreseen.embedded import EmbeddedServer
from producer import CacheUnavailable

pytestmark = pytest.mark.acceptance

#: Far longer than anything here takes: who is answered sooner has heard, and did not look again.
LEASE_S: Final = 20.0
PROMPT_S: Final = LEASE_S / 2

#: Does something to a server, and yields while that lasts.
Trouble = Callable[[EmbeddedServer, Any], Iterator[None]]


def is_replica(_: EmbeddedServer, client: Any) -> Iterator[None]:
    client.replicaof("127.0.0.1", 1)  # where nobody listens: it keeps what it has
    yield
    client.replicaof("no", "one")


def is_full(_: EmbeddedServer, client: Any) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


def cannot_save(server: EmbeddedServer, client: Any) -> Iterator[None]:
    in_the_way = server.directory / "dump.rdb"
    in_the_way.mkdir()
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving has failed")
    yield
    in_the_way.rmdir()
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "saving works again")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(is_replica, "is a replica"), (is_full, "is full and evicts nothing"), (cannot_save, "could not save its data")],
    ids=["became a replica", "full", "cannot save"],
)
def test_a_server_that_refuses_to_write(
    deploy: Callable[..., Deployment],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Trouble,
    said: str,
) -> None:
    """What it knows is answered; what would be written is refused, clearly; and all goes on when it takes writes."""
    monkeypatch.setattr(outage, "_QUIET_S", 0.5)
    deployment = deploy(lease_s=LEASE_S, visibility_timeout_s=2 * LEASE_S, card_refresh_s=0.2)
    with cache_apart(deployment) as server, faces(deployment) as both, cache_of(deployment) as client:
        worker = deployment.start_worker("threads", 4)
        for face in both:
            assert face.predict("slow", {"value": f"known to {face}"})["value"] == f"known to {face}"
        running = deployment.producer().submit("slow", {"value": "running", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("running")

        with contextmanager(trouble)(server, client):
            for face in both:
                for _ in range(20):
                    with pytest.raises(CacheUnavailable, match=said):
                        face.predict("slow", {"value": f"new to {face}"})
                assert face.predict("slow", {"value": f"known to {face}"})["value"] == f"known to {face}"
            deployment.open_gate("go")
            if trouble is is_full:  # what frees memory is allowed, and so is telling
                assert running.result(PROMPT_S)["value"] == "running"
            wait_until(lambda: len(told_of_cache(worker.log.read_text())) == 1, "the worker has said it, too, and once")

        for face in both:
            assert face.predict("slow", {"value": f"new to {face}"}, timeout=PROMPT_S)["value"] == f"new to {face}"
            assert face.outages().outages == 1
            assert face.outages().calls_failed >= 20
        assert running.result(PROMPT_S)["value"] == "running"
        wait_until(lambda: len(told_of_cache(caplog.text)) == 4, "each face has said twice what there was to say")
        assert len(deployment.computations("running")) == 1
        assert keys_without_expiry(deployment) == []


def test_a_name_that_leads_to_the_new_master(deploy: Callable[..., Deployment]) -> None:
    """The old one lives on as a replica, with open connections to it; nobody is told to use another name."""
    deployment = deploy(lease_s=LEASE_S, visibility_timeout_s=2 * LEASE_S)
    at_once = {"repl-diskless-sync-delay": "0"}
    with EmbeddedServer(config=at_once) as old, EmbeddedServer() as new, Doorway(old.port) as door:
        deployment.use_cache(f"redis://127.0.0.1:{door.port}/1")
        with redis.Redis(port=old.port) as at_old, redis.Redis(port=new.port) as at_new, faces(deployment) as both:
            at_new.replicaof("127.0.0.1", old.port)
            deployment.start_worker("threads", 4)
            for face in both:  # several connections each
                asked = [{"value": f"{face} {n}", "sleep_s": 0.05} for n in range(4)]
                in_threads(4, lambda n, face=face, asked=asked: face.predict("slow", asked[n]))  # type: ignore[misc]
            wait_until(lambda: at_new.info("replication")["master_link_status"] == "up", "the replica has caught up")
            at_new.replicaof("no", "one")
            door.lead_to(new.port)
            at_old.replicaof("127.0.0.1", 1)  # of nobody: what is pushed at the new one does not come through here

            for face in both:
                for n in range(4):
                    value = f"{face} {n} anew"
                    answer = face.predict("slow", {"value": value, "sleep_s": 0.01}, timeout=PROMPT_S)
                    assert answer["value"] == value
                assert face.outages().outages == 0, "the connection was dropped and the call sent again: nobody noticed"
                # Not found by a look: it is pushed, so the inbox has moved too.
                assert face.predict("slow", {"value": f"{face} heard", "sleep_s": 1.0}, timeout=PROMPT_S)
                assert face.predict("slow", {"value": f"{face} 0", "sleep_s": 0.05}) is not None


def test_a_server_that_reads_its_data(deploy: Callable[..., Deployment]) -> None:
    """It answers, and says that it does not yet: callers are told at once, and what it had is not computed again."""
    deployment = deploy(lease_s=LEASE_S, visibility_timeout_s=2 * LEASE_S)
    slow_to_read = {"key-load-delay": "3000", "loading-process-events-interval-bytes": "1024"}  # 3 ms for each key
    with cache_apart(deployment, **slow_to_read) as server, faces(deployment) as both:
        deployment.start_worker("threads", 2)
        for face in both:
            face.predict("slow", {"value": f"known to {face}"})
        with cache_of(deployment) as client:
            for n in range(500):
                client.set(f"filler {n}", "x" * 100, ex=600)
        told: list[str] = []
        for _ in range(5):  # it may be back before anybody has asked
            restarting = threading.Thread(target=lambda: server.restart(keep_data=True))
            restarting.start()
            while restarting.is_alive():
                for face in both:
                    began = time.monotonic()
                    try:
                        face.predict("slow", {"value": f"new to {face}"}, timeout=DEADLINE_S)
                    except CacheUnavailable as error:
                        told.append(str(error))
                        assert time.monotonic() - began < deployment.settings.connect_timeout_s
                time.sleep(0.02)
            restarting.join()
            if any("reads its data" in each for each in told):
                break
        assert any("reads its data" in each for each in told), told
        for face in both:
            assert answered_again(face, {"value": f"known to {face}"}) == f"known to {face}"
            assert answered_again(face, {"value": f"new to {face}"}) == f"new to {face}"
            assert len(deployment.computations(f"known to {face}")) == 1


def test_scripts_flushed_again_and_again_under_traffic(deploy: Callable[..., Deployment]) -> None:
    """Nobody notices: neither producers nor the worker."""
    deployment = deploy()
    deployment.start_worker("threads", 2)
    stop = threading.Event()

    def flush() -> None:
        with cache_of(deployment) as client:
            while not stop.is_set():
                client.script_flush()

    with faces(deployment) as both:
        flusher = threading.Thread(target=flush)
        flusher.start()
        try:
            for face in both:
                values = in_threads(8, lambda n, face=face: _ask_for(face, n))  # type: ignore[misc]
                assert values == [[f"{face} {n} {call}" for call in range(15)] for n in range(8)]
        finally:
            stop.set()
            flusher.join()


def _ask_for(face: Any, n: int) -> list[str]:
    """Ask for fifteen predictions, each twice."""
    requests = [{"value": f"{face} {n} {call}"} for call in range(15)]
    for request in requests:
        face.predict("slow", request, timeout=DEADLINE_S)
    return [face.predict("slow", request, timeout=DEADLINE_S)["value"] for request in requests]


def test_a_push_too_large_for_a_subscriber(deploy: Callable[..., Deployment]) -> None:
    """The server drops the inbox's connection instead of sending it; the outcome is found at once all the same."""
    deployment = deploy(
        lease_s=LEASE_S, visibility_timeout_s=2 * LEASE_S,
        server_config={"client-output-buffer-limit": "pubsub 16kb 16kb 1"},
    )  # fmt: skip
    deployment.start_worker("threads", 2)
    with faces(deployment) as both, cache_of(deployment) as client:
        for face in both:
            for model in ("slow", "unkept"):
                request = {"value": f"large for {face}", "pad": 50_000, "sleep_s": 0.05}
                before = client.info("stats")["client_output_buffer_limit_disconnections"]
                began = time.monotonic()
                assert len(face.predict(model, request, timeout=DEADLINE_S)["pad"]) == 50_000
                assert time.monotonic() - began < PROMPT_S
                assert client.info("stats")["client_output_buffer_limit_disconnections"] > before


def test_flights_and_generations_evicted_under_traffic(deploy: Callable[..., Deployment]) -> None:
    """What is lost is computed again; no answer is another's, and nobody hangs."""
    deployment = deploy(lease_s=0.5)
    with cache_apart(deployment, **{"maxmemory-policy": "allkeys-lfu"}) as server, faces(deployment) as both:
        deployment.start_worker("threads", 4)
        for face in both:
            face.predict("slow", {"value": f"known to {face}"})
        stop = threading.Event()

        def fill() -> None:
            with redis.Redis(port=server.port, db=1) as client:
                used = client.info("memory")["used_memory"]
                client.config_set("maxmemory", used + 300_000)
                n = 0
                while not stop.is_set():
                    with client.pipeline(transaction=False) as pipeline:
                        for _ in range(20):
                            n += 1
                            pipeline.set(f"filler {n}", "x" * 2000, ex=600)
                            pipeline.get(f"filler {max(1, n - 10)}")  # in use, and more so than a flight
                        pipeline.execute(raise_on_error=False)
                    time.sleep(0.005)

        filler = threading.Thread(target=fill)
        filler.start()
        try:
            for face in both:
                outcomes = in_threads(8, lambda n, face=face: _ask_under_pressure(face, n), 2 * DEADLINE_S)  # type: ignore[misc]
                assert outcomes == [[f"{n} {call}" for call in range(3)] for n in range(8)]
            with redis.Redis(port=server.port) as client:
                assert client.info("stats")["evicted_keys"] > 100
        finally:
            stop.set()
            filler.join()


def _ask_under_pressure(face: Any, n: int) -> list[str]:
    return [answered_again(face, {"value": f"{n} {call}", "sleep_s": 0.02}) for call in range(3)]


def test_an_outage_is_said_once_and_counted(
    deploy: Callable[..., Deployment], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    deployment = deploy(heartbeat_s=0.2, lease_s=0.6)
    with cache_apart(deployment) as server, faces(deployment) as both:
        worker = deployment.start_worker("threads", 2)
        for face in both:
            face.predict("slow", {"value": "known"})
        running = deployment.producer().submit("slow", {"value": "running", "wait_for": str(deployment.gate("go"))})
        deployment.wait_for_computations("running")
        port = server.port
        server.stop()
        deployment.open_gate("go")
        for face in both:
            for _ in range(50):
                with pytest.raises(CacheUnavailable, match="does not answer"):
                    face.predict("slow", {"value": "new"})
        time.sleep(1.0)  # several beats, renewals and looks in vain
        with EmbeddedServer(port):
            assert running.result(DEADLINE_S)["value"] == "running"
            for face in both:
                assert answered_again(face, {"value": "new"}) == "new"
                told = face.outages()
                assert (told.outages, told.is_away) == (1, False)
                assert told.calls_failed >= 50
                assert 0.5 < told.away_s < DEADLINE_S
            wait_until(lambda: len(told_of_cache(worker.log.read_text())) == 2, "the worker has said what there was")
            gone, back = told_of_cache(worker.log.read_text())
            assert "does not answer" in gone
            assert re.search(r"is back: it was away for \d+\.\d s; \d+ calls failed", back)
            lines = told_of_cache(caplog.text)
            assert [("is back" in line, "does not answer" in line) for line in sorted(lines, key=_is_back)] == [
                *[(False, True)] * 3, *[(True, False)] * 3,
            ]  # fmt: skip
            assert not [line for line in worker.log.read_text().splitlines() if "rejected" in line.lower()]


def _is_back(line: str) -> bool:
    return "is back" in line
