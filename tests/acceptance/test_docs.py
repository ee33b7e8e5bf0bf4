"""What README and docs show is run as they show it, from an empty folder, with the wheel that users get."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from acceptance.harness import wait_until

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
#: Commands that a page shows and that are not run here: installing, which other tests do, and what never ends.
NOT_RUN = ("pip install ", "make ", "celery ", "FORESEEN_MODELS=", "docker ")
_FENCE = re.compile(
    r"(?:[Ss]ave as `(?P<file>[\w./]+)`:\n\n)?^```(?P<kind>\w*)(?: (?P<name>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `file` is where it is to be saved, `name` what stands behind its kind."""

    kind: str
    text: str
    file: str | None
    name: str | None = None


@dataclass(frozen=True)
class Run:
    """A command or a script, and the output that the page shows for it; None shows none."""

    command: str
    expected: str | None


def blocks_of(page: Path) -> list[Block]:
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["text"], match["file"], match["name"]) for match in found]


def runs_of(blocks: list[Block]) -> list[Run]:
    """Return what is to be run, in the page's order; a script's output is the plain block after it."""
    runs: list[Run] = []
    for number, block in enumerate(blocks):
        if block.kind == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, expected = part.partition("\n")
                runs.append(Run(command.partition("  #")[0].strip(), expected or None))
        elif block.kind == "python" and block.file is None:
            after = blocks[number + 1]
            assert after.kind == "", "a script without a file name is followed by its output"
            runs.append(Run(f"python script{number}.py", after.text))
    return runs


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of an environment with the wheel of this tree in it, and what it needs from this environment."""
    made = tmp_path_factory.mktemp("installed")
    wheel = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(ROOT)]
    subprocess.run(wheel, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made / "env")], check=True)
    python = made / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*pip, "--quiet", *map(str, made.glob("*.whl"))], check=True)
    (site,) = (made / "env" / "lib").glob("python*/site-packages")
    (site / "what_it_needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-c", "import producer; print(producer.__file__)"], check=True, capture_output=True, cwd=made
    )
    assert str(site) in where.stdout.decode(), "the wheel's, not the repository's"
    return python.parent


class Reader:
    """Somebody who follows a page in an empty folder."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"redis://127.0.0.1:{free.getsockname()[1]}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "CELERY_"))}
        self._environment = inherited | {
            "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}",
            "FORESEEN_BROKER_URL": f"{url}/0",
            "FORESEEN_CACHE_URL": f"{url}/1",
            "COLUMNS": "120",
            "PYTHONWARNINGS": "ignore",  # such as Celery's on running as root
        }
        self._up: subprocess.Popen[bytes] | None = None

    def follow(self, page: Path) -> list[str]:
        """Do what a page says; return the commands that were run."""
        blocks = blocks_of(page)
        for block in blocks:
            if block.file is not None:
                (self._folder / block.file).write_text(block.text)
        for number, block in enumerate(blocks):
            if block.kind == "python" and block.file is None:
                (self._folder / f"script{number}.py").write_text(block.text)
        runs = [run for run in runs_of(blocks) if not run.command.startswith(NOT_RUN)]
        if sum(run.command.startswith("foreseen up") for run in runs) == 1:
            runs.sort(key=lambda run: not run.command.startswith("foreseen up"))  # the first terminal comes first
        for run in runs:
            if run.command.startswith("foreseen up"):
                self._start(run.command)
            else:
                self._run(run)
        used = " ".join(run.command for run in runs)
        for block in blocks:
            if block.file is not None and block.file.endswith(".py") and block.file not in used:
                self._import(block.file.removesuffix(".py"))
        return [run.command for run in runs]

    def _start(self, command: str) -> None:
        self.close()  # a second one: the reader has ended the first
        log = self._folder / "up.log"
        with log.open("wb") as output:
            self._up = subprocess.Popen(
                [*shlex.split(command), "--no-flower"],  # whose port is one for the whole machine
                cwd=self._folder, env=self._environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        up = self._up
        wait_until(lambda: "foreseen is up" in log.read_text() or up.poll() is not None, "foreseen is up", 60)
        assert up.poll() is None, log.read_text()

    def _import(self, module: str) -> None:
        """Import what the page has the reader save and does not use."""
        command = ["python", "-c", f"import {module}"]
        done = subprocess.run(
            command, check=False, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{module}.py\n{done.stderr}"

    def _run(self, run: Run) -> None:
        done = subprocess.run(
            shlex.split(run.command),
            check=False,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"$ {run.command}\n{done.stdout}{done.stderr}"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        shown = run.expected or ""
        if not doctest.OutputChecker().check_output(shown, done.stdout, flags):
            pytest.fail(f"$ {run.command}\nthe page shows:\n{shown}\nand it prints:\n{done.stdout}{done.stderr}")

    def close(self) -> None:
        if self._up is not None:
            self._up.send_signal(signal.SIGINT)
            self._up.wait(60)
            self._up = None


@pytest.fixture
def reader(tmp_path: Path, installed: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, installed)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("README.md", 3),
        ("docs/quickstart.md", 7),
        ("docs/your-model.md", 8),
        ("docs/preprocessing.md", 2),
        ("docs/ensembles.md", 2),
        ("docs/tags.md", 3),
        ("docs/invalidating.md", 6),
        ("docs/scaling.md", 1),
        ("docs/adapters.md", 0),
    ],
    ids=str,
)
@pytest.mark.timeout(300)
def test_a_page_does_what_it_shows(reader: Reader, name: str, least: int) -> None:
    if "import skops" in (ROOT / name).read_text() and find_spec("skops") is None:
        pytest.skip("the page trains a model with scikit-learn: make frameworks")
    commands = reader.follow(ROOT / name)
    assert len(commands) >= least, commands


def test_the_way_of_a_user_is_short() -> None:
    """A model, and a prediction from a second terminal, in under twenty lines."""
    blocks = blocks_of(ROOT / "README.md")
    (model,) = (block.text for block in blocks if block.file == "shout.py")
    lines = [line for line in model.splitlines() if line.strip()]
    commands = [run.command for run in runs_of(blocks) if run.command.startswith(("foreseen up", "foreseen predict"))]
    assert len(commands) == 2
    assert len(lines) + len(commands) < 20


def test_the_way_of_a_trained_model_is_short() -> None:
    """From training to a prediction, in under twenty lines."""
    blocks = blocks_of(ROOT / "docs" / "your-model.md")
    written = [block.text for block in blocks if block.file in {"train.py", "iris.py"}]
    lines = [line for text in written for line in text.splitlines() if line.strip()]
    commands = [run.command for run in runs_of(blocks)[:5]]
    assert commands[-1].startswith("foreseen predict")
    assert len(lines) + len(commands) < 20
