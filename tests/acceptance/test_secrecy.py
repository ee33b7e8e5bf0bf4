"""An input is between who asks and the model: no log, event, repr or error text of ours shows it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from acceptance.harness import Deployment, Pool, wait_until
from acceptance.probes import push_raw, queued
from acceptance.test_garbage import envelope, item, packed
from celery import Celery

from foreseen.canonical import canonicalize
from foreseen.errors import InvalidInput, PredictionFailed, PredictionTimeout
from foreseen.keys import key_of
from foreseen.message import LAYOUT

pytestmark = pytest.mark.acceptance

#: Part of every input here, in some form.
CANARY: Final = "canary-5e3f0a71"
EXIT_S: Final = 20.0


@contextmanager
def overheard(deployment: Deployment) -> Iterator[list[str]]:
    """Hear every event that workers send, as Flower does."""
    events: list[str] = []
    app = Celery(broker=deployment.settings.broker_url, set_as_current=False)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: events.append(repr(event))})

        def hear() -> None:
            for _ in receiver.consume(limit=None, timeout=None, wakeup=True):
                if receiver.should_stop:
                    return

        thread = threading.Thread(target=lambda: _quietly(hear), daemon=True)
        thread.start()
        try:
            yield events
        finally:
            receiver.should_stop = True
            thread.join(EXIT_S)


def _quietly(run: Callable[[], None]) -> None:
    try:
        run()
    except OSError:
        return


def inspected(deployment: Deployment) -> str:
    """Return all that workers tell of tasks that wait and run, which Flower shows."""
    app = Celery(broker=deployment.settings.broker_url, set_as_current=False)
    with app.connection_for_read() as connection:
        inspect = app.control.inspect(timeout=1.0, connection=connection, limit=1)
        return repr([inspect.active(), inspect.reserved(), inspect.scheduled()])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_log_no_event_and_no_inspection_shows_an_input(deploy: Callable[..., Deployment], pool: Pool) -> None:
    deployment = deploy(lease_s=2.0, models=("served.slow", "served.policies"), max_attempts=1)
    time_limit = ("--time-limit", "5") if pool == "prefork" else ()
    worker = deployment.start_worker(pool, 2, arguments=("-E", "--loglevel", "DEBUG", *time_limit))
    producer = deployment.producer()

    def asked(**more: Any) -> dict[str, Any]:
        return {"value": f"{CANARY}-{len(more)}", "secret": [CANARY, {CANARY: CANARY.encode()}], **more}

    told: list[str] = []
    with overheard(deployment) as events:
        wait_until(lambda: "worker-heartbeat" in "".join(events), "events are heard")
        assert producer.predict("slow", asked(), timeout=20)["value"] == f"{CANARY}-0"
        for request in (asked(exhaust=True), *([asked(die=True, nonce=1), asked(sleep_s=30)] if time_limit else [])):
            with pytest.raises(PredictionFailed) as failed:
                producer.predict("slow", request, timeout=30)
            told.append(repr(failed.value) + repr(failed.value.to_wire()))
        for request in (asked(**{"raise": "no"}), asked(raise_batch="no", nonce=1)):
            with pytest.raises(PredictionFailed) as failed:
                producer.predict("slow", request, timeout=20)
            told.append(repr(failed.value) + repr(failed.value.to_wire()))
        with pytest.raises(InvalidInput) as refused:
            producer.predict("typed", {"width": CANARY, "label": CANARY}, timeout=20)
        told.append(repr(refused.value))
        gate = asked(wait_for=str(deployment.gate("go")))
        pending = producer.submit("slow", gate)
        deployment.wait_for_computations(gate["value"])
        inspection = inspected(deployment)
        assert pending.task_id is not None
        assert pending.task_id in inspection
        with pytest.raises(PredictionTimeout) as late:
            pending.result(timeout=0.01)
        told += [inspection, repr(pending), repr(late.value), repr(producer)]
        deployment.open_gate("go")
        pending.result(timeout=20)
        for raw in (
            envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": CANARY}, digest="0" * 40)], 0)),
            envelope(packed(LAYOUT, "slow@1", 1, 4, [[CANARY]], 0)),
            envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": CANARY})], 0), task="another", argsrepr=CANARY),
            envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": CANARY})], 0), content_type="text/plain"),
            envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": CANARY})], 0), compression="gzip"),
            envelope(packed(LAYOUT, "slow@1", 1, 4, [item({"value": CANARY})], 0), argsrepr=CANARY, shadow=CANARY),
            CANARY.encode(),
            f'{{"body": "{CANARY}"}}'.encode(),
        ):
            push_raw(deployment, raw)
        wait_until(lambda: queued(deployment) == 0, "all is taken")
        key = key_of("slow", "1", canonicalize({"value": "the last"}))
        assert producer.predict("slow", {"value": "the last"}, timeout=20)["value"] == "the last"
        wait_until(lambda: key.digest[:8] in "".join(events), "Flower hears of it, by its short key")
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert CANARY not in "".join(told)
    assert CANARY not in "".join(events)
    for line in worker.log.read_text(errors="replace").splitlines():
        assert CANARY not in line
    assert worker.logged("TaskPool: Apply") == 0, "it would quote a message, as far as a kilobyte goes"
    assert "DEBUG" in worker.log.read_text(errors="replace")
