"""`make adapters`: the adapters' examples, trained, checked and measured by batch size; a minute or two."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.adapters.page import RECORD, renew, table
from benchmarks.adapters.record import Measured, Record
from benchmarks.page import DOCS

__all__: list[str] = []

_EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "adapters"
_TRAINING: Final = ("sklearn/train_forest.py", "torch/train_network.py", "transformers/make_mood.py")
#: Adapter, the example's file, and inputs.
_MODELS: Final = (
    ("ONNX Runtime", "onnx/magika_onnx.py", ()),
    ("scikit-learn", "sklearn/forest.py", ()),
    ("PyTorch", "torch/network.py", ()),
    ("Transformers", "transformers/mood.py", ()),
    # Which has no examples of its own: with them, a worker could not start before the server.
    ("Open Inference Protocol", "open_inference/remote_digit.py", (str([0.0] * 64), str([*map(float, range(64))]))),
)
_MLSERVER: Final = Path(sys.prefix) / "mlserver" / "bin" / "mlserver"
_READY_S: Final = 60.0


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--docs", action="store_true", help="renew docs/adapters.md, its JSON and its picture")
    options = parser.parse_args()
    if not _MLSERVER.exists():
        sys.exit("the adapters' frameworks are not installed: make frameworks")
    record = Record()
    with tempfile.TemporaryDirectory(prefix="foreseen-adapters-") as copy:
        folder = Path(copy) / "adapters"
        shutil.copytree(_EXAMPLES, folder)
        for script in _TRAINING:
            _tell(f"python {script}")
            subprocess.run([sys.executable, Path(script).name], cwd=(folder / script).parent, check=True)
        with _mlserver(folder / "open_inference") as url:
            for adapter, file, inputs in _MODELS:
                _tell(f"foreseen check {file}")
                record.models.append(_measured(adapter, folder / file, inputs, url))
    print(table(record))
    if options.docs:
        record.write(DOCS / RECORD)
        renew(record, DOCS)
    return 0


def _measured(adapter: str, file: Path, inputs: Sequence[str], url: str) -> Measured:
    """Check and measure a model in a process of its own, so that no framework is in another's way."""
    foreseen = Path(sys.executable).parent / "foreseen"
    ended = subprocess.run(
        [foreseen, "check", file, "--json", *(word for each in inputs for word in ("--input", each))],
        env={**os.environ, "DIGITS_URL": url},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    (told,) = json.loads(ended.stdout)
    seen = {one["name"]: one["seen"] for one in told["checks"]}
    costs = [(cost["batch_size"], cost["item_s"]) for cost in told["costs"]]
    return Measured(adapter, file.name, seen["batch equals single"], told["suggested_batch_size"], costs)


@contextmanager
def _mlserver(folder: Path) -> Generator[str]:
    """Run MLServer on the example's folder; yields its URL."""
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    url = f"http://{settings['host']}:{settings['http_port']}"
    with (folder / "mlserver.log").open("wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([_MLSERVER, "start", "."], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _READY_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit((folder / "mlserver.log").read_text())
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/digits/ready").is_success
    except httpx.TransportError:
        return False


def _tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(_main())
