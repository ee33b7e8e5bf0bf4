"""A task of a Celery application whose base is `PredictionTask`: asked with Celery's calls, computed by foreseen."""

# pyright: reportFunctionMemberAccess=false
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from acceptance.harness import Deployment, wait_until
from celery.exceptions import TimeoutError as CeleryTimeoutError

from producer import InvalidInput, ModelFailed, PredictionTimeout, UnknownKey

pytestmark = pytest.mark.acceptance

TASKS = """
import os, time
from pathlib import Path

from celery import Celery
from producer.celery import PredictionTask
from served.record import record
from workers import CachePolicy

app = Celery("bureau", broker="memory://", backend="cache+memory://", set_as_current=False)

@app.task(base=PredictionTask, cache=CachePolicy(expiry_s=60), examples=({"text": "warm"},))
def shout(text: str, *more: str, times: int = 1, **how: str) -> str:
    record("shout", text)
    if text == "fail":
        raise ValueError("no voice")
    while text.startswith("/") and not Path(text).exists():
        time.sleep(0.01)
    return (" ".join([text, *more]).upper() + how.get("mark", "!")) * times

@app.task(base=PredictionTask, model="loud@7", bind=True)
def louder(self, text: str) -> dict:
    return {"name": self.name, "text": text}

@app.task
def plain(text):
    return text
"""


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(models=("bureau",), model_wait_s=10.0, lease_s=10.0)
    (deployment.directory / "bureau.py").write_text(TASKS)
    python_path = f"{deployment.directory}:{deployment.environment['PYTHONPATH']}"
    deployment.start_worker(PYTHONPATH=python_path)
    return deployment


@pytest.fixture
def bureau(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The application's module, in this process, asking this deployment."""
    monkeypatch.syspath_prepend(deployment.directory)
    import bureau  # type: ignore[import-not-found]

    from producer.celery import PredictionTask

    monkeypatch.setattr(PredictionTask, "producer", deployment.producer())
    yield bureau
    del sys.modules["bureau"]


def test_a_call_is_computed_once_and_then_found(deployment: Deployment, bureau: Any) -> None:
    first = bureau.shout.delay("hello", times=2)
    assert first.get(timeout=30) == "HELLO!HELLO!"
    assert (first.ready(), first.successful(), first.failed(), first.state) == (True, True, False, "SUCCESS")
    assert first.id.startswith("bureau.shout@")
    again = bureau.shout.apply_async(kwargs={"times": 2, "text": "hello"})
    assert (again.ready(), again.source, again.id, again.result) == (True, "hit", first.id, "HELLO!HELLO!")
    assert len(deployment.computations("hello")) == 1
    assert bureau.shout.AsyncResult(first.id).get() == "HELLO!HELLO!"
    assert bureau.shout("in place") == "IN PLACE!"


def test_arguments_of_every_kind_arrive(bureau: Any) -> None:
    assert bureau.shout.delay("a", "b", "c", mark="?").get(timeout=30) == "A B C?"
    assert bureau.louder.delay("a").get(timeout=30) == {"name": "bureau.louder", "text": "a"}
    assert bureau.louder.delay("a").id.startswith("loud@7:")


def test_calls_with_equal_arguments_join_while_one_is_computed(deployment: Deployment, bureau: Any) -> None:
    gate = str(deployment.gate("go"))
    first = bureau.shout.delay(gate)
    deployment.wait_for_computations(gate)
    second = bureau.shout.delay(text=gate)
    assert (first.state, second.state, second.source, second.id) == ("PENDING", "PENDING", "coalesced", first.id)
    with pytest.raises(CeleryTimeoutError) as raised:
        first.get(timeout=0.05)
    assert isinstance(raised.value, PredictionTimeout)
    third = bureau.shout.delay(gate)
    third.revoke()
    assert third.state == "REVOKED"
    deployment.open_gate("go")
    assert first.get(timeout=30) == second.get(timeout=30) == f"{gate.upper()}!"
    assert len(deployment.computations(gate)) == 1


def test_a_failure_is_raised_or_returned_as_celery_does(bureau: Any) -> None:
    result = bureau.shout.delay("fail")
    with pytest.raises(ModelFailed, match="ValueError: no voice"):
        result.get(timeout=30)
    assert isinstance(result.get(timeout=30, propagate=False), ModelFailed)
    assert (result.state, result.failed(), type(result.result)) == ("FAILURE", True, ModelFailed)


def test_arguments_that_do_not_fit_are_refused_where_they_are_given(bureau: Any) -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        bureau.shout.delay()
    with pytest.raises(InvalidInput):
        bureau.shout.delay(object())
    with pytest.raises(UnknownKey):
        bureau.shout.AsyncResult("bureau.shout@1:" + 40 * "0")


def test_options_that_have_a_meaning_are_kept(bureau: Any) -> None:
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert bureau.shout.apply_async(("x",), priority=9, expires=30).get(timeout=30) == "X!"
    assert bureau.shout.apply_async(("y",), expires=later, ignore_result=True).get(timeout=30) == "Y!"


def test_the_example(deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    """As its page says: foreseen's worker, the newsroom's own, and who asks both."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "celery_task"
    running = deploy(models=("newsroom",), model_wait_s=10.0)
    servers = {
        "NEWSROOM_BROKER_URL": running.server.url(2),
        "NEWSROOM_RESULTS_URL": running.server.url(3),
        "PYTHONPATH": f"{folder}:{running.environment['PYTHONPATH']}",
    }
    running.start_worker(**servers)
    environment = {**running.environment, **servers}
    log = tmp_path / "newsroom.log"
    with log.open("wb") as output:
        options = ("-A", "newsroom", "worker", "--concurrency", "1", "--without-mingle", "--loglevel", "INFO")
        newsroom = subprocess.Popen(
            [sys.executable, "-m", "celery", *options], cwd=folder, env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    running._tell_keeper(newsroom.pid)
    try:
        wait_until(lambda: b" ready." in log.read_bytes(), "the newsroom is open")
        asked = subprocess.run(
            [sys.executable, "desk.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        newsroom.terminate()
        newsroom.wait()
    shown = (folder / "README.md").read_text().split("```\n[", 1)[1].split("```")[0]
    assert asked.stdout == f"[{shown}", asked.stderr
