"""Which digit is this? A network of PyTorch's, asked with arrays of 64 pixels."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from workers import ArrayOf, Batching, CachePolicy
from workers.adapters.torch import TorchModel

Pixels: TypeAlias = Annotated[NDArray[np.float64], ArrayOf("float64", (64,))]  # what does not fit never gets here


class Digit(BaseModel):
    """A digit, and how sure the network is, from 0 to 1."""

    digit: int
    score: float


class Network(TorchModel[Pixels, Digit]):
    """Tells the digit of 64 pixels, each from 0 to 16."""

    name = "network"
    model_file = "network.pt2"
    cache = CachePolicy(audit_tolerance=1e-6)  # single precision: sums differ in their last digits
    batching = Batching(max_batch_size=64)
    examples = (np.zeros(64), np.arange(64.0) % 16)

    def decode(self, results: NDArray[Any], batch: Sequence[Pixels]) -> list[Digit | Exception]:
        """Return the likeliest digit of each."""
        del batch
        return [Digit(digit=int(row.argmax()), score=float(row.max())) for row in results]
