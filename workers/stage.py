"""A stage: what several models do to their inputs before they compute, done once for all of them.

class Pixels(Stage[bytes, NDArray[np.float32]]):
    name = "pixels"
    version = "1"

    def prepare(self, batch: Sequence[bytes]) -> list[NDArray[np.float32]]:
        return [decode(image) for image in batch]

class Digit(Model[NDArray[np.float32], int]):
    name = "digit"
    preprocess = Pixels     # producers send bytes; predict gets what Pixels made of them
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from foreseen.errors import Misconfigured
from workers.model import STAGE_PREFIX, Model

__all__ = ["Stage"]

In = TypeVar("In")
Features = TypeVar("Features")


class Stage(Model[In, Features]):
    """Turns inputs into features, kept under the stage, its version and the input: for every model that is over it.

    It is a model in all else: named `stage.<name>`, with policies, statistics and a queue of its own, and can be asked
    by that name. Its features are computed where the model over it is, in one batch, unless it is `apart`.

    Attributes:
        apart: computed by workers of its own, from its queue; a model over it holds no slot while it waits for that.
        timeout_s: how long a model waits for what is computed apart.
    """

    is_stage: ClassVar[bool] = True
    apart: ClassVar[bool] = False
    timeout_s: ClassVar[float] = 60.0

    @abstractmethod
    def prepare(self, batch: Sequence[In]) -> Sequence[Features | Exception]:
        """Compute the features of a batch; what holds for `Model.predict` holds here."""

    def predict(self, batch: Sequence[In]) -> Sequence[Features | Exception]:
        """Compute the features of a batch."""
        return self.prepare(batch)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if isinstance(name := cls.__dict__.get("name"), str):
            cls.name = STAGE_PREFIX + name
        super().__init_subclass__(**kwargs)
        if cls.preprocess is not None:
            raise Misconfigured(f"class {cls.__qualname__}: a stage has no preprocess; it prepares all by itself")
        if cls.apart and cls.cache.expiry_s == 0:
            raise Misconfigured(
                f"class {cls.__qualname__}: what is computed apart reaches models through the cache: give it an "
                "expiry_s above 0, or apart = False"
            )
