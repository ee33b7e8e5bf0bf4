"""docs/deploy.md is followed: its servers' configuration, unit and environment start a deployment that is well."""

from __future__ import annotations

import configparser
import doctest
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from acceptance.harness import DEADLINE_S, Worker, wait_until
from acceptance.test_docs import ROOT, blocks_of, runs_of

from foreseen.embedded import EmbeddedServer

pytestmark = pytest.mark.acceptance

PAGE: Final = ROOT / "docs" / "deploy.md"
BIN: Final = Path(sys.executable).parent
#: What needs a host of one's own with systemd; what it starts is started here.
BY_SYSTEMD: Final = "systemctl "


def block(name: str) -> str:
    """Return the page's block of that name."""
    (found,) = [each.text for each in blocks_of(PAGE) if each.name == name]
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment] - names are told by their case
    parser.read_string(block("foreseen-worker@.service"))
    return parser


class Host:
    """A host that is set up as the page says, as far as one can without being root."""

    def __init__(self, folder: Path, broker: EmbeddedServer, cache: EmbeddedServer) -> None:
        self.folder = folder
        (folder / "models").mkdir()
        (model,) = [each.text for each in blocks_of(ROOT / "README.md") if each.file == "shout.py"]
        (folder / "models" / "shout.py").write_text(model)
        told = block("worker.env")
        for shown, here in {
            "redis://127.0.0.1:6379/0": broker.url(0),
            "redis://127.0.0.1:6380/0": cache.url(0),
            "/srv/foreseen/models/": str(folder / "models"),
        }.items():
            assert shown in told
            told = told.replace(shown, here)
        self.environment = {
            **dict(line.split("=", 1) for line in told.splitlines()),
            "PATH": os.pathsep.join([str(BIN), "/usr/bin", "/bin"]),
            "HOSTNAME": socket.gethostname(),
            "COLUMNS": "120",
            "PYTHONWARNINGS": "ignore",  # such as Celery's on running as root
        }

    def start(self, instance: str) -> Worker:
        """Do what systemd does for an instance of the unit."""
        command = unit()["Service"]["ExecStart"].replace("%i", instance).replace("%H", socket.gethostname())
        program, *arguments = shlex.split(command)
        assert program == "/srv/foreseen/venv/bin/celery"
        worker = Worker(instance, [str(BIN / "celery"), *arguments], self.environment, self.folder)
        return worker.wait_ready()

    def run(self, command: str) -> str:
        """Run a command in a shell, which has to succeed; return what it printed."""
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout


def server(name: str) -> EmbeddedServer:
    """Return a server with the page's configuration, on a port of its own."""
    lines = (line.split(maxsplit=1) for line in block(name).splitlines())
    return EmbeddedServer(config={key: value.strip('"') for key, value in lines if key != "port"})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with server("broker") as broker, server("cache") as cache:
        yield Host(tmp_path, broker, cache)


@pytest.mark.timeout(240)
def test_what_it_says_is_well_and_scales(host: Host) -> None:
    with ExitStack() as stack:
        one = host.start("one")
        stack.callback(one.kill)
        wait_until(lambda: '"served": true' in host.run("foreseen models --json"), "the model is served")
        runs = [each for each in runs_of(blocks_of(PAGE)) if not each.command.startswith(BY_SYSTEMD)]
        assert len(runs) == 4
        for run in runs:
            printed = host.run(run.command)
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(run.expected or "", printed, flags), f"{run.command}\n{printed}"

        two = host.start("two")
        stack.callback(two.kill)
        assert "2 nodes online." in host.run("celery -A workers inspect ping --timeout 5")
        one.terminate()  # KillMode=mixed: the parent alone
        assert one.wait(float(unit()["Service"]["TimeoutStopSec"])) == 0
        assert host.run("foreseen predict shout 'another one'") == '"ANOTHER ONE!"\n'


def test_a_worker_that_is_not_there_ends_the_health_check_with_69(host: Host) -> None:
    (check,) = [each.command for each in runs_of(blocks_of(PAGE)) if "inspect ping" in each.command]
    done = subprocess.run(
        ["/bin/sh", "-c", check], env=host.environment, cwd=host.folder, check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 69, done.stderr
    assert "exit status is 69" in PAGE.read_text(encoding="utf-8")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    text = block("foreseen-worker@.service").replace("/srv/foreseen/venv/bin/celery", str(BIN / "celery"))
    path = tmp_path / "foreseen-worker@one.service"
    path.write_text(text.replace("User=foreseen", "User=root"))  # the one user that there is everywhere
    done = subprocess.run([analyze, "verify", "--man=no", str(path)], check=False, capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "foreseen-worker" in line] == []  # other units may be there


def test_a_worker_has_time_to_finish_before_its_messages_are_delivered_again() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed"
    assert 30 < int(service["TimeoutStopSec"]) < 600
