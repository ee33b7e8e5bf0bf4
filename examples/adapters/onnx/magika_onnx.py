"""What kind of file is this? Magika's network, from its own ONNX file, without Magika's own code."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from workers import Batching
from workers.adapters.onnx import OnnxModel

#: Beside the code of the installed package, which is not imported.
NETWORK = Path(str(distribution("magika").locate_file("magika/models/standard_v3_3")))
BEGIN, END, BLOCK, PADDING = 1024, 1024, 4096, 256


class FileKind(BaseModel):
    """The network's name for a type of file, and how sure it is."""

    label: str
    score: float


class MagikaOnnx(OnnxModel[bytes, FileKind]):
    """Tells a file's type from its first and last bytes."""

    name = "magika-onnx"
    model_file = NETWORK / "model.onnx"
    files = (NETWORK / "config.min.json",)
    # `foreseen check` finds that this network, whose weights are quantized as it runs, gives other scores in company.
    runs_batches = False
    batching = Batching(max_batch_size=16, max_wait_s=0)
    examples = (b"#!/bin/sh\necho hello\n", b"<!DOCTYPE html><title>hello</title>" * 3)

    def load(self) -> None:
        """Open the graph, and read what its outputs mean."""
        super().load()
        self._labels = json.loads((NETWORK / "config.min.json").read_text())["target_labels_space"]

    def encode(self, batch: Sequence[bytes]) -> Any:
        """Return the first and last kilobyte of each file, without white space at the ends, as Magika does it."""
        return np.array([self._features(content) for content in batch], np.int32)

    def decode(self, results: Mapping[str, Any], batch: Sequence[bytes]) -> list[FileKind | Exception]:
        """Return the likeliest type of each."""
        del batch
        return [FileKind(label=self._labels[row.argmax()], score=float(row.max())) for row in results["target_label"]]

    @staticmethod
    def _features(content: bytes) -> list[int]:
        begin = [*content[:BLOCK].lstrip()[:BEGIN]]
        end = [*content[-BLOCK:].rstrip()[-END:]]
        return begin + [PADDING] * (BEGIN - len(begin)) + [PADDING] * (END - len(end)) + end
