"""A model by its name, with an output type: what `Producer.model` and `AsyncProducer.model` return."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from foreseen.errors import InvalidOutput
from foreseen.tags import Tags, with_tags

if TYPE_CHECKING:
    from producer.aio import AsyncProducer
    from producer.async_pending import AsyncPendingPrediction
    from producer.pending import PendingPrediction
    from producer.sync import Producer

__all__ = ["AsyncModelHandle", "ModelHandle", "converter"]

T = TypeVar("T")


class Options(TypedDict, total=False):
    """What `submit` takes beside the input."""

    priority: int
    deadline_s: float | None
    expiry_s: float | None
    refresh: bool
    tags: Tags


class WaitOptions(Options, total=False):
    """What `predict` takes."""

    timeout: float | None


class MapOptions(WaitOptions, total=False):
    """What `map` takes."""

    in_flight: int
    progress: Callable[[int], object] | None


def converter(model: str, output: type[T]) -> Callable[[Any], T]:
    """Return what makes an output as it travels an instance of `output`.

    What it returns raises `InvalidOutput` for one that does not fit.
    """
    from foreseen.value_type import DoesNotFit, ValueType  # with pydantic's types, which only who names one needs

    value_type = ValueType(output)

    def convert(value: Any) -> T:
        try:
            fitting: T = value_type.validate(value)
        except DoesNotFit as error:
            name = getattr(output, "__name__", str(output))
            raise InvalidOutput(
                f"The output of {model} does not fit {name}: {error}", {"errors": error.errors}
            ) from None
        return fitting

    return convert


class ModelHandle(Generic[T]):
    """A model whose outputs come as instances of one type.

    Every method is the producer's of that name, and takes the same options. Outputs are validated as they are handed
    out: one that does not fit raises `InvalidOutput`, and stays in the cache as it is.

    Args:
        producer: asks.
        name: `name` or `name@version`.
        output: a pydantic model, a dataclass, a `TypedDict`, whatever pydantic can validate.
        tags: of every input, beside those of a call.
    """

    def __init__(self, producer: Producer, name: str, output: type[T], tags: Tags = ()) -> None:
        self._producer = producer
        self.name = name
        self._convert = converter(name, output)
        self._tags = tags

    def predict(self, data: Any, **options: Unpack[WaitOptions]) -> T:
        """Submit an input and wait for its prediction."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return self._convert(self._producer.predict(self.name, data, **options))

    def submit(self, data: Any, **options: Unpack[Options]) -> PendingPrediction[T]:
        """Submit an input; it is computed whether or not anybody waits."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return self._producer._submit(self.name, data, self._convert, **options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - its other half

    def submit_many(self, inputs: Iterable[Any], **options: Unpack[Options]) -> list[PendingPrediction[T]]:
        """Submit inputs, with one round trip for all look-ups."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return self._producer._submit_many(self.name, inputs, self._convert, **options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - (as above)

    def map(self, inputs: Iterable[Any], **options: Unpack[MapOptions]) -> Iterator[T]:
        """Yield the outputs of inputs, in order and in bounded memory; the first failure ends it."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        for value in self._producer.map(self.name, inputs, **options):
            yield self._convert(value)

    def pending(self, key: str) -> PendingPrediction[T]:
        """Attach to a prediction by its key, from any process; never enqueues."""
        return self._producer._attach(key, self._convert)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - (as above)

    def peek(self, data: Any) -> T | None:
        """Return the cached output, or None; never computes."""
        value = self._producer.peek(self.name, data)
        return None if value is None else self._convert(value)

    def invalidate(self, data: Any) -> bool:
        """Forget one input's entry."""
        return self._producer.invalidate(self.name, data)

    def purge(self) -> int:
        """Forget every entry."""
        return self._producer.purge(self.name)


class AsyncModelHandle(Generic[T]):
    """The same over an `AsyncProducer`."""

    def __init__(self, producer: AsyncProducer, name: str, output: type[T], tags: Tags = ()) -> None:
        self._producer = producer
        self.name = name
        self._convert = converter(name, output)
        self._tags = tags

    async def predict(self, data: Any, **options: Unpack[WaitOptions]) -> T:
        """Submit an input and wait for its prediction."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return self._convert(await self._producer.predict(self.name, data, **options))

    async def submit(self, data: Any, **options: Unpack[Options]) -> AsyncPendingPrediction[T]:
        """Submit an input; it is computed whether or not anybody waits."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return await self._producer._submit(self.name, data, self._convert, **options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - its other half

    async def submit_many(self, inputs: Iterable[Any], **options: Unpack[Options]) -> list[AsyncPendingPrediction[T]]:
        """Submit inputs, with one round trip for all look-ups."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        return await self._producer._submit_many(self.name, inputs, self._convert, **options)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - (as above)

    async def map(
        self, inputs: Iterable[Any] | AsyncIterable[Any], **options: Unpack[MapOptions]
    ) -> AsyncGenerator[T, None]:
        """Yield the outputs of inputs, in order and in bounded memory; the first failure ends it."""
        options["tags"] = with_tags(self._tags, options.get("tags", ()))
        async with aclosing(self._producer.map(self.name, inputs, **options)) as values:
            async for value in values:
                yield self._convert(value)

    async def pending(self, key: str) -> AsyncPendingPrediction[T]:
        """Attach to a prediction by its key, from any process; never enqueues."""
        return await self._producer._attach(key, self._convert)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - (as above)

    async def peek(self, data: Any) -> T | None:
        """Return the cached output, or None; never computes."""
        value = await self._producer.peek(self.name, data)
        return None if value is None else self._convert(value)

    async def invalidate(self, data: Any) -> bool:
        """Forget one input's entry."""
        return await self._producer.invalidate(self.name, data)

    async def purge(self) -> int:
        """Forget every entry."""
        return await self._producer.purge(self.name)
