"""The test kit, as a project uses it: its own folder, its own conftest.py, pytest with warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.acceptance

MODEL: Final = """
from collections.abc import Sequence

from workers import Batching, Model, as_model

COMPUTED = []


class Shout(Model[str, str]):
    name = "shout"
    version = "1"
    batching = Batching(max_batch_size=4)
    examples = ("a", "b")
    suffix = "!"

    def unload(self) -> None:
        print("unloaded")

    def predict(self, batch: Sequence[str]) -> list[str]:
        COMPUTED.extend(batch)
        return [text.upper() + self.suffix for text in batch]


@as_model(version="1", examples=["a"])
def half(text: str) -> str:
    if not text:
        raise ValueError("nothing to halve")
    return text[: len(text) // 2]
"""

APPLICATION: Final = """
from producer import Producer


def greet(name: str) -> str:
    with Producer() as producer:
        return producer.predict("shout", f"hello {name}", timeout=10)
"""

CONFTEST: Final = """
import pytest

pytest_plugins = ["foreseen.testing.plugin"]


@pytest.fixture(scope="session")
def foreseen_models():
    from voices import Shout, half

    return [Shout, half]


@pytest.fixture(scope="session")
def foreseen_settings():
    return {"lease_s": 1.0}
"""

TESTS: Final = """
import gc
import os

import greeting
import pytest
import voices

from foreseen.testing import check_model
from producer import PredictionFailed


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_begins_with_an_empty_cache(foreseen_producer, time):
    voices.COMPUTED.clear()
    sources = []
    for _ in range(2):
        pending = foreseen_producer.submit("shout", "hello")
        assert pending.result(timeout=10) == "HELLO!"
        sources.append(pending.source)
    assert sources == ["computed", "hit"]
    assert voices.COMPUTED == ["hello"]


def test_what_is_patched_here_reaches_the_worker(foreseen_producer, monkeypatch):
    monkeypatch.setattr(voices.Shout, "suffix", "?")
    assert foreseen_producer.predict("shout", "hello", timeout=10) == "HELLO?"


def test_an_applications_own_producer_finds_the_server(foreseen_producer):
    assert greeting.greet("you") == "HELLO YOU!"


def test_failures_are_told(foreseen_producer):
    assert foreseen_producer.predict("half", "hello!", timeout=10) == "hel"
    with pytest.raises(PredictionFailed, match="nothing to halve"):
        foreseen_producer.predict("half", "", timeout=10)


def test_the_garbage_collector_of_this_process_is_left_as_it_is(foreseen_producer):
    assert foreseen_producer.predict("half", "hello!", timeout=10) == "hel"
    assert gc.get_freeze_count() == 0


def test_settings_are_those_given(foreseen_deployment):
    assert foreseen_deployment.settings.lease_s == 1.0
    assert foreseen_deployment.settings.namespace == "foreseen"  # and not that of the caller's environment


@pytest.mark.parametrize("model", [voices.Shout, voices.half])
def test_the_contract(model):
    report = check_model(model, measure=False)
    assert report.passed, report


def test_of_the_environment_nothing_is_lost():
    pass
"""


class Project:
    """A folder with tests, and pytest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> None:
        for name, content in files.items():
            (self.folder / f"{name}.py").write_text(content)

    def test(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run pytest; return its status and what it printed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-q", *arguments],
            cwd=self.folder,
            env={**inherited, "PYTHONPATH": str(self.folder), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        return ended.returncode, ended.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # so that nothing of a folder above counts
    project.write(voices=MODEL, greeting=APPLICATION, conftest=CONFTEST, test_voices=TESTS)
    return project


def test_a_projects_tests_run_against_a_server_and_a_worker_of_their_own(project: Project) -> None:
    """Whatever the developer's shell says, and with warnings as errors: nothing is left open either."""
    foreign = {"FORESEEN_NAMESPACE": "elsewhere", "FORESEEN_BROKER_URL": "redis://127.0.0.1:1/0"}
    status, told = project.test(**foreign)
    assert status == 0, told
    assert "10 passed" in told


def test_without_models_it_is_said_where_to_name_them(project: Project) -> None:
    project.write(conftest='pytest_plugins = ["foreseen.testing.plugin"]\n')
    status, told = project.test("-k", "patched")
    assert status == 1
    assert "say which models are served, in conftest.py" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("conftest", "why"),
    [
        (CONFTEST.replace("[Shout, half]", "['missing_module']"), "no model to serve"),
        (CONFTEST.replace("    from voices import Shout, half", "    import voices").replace(
            "[Shout, half]", "[type('Broken', (voices.Shout,), {'__module__': 'voices', 'name': 'broken', 'load': 1})]"
        ), "no model to serve"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_fails_the_tests_that_need_it(project: Project, conftest: str, why: str) -> None:
    project.write(conftest=conftest)
    status, told = project.test("-k", "patched or contract")
    assert status == 1
    assert re.search(why, told), told
    assert "2 passed, 5 deselected, 1 error" in told or "2 passed" in told


def test_a_model_that_cannot_be_loaded_says_so(project: Project) -> None:
    project.write(voices=MODEL + "\n\ndef broken(self):\n    raise OSError('no weights')\n\n\nShout.load = broken\n")
    status, told = project.test("-k", "patched")
    assert status == 1
    assert "ModelFailed: shout@1 could not be loaded: OSError: no weights" in told


def test_a_run_without_the_fixtures_imports_nothing_of_it(project: Project) -> None:
    project.write(
        conftest='pytest_plugins = ["foreseen.testing.plugin"]\n',
        test_voices="import sys\n\n\ndef test_it():\n"
        "    tops = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert 'foreseen.testing.plugin' in sys.modules\n"
        "    assert not tops & {'kombu', 'celery', 'pydantic', 'producer', 'workers'}\n"
        "    assert {name for name in sys.modules if name.startswith('foreseen')} == {\n"
        "        'foreseen', 'foreseen.testing', 'foreseen.testing.plugin'}\n",
    )
    status, told = project.test("-p", "no:hypothesispytest", "-p", "no:anyio")
    assert status == 0, told


def test_one_deployment_follows_another_in_one_process(project: Project) -> None:
    project.write(
        twice="import os\nfrom foreseen.testing import Deployment\nimport voices\n"
        "before = dict(os.environ)\n"
        "for model in (voices.Shout, voices.half):\n"
        "    with Deployment([model]) as deployment, deployment.producer() as producer:\n"
        "        print(producer.predict(model.name if model is voices.Shout else 'half', 'hello', timeout=10))\n"
        "changed = {name for name, _ in set(os.environ.items()) ^ set(before.items())}\n"
        "assert changed <= {'FLOWER_TASKS_COLUMNS', 'CELERY_LOADER'}, changed\n"
        "import psutil\n"
        "left = psutil.Process().net_connections()\n"
        "assert not left, left\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "twice.py"],
        cwd=project.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["HELLO!", "unloaded", "he"]
    assert "ResourceWarning" not in ended.stderr
