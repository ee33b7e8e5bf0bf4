"""Pipelines of Hugging Face's Transformers, from a folder: `pip install 'foreseen[transformers]'`.

class Mood(PipelineModel[str, Label]):
    name = "mood"
    task = "text-classification"
    model_file = "mood"                        # pipeline.save_pretrained("mood")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from foreseen.errors import Misconfigured
from workers.adapters.adapter import Adapter
from workers.adapters.framework import framework

__all__ = ["PipelineModel"]

In = TypeVar("In")
Out = TypeVar("Out")


class PipelineModel(Adapter[In, Out]):
    """A model whose `model_file` is a folder that `save_pretrained` made: weights, tokenizer, configuration.

    Inputs are what the pipeline takes, such as texts; an output is what it gives for one, such as a dict with label and
    score. Nothing is fetched from a hub, weights are read from safetensors alone, and no code of the folder's runs.

    Attributes:
        task: Transformers' name for it.
        options: of each call, such as `{"top_k": None}`.
        device: that it is computed on, such as "cuda:0".
        threads: that one call computes with on a CPU, in the whole process.
    """

    task: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    device: ClassVar[str] = "cpu"
    threads: ClassVar[int] = 1

    def load(self) -> None:
        """Build the pipeline: in the process that computes, since CUDA does not survive a fork."""
        transformers = framework("transformers", "transformers")
        framework("torch", "transformers").set_num_threads(self.threads)
        transformers.utils.logging.disable_progress_bar()  # of reading weights: a worker's log is no terminal
        path = self.model_path()
        if not path.is_dir():
            raise Misconfigured(f"{self.model_id()}: its model_file {path} is no folder that save_pretrained made")
        self._pipeline = transformers.pipeline(
            self.task,
            model=str(path),
            device=self.device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )

    def encode(self, batch: Sequence[In]) -> Any:
        """Return a list of what the pipeline takes: the inputs as they are."""
        return [*batch]

    def run(self, encoded: Any) -> Any:
        """Compute a list in one pass of the network."""
        return self._pipeline(encoded, batch_size=len(encoded), **self.options)

    def decode(self, results: Any, batch: Sequence[In]) -> Sequence[Out | Exception]:
        """Return what the pipeline gave for each."""
        del batch
        return [*results]
