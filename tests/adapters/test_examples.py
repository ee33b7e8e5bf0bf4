"""The adapters' examples do what their pages say: models trained, served by a real worker, asked by a script."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from acceptance.harness import DEADLINE_S, Deployment, Pool
from adapters.conftest import MLServer

from foreseen.testing import Verdict, check_model

pytestmark = pytest.mark.acceptance

ASKED: Final = {
    "onnx": "ask_magika.py",
    "sklearn": "ask_forest.py",
    "torch": "ask_network.py",
    "transformers": "ask_mood.py",
    "open_inference": "ask_remote_digit.py",
}


@pytest.fixture(scope="module", params=["prefork", "spawn", "threads"])
def served(
    request: pytest.FixtureRequest, examples: Path, mlserver: MLServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Path]]:
    """Serve all in one worker: in a process that is forked, or on threads; and two in a process started anew."""
    pool: Pool = "threads" if request.param == "threads" else "prefork"
    size = 4 if pool == "threads" else 1
    arguments = ("--pool-start-method", "spawn") if request.param == "spawn" else ()
    models = ("magika_onnx", "network", *(("forest", "mood", "remote_digit") if request.param != "spawn" else ()))
    with Deployment(tmp_path_factory.mktemp(request.param), models=models) as deployment:
        folders = [str(examples / folder) for folder in ASKED]
        path = os.pathsep.join([*folders, deployment.environment["PYTHONPATH"]])
        environment = {"PYTHONPATH": path, "DIGITS_URL": mlserver.url, "OMP_NUM_THREADS": "1"}
        deployment.start_worker(pool, size, arguments=arguments, **environment)
        yield deployment, examples


def ask(deployment: Deployment, folder: Path) -> list[str]:
    """Run an example's script where it lies; return the lines that it printed."""
    ended = subprocess.run(
        [sys.executable, ASKED[folder.name]],
        cwd=folder,
        env={**deployment.environment, "FORESEEN_MODEL_WAIT_S": "60"},  # frameworks take a while to load
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    return ended.stdout.splitlines()


@pytest.mark.timeout(240)
def test_every_example_answers_and_answers_again_from_the_cache(
    served: tuple[Deployment, Path], request: pytest.FixtureRequest
) -> None:
    deployment, examples = served
    computed, hits = ask(deployment, examples / "torch")
    assert re.fullmatch(r"9\d\.\d% right of 1797; 1797 computed", computed)
    assert hits == computed.replace("computed", "hit")

    told = ask(deployment, examples / "onnx")
    assert told[:3] == ["README.md: markdown (computed)", "ask_magika.py: python (computed)",
                        "magika_onnx.py: python (computed)"]  # fmt: skip
    assert told[3:] == [line.replace("computed", "hit") for line in told[:3]]
    if "spawn" in request.node.name:
        return  # what is left starts no threads and holds no device that a fork could break

    computed, hits = ask(deployment, examples / "sklearn")
    assert re.fullmatch(r"9\d\.\d% right of 1797; \d+ computed(, \d+ coalesced)?", computed)
    assert hits == re.sub(";.*", "; 1797 hit", computed)

    computed, hits = ask(deployment, examples / "transformers")
    assert computed == "good (computed), bad (computed), bad (computed), good (computed)"
    assert hits == computed.replace("computed", "hit")

    computed, hits = ask(deployment, examples / "open_inference")
    assert re.fullmatch(r"9\d\.\d% right of 898; 898 computed", computed)
    assert hits == computed.replace("computed", "hit")


@pytest.mark.parametrize("name", ["forest.Forest", "network.Network", "mood.MoodOfText", "magika_onnx.MagikaOnnx"])
def test_the_examples_keep_the_contract(examples: Path, name: str) -> None:
    del examples
    module, _, model = name.partition(".")
    report = check_model(getattr(importlib.import_module(module), model), measure=False)
    assert report.passed, report
    assert not [one for one in report.checks if one.verdict is Verdict.UNTRIED], report


def test_foreseen_check_finds_that_magikas_network_is_another_in_company(tmp_path: Path, examples: Path) -> None:
    """What the page of its example shows."""
    file = tmp_path / "in_company.py"
    source = (examples / "onnx" / "magika_onnx.py").read_text()
    file.write_text(source.replace("runs_batches = False", "runs_batches = True"))
    foreseen = Path(sys.executable).parent / "foreseen"
    ended = subprocess.run([foreseen, "check", file], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "✗  batch equals single  each input alone gave outputs" in ended.stdout


def test_each_page_shows_what_is_there(examples: Path) -> None:
    """Every command of the pages names files of its folder."""
    for folder, script in ASKED.items():
        page = (examples / folder / "README.md").read_text()
        assert f"python {script}" in page
        for command in re.findall(r"^\$ (.*)", page, re.MULTILINE):
            for word in command.split("  #")[0].split():
                if word.endswith(".py"):
                    assert (examples / folder / word).exists(), command
