"""What docs/monitoring.md shows is run as it shows it; its tables are checked in tests/unit/test_metrics.py."""

from __future__ import annotations

import doctest
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from acceptance.harness import Deployment
from acceptance.test_docs import ROOT, blocks_of, runs_of

from foreseen.logs import FIELDS
from foreseen.settings import Settings

pytestmark = pytest.mark.acceptance

PAGE = ROOT / "docs" / "monitoring.md"


def test_its_commands_and_its_script_do_what_they_show(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(models=("workers.models.file_type",))
    deployment.start_worker("threads", 1)
    blocks = blocks_of(PAGE)
    commands = [run for run in runs_of([each for each in blocks if each.kind == "console"]) if run.expected]
    scripts = [each.text for each in blocks if each.kind == "python"]
    assert len(commands) == len(scripts) == 1
    for run in commands:
        program, *arguments = shlex.split(run.command)
        assert program == "foreseen"
        printed = ask(deployment, "-m", "foreseen.cli", *arguments)
        assert run.expected is not None
        assert doctest.OutputChecker().check_output(run.expected, printed, doctest.ELLIPSIS), printed
    for script in scripts:
        ask(deployment, "-c", script)


def ask(deployment: Deployment, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=deployment.environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_names_settings_and_fields_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("events_share", "tracing", "log_format"):
        assert f"FORESEEN_{name.upper()}" in page
        assert name in Settings.model_fields
    assert [name for name in FIELDS if f"| `{name}` |" not in page] == []
