"""What the adapters' tests share: the examples, trained once, and MLServer, running for real."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from workers.model import Model

# Test folders are no packages; what tests share is found by its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples" / "adapters"
MLSERVER: Final = Path(sys.prefix) / "mlserver" / "bin" / "mlserver"
MISSING: Final = "the adapters' frameworks are not installed: make frameworks"
_TRAINING: Final = ("sklearn/train_forest.py", "torch/train_network.py", "transformers/make_mood.py")
#: Beyond what anything waited for here takes on a busy machine.
_DEADLINE_S: Final = 100.0


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a copy of the examples whose models are trained, as their pages say; its modules can be imported."""
    if find_spec("skops") is None or find_spec("transformers") is None:
        pytest.skip(MISSING)
    copy = tmp_path_factory.mktemp("examples") / "adapters"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", "*.skops", "*.pt2", "mood"))
    running = {
        name: subprocess.Popen(
            [sys.executable, Path(name).name],
            cwd=copy / Path(name).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads that wait for each other on two busy cores are slow
            text=True,
        )
        for name in _TRAINING
    }
    for name, process in running.items():
        told, _ = process.communicate(timeout=_DEADLINE_S)
        assert process.returncode == 0, f"{name}\n{told}"
    folders = [str(folder) for folder in copy.iterdir() if folder.is_dir()]
    sys.path[:0] = folders
    yield copy
    sys.path[:] = [each for each in sys.path if each not in folders]


@pytest.fixture
def loaded() -> Iterator[Callable[[type[Model[Any, Any]]], Any]]:
    """Return what makes a model and loads it; unloads them in the end."""
    with contextlib.ExitStack() as stack:

        def load(cls: type[Model[Any, Any]]) -> Any:
            model = cls()
            model.load()
            stack.callback(model.unload)
            return model

        yield load


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class MLServer:
    """MLServer with a folder of models, as somebody who serves them runs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        http, grpc, metrics = free_ports(3)
        self.url = f"http://127.0.0.1:{http}"
        settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
        (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", **settings}))

    def start(self, ready: str) -> None:
        """Start it; returns once a model is ready."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with (self._folder / "mlserver.log").open("wb") as log:
            self._process = subprocess.Popen(
                [MLSERVER, "start", "."],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                env={**inherited, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        deadline = time.monotonic() + _DEADLINE_S
        while not self._is_ready(ready):
            told = (self._folder / "mlserver.log").read_text(errors="replace")
            assert self._process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _is_ready(self, model: str) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/models/{model}/ready", timeout=1).is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="session")
def mlserver(examples: Path) -> Iterator[MLServer]:
    """Return MLServer, which serves the example's model, and one that goes wrong as it is told."""
    if not MLSERVER.exists():
        pytest.skip(MISSING)
    folder = examples / "open_inference"
    (folder / "trouble").mkdir()
    (folder / "trouble" / "trouble_server.py").write_text(TROUBLE)
    trouble = {"name": "trouble", "implementation": "trouble_server.Trouble"}
    (folder / "trouble" / "model-settings.json").write_text(json.dumps(trouble))
    server = MLServer(folder)
    try:
        server.start("digits")
        yield server
    finally:
        server.stop()


#: Doubles numbers; 503, 400 and slowness by number.
TROUBLE: Final = """
import asyncio
from http import HTTPStatus

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceResponse


class Trouble(MLModel):
    async def load(self):
        self.requests = 0
        return True

    async def predict(self, payload):
        self.requests += 1
        by_name = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        number = by_name["number"]
        if (number == 503).any():
            raise MLServerError("out for lunch", status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        if (number == 400).any():
            raise InferenceError("no such number")
        if (number == 10).any():
            await asyncio.sleep(10)
        outputs = [
            NumpyCodec.encode_output("doubled", number * 2),
            NumpyCodec.encode_output("requests", number * 0 + self.requests),
        ]
        asked = [each.name for each in payload.outputs or []]
        chosen = [each for each in outputs if not asked or each.name in asked]
        return InferenceResponse(model_name=self.name, outputs=chosen)
"""
