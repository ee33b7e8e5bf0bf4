"""Whether a process that the zygote forks is what `python -m …` would have been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from acceptance.harness import DEADLINE_S, Deployment, clean_environment, wait_until
from acceptance.zygote import ForkedProcess, Zygote

pytestmark = pytest.mark.acceptance

#: Tells what a process finds around it, and ends as it is told.
PROBE: Final = """\
import atexit, json, os, signal, sys, threading

facts = {
    "name": __name__,
    "file": __file__,
    "main": sys.modules["__main__"].__file__,
    "argv": sys.argv,
    "path": sys.path,
    "directory": os.getcwd(),
    "environment": dict(os.environ),
    "flags": repr(sys.flags),
    "leads its session": os.getpid() == os.getpgrp() == os.getsid(0),
    "threads": [each.name for each in threading.enumerate()],
    "signals": [repr(signal.getsignal(each)) for each in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "umask": os.umask(0o22),
    "open files": sum(os.path.exists(f"/dev/fd/{each}") for each in range(100)),
    "streams": [[each.encoding, each.errors, each.line_buffering, each.write_through, each.fileno()]
                for each in (sys.stdin, sys.stdout, sys.stderr)],
    "settings read": [name for name in ("foreseen.celery_settings", "workers.celery") if name in sys.modules],
}
atexit.register(print, "goodbye")
print(json.dumps(facts))
print("an error", file=sys.stderr)
exec(sys.stdin.readline())
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(clean_environment() | {"FORESEEN_NAMESPACE": "the zygote's own"}) as zygote:
        yield zygote


class Probed:
    """A probe that runs."""

    def __init__(self, zygote: Zygote | None, folder: Path) -> None:
        (folder / "probe.py").write_text(PROBE)
        self.log = folder / ("forked" if zygote is not None else "anew")
        command = [sys.executable, "-m", "probe", "an argument", "--option"]
        environment = clean_environment() | {"FORESEEN_MODELS": "a,b"}
        self.process: ForkedProcess | subprocess.Popen[str]
        with self.log.open("wb") as log:
            if zygote is not None:
                assert zygote.suits(environment)
                self.process = zygote.start(command, environment, folder, log.fileno())
            else:
                self.process = subprocess.Popen(
                    command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                    start_new_session=True,
                )  # fmt: skip
        wait_until(lambda: "an error\n" in self.said(), "the probe has looked around")

    def said(self) -> str:
        return self.log.read_text()

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.said().splitlines()[0])
        return facts

    def end(self, code: str = "") -> int:
        """Have it run a line of code; return its exit status."""
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(code + "\n")
        return self.process.wait(DEADLINE_S)


def test_it_finds_itself_as_one_that_was_started_anew(zygote: Zygote, tmp_path: Path) -> None:
    forked, anew = Probed(zygote, tmp_path), Probed(None, tmp_path)
    assert forked.end() == anew.end() == 0
    assert forked.facts() == anew.facts()
    assert forked.facts()["settings read"] == []


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("", 0, "goodbye"),
        ("sys.exit(3)", 3, "goodbye"),
        ("sys.exit('why')", 1, "why"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("os._exit(4)", 4, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); signal.raise_signal(signal.SIGTERM)", 5, "goodbye"),
    ],
)
def test_it_ends_as_any_process_does(zygote: Zygote, tmp_path: Path, code: str, status: int, told: str) -> None:
    forked = Probed(zygote, tmp_path)
    assert forked.process.poll() is None
    assert forked.end(code) == forked.process.poll() == status
    assert told in forked.said()
    assert ("goodbye" in forked.said()) == (told == "goodbye" or status == 1)


def test_one_that_runs_is_told_apart_and_is_ended_by_a_signal(zygote: Zygote, tmp_path: Path) -> None:
    forked = Probed(zygote, tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.process.wait(0.05)
    forked.process.terminate()
    assert forked.process.wait(DEADLINE_S) == -signal.SIGTERM
    forked.process.terminate()  # which says nothing to whoever has its id by now
    assert forked.process.stdin is not None
    forked.process.stdin.close()


def test_no_two_draw_the_same(zygote: Zygote, tmp_path: Path) -> None:
    drawn = set()
    for _ in range(2):
        forked = Probed(zygote, tmp_path)
        forked.end("import random, uuid; print('drawn', random.random(), uuid.uuid4())")
        drawn |= set(forked.said().split("drawn ")[1].split()[:2])
    assert len(drawn) == 4


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "CELERY_BROKER_URL", "LD_PRELOAD", "TZ", "HERE", "PYTHONPATH"])
def test_what_may_be_read_before_the_fork_needs_a_process_of_its_own(zygote: Zygote, name: str) -> None:
    environment = clean_environment()
    assert not zygote.suits(environment | {name: "1"})
    assert zygote.suits(environment | {"FORESEEN_NAMESPACE": "1", "PYTHONPATH": f"/models:{environment['PYTHONPATH']}"})


def test_it_ends_with_whoever_started_it() -> None:
    code = (
        "import sys, time; from acceptance.harness import clean_environment; from acceptance.zygote import Zygote\n"
        "zygote = Zygote(clean_environment()).open()\n"
        "print(zygote._process.pid, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        started = psutil.Process(int(owner.stdout.readline()))
        assert started.is_running()
        owner.kill()
    wait_until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE, "the zygote has ended")


def test_a_worker_is_forked_unless_its_deployment_wants_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")  # as another test has done that imported scikit-learn
    assert Deployment.zygote is not None
    parents = []
    for forked in (True, False):
        directory = tmp_path / str(forked)
        directory.mkdir()
        with Deployment(directory, forked=forked) as deployment:
            parents.append(psutil.Process(deployment.start_worker("solo").pid).ppid())
    assert parents == [Deployment.zygote._process.pid, os.getpid()]
