"""Models of PyTorch, as `torch.export` or TorchScript wrote them: `pip install 'foreseen[torch]'`.

class Digit(TorchModel[np.ndarray, Label]):
    name = "digit"
    model_file = "digit.pt2"                   # torch.export.save(torch.export.export(network, ...), "digit.pt2")

    def decode(self, results, batch):
        return [Label(digit=int(row.argmax())) for row in results]
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

from foreseen.errors import Misconfigured
from workers.adapters.adapter import Adapter
from workers.adapters.framework import framework

__all__ = ["TorchModel"]

In = TypeVar("In")
Out = TypeVar("Out")

_EXPORTED: Final = ".pt2"  # the suffix on which torch.export.save insists


class TorchModel(Adapter[In, Out]):
    """A model whose `model_file` is an exported program (`.pt2`) or a TorchScript module (any other name).

    An array is given as a tensor, the network's first argument; several by name as its keyword arguments. What comes
    out, a tensor or several in a list, a tuple or a dict, is given to `decode` as arrays.

    The file can run code, as any of PyTorch's can: serve only your own.

    Attributes:
        device: that it is computed on, such as "cuda" or "cuda:1".
        threads: that one call computes with on a CPU, in the whole process; 1 where a pool has a process or a thread
            for each core already.
    """

    device: ClassVar[str] = "cpu"
    floats = "float32"
    threads: ClassVar[int] = 1

    def load(self) -> None:
        """Load the network onto its device: in the process that computes, since CUDA does not survive a fork."""
        self._torch = torch = framework("torch", "torch")
        torch.set_num_threads(self.threads)
        path = self.model_path()
        if not path.is_file():
            raise Misconfigured(f"{self.model_id()}: its model_file {path} is not there")
        if path.suffix == _EXPORTED:
            program = framework("torch.export", "torch").load(path)
            if self.device != "cpu":
                program = framework("torch.export.passes", "torch").move_to_device_pass(program, self.device)
            self._network = program.module()
        else:
            with warnings.catch_warnings():  # PyTorch would have everybody export, which not every network can
                warnings.simplefilter("ignore", DeprecationWarning)
                self._network = torch.jit.load(path, map_location=self.device).eval()

    def run(self, encoded: Any) -> Any:
        """Compute arrays."""
        torch = self._torch
        with torch.inference_mode():
            if isinstance(encoded, Mapping):
                given = {name: torch.from_numpy(array).to(self.device) for name, array in encoded.items()}
                return self._arrays(self._network(**given))
            return self._arrays(self._network(torch.from_numpy(encoded).to(self.device)))

    def _arrays(self, results: Any) -> Any:
        if isinstance(results, Mapping):
            return {name: self._arrays(each) for name, each in results.items()}
        if isinstance(results, (list, tuple)):
            return [self._arrays(each) for each in results]
        plain = results.float() if results.dtype == self._torch.bfloat16 else results  # which numpy has not
        return plain.cpu().numpy()
