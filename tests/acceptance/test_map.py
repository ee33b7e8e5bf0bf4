"""`map` and the typed handle, on both faces: in order, in bounded memory, endless inputs too, and typed outputs."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from pydantic import BaseModel

from producer import (
    AsyncProducer,
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelNotServed,
    PredictionTimeout,
    Producer,
    Source,
)

pytestmark = pytest.mark.acceptance

T = TypeVar("T")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("map")) as deployment:
        deployment.start_worker("threads", 8)
        yield deployment


@pytest.fixture(scope="module")
def producer(served: Deployment) -> Producer:
    return served.producer()


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await test()

    return asyncio.run(bounded())


Mapped = Callable[..., list[Any]]


@pytest.fixture(params=["sync", "async", "async over awaited inputs"])
def mapped(request: pytest.FixtureRequest, served: Deployment, producer: Producer) -> Mapped:
    """Return the outputs of a whole `map`, by each of its ways."""
    if request.param == "sync":
        return lambda inputs, **options: list(producer.map("slow", inputs, **options))

    async def awaited(inputs: Iterable[Any]) -> AsyncIterator[Any]:
        for each in inputs:
            yield each

    def mapped(inputs: Iterable[Any], **options: Any) -> list[Any]:
        source = inputs if request.param == "async" else awaited(inputs)

        async def test() -> list[Any]:
            async with AsyncProducer(served.settings) as on_loop:
                return [output async for output in on_loop.map("slow", source, **options)]

        return run(test)

    return mapped


class TestOutputs:
    def test_come_in_the_order_of_the_inputs(self, mapped: Mapped) -> None:
        """The first takes longest; what is behind it is computed meanwhile, and waits."""
        inputs = [{"value": n, "sleep_s": 0.2 if n == 0 else 0} for n in range(700)]
        assert [output["value"] for output in mapped(iter(inputs), in_flight=100)] == list(range(700))

    def test_of_nothing_are_none(self, mapped: Mapped) -> None:
        assert mapped([]) == []

    @pytest.mark.parametrize("in_flight", [1, 2, 7])
    def test_come_however_little_may_be_in_flight(self, mapped: Mapped, in_flight: int) -> None:
        values = [f"few {n}" for n in range(20)]
        assert [
            output["value"] for output in mapped([{"value": value} for value in values], in_flight=in_flight)
        ] == values

    def test_are_told_of(self, mapped: Mapped) -> None:
        told: list[int] = []
        mapped([{"value": f"told {n % 4}"} for n in range(10)], progress=told.append)
        assert told == list(range(1, 11))


class TestFailures:
    def test_the_first_in_order_ends_it(self, mapped: Mapped) -> None:
        inputs = [{"value": 0, "sleep_s": 0.1}, {"value": 1, "raise": "first"}, {"value": 2, "raise": "second"}]
        with pytest.raises(ModelFailed, match="first"):
            mapped(inputs)

    def test_stand_in_their_places_on_demand(self, mapped: Mapped) -> None:
        inputs = [{"value": 0}, {"value": 1, "raise": "failed"}, {"value": object()}, {"value": 3}]
        outputs = mapped(inputs, return_exceptions=True)
        kinds = [type(output) for output in outputs]
        assert kinds == [dict, ModelFailed, InvalidInput, dict]

    def test_an_output_that_does_not_come_in_time_is_one(self, served: Deployment, mapped: Mapped) -> None:
        served.gate("in time").unlink(missing_ok=True)
        known = {"value": "known in time"}
        mapped([known])
        late, output = mapped(
            [{"value": f"late {uuid.uuid4()}", "wait_for": str(served.gate("in time"))}, known],
            return_exceptions=True,
            timeout=0.3,
        )
        served.open_gate("in time")
        assert isinstance(late, PredictionTimeout)
        assert output["value"] == "known in time"

    def test_of_the_inputs_themselves_are_raised(self, mapped: Mapped) -> None:
        def inputs() -> Iterator[Any]:
            yield {"value": "good"}
            raise OSError("the file is gone")

        with pytest.raises(OSError, match="the file is gone"):
            mapped(inputs())

    def test_a_model_that_nobody_serves_is_said_at_once(self, producer: Producer) -> None:
        with pytest.raises(ModelNotServed):
            Producer.map(
                Producer(producer._settings.model_copy(update={"model_wait_s": 0.1})),  # type: ignore[union-attr]
                "no-such-model",
                [],
            )

    def test_nothing_in_flight_is_refused(self, mapped: Mapped) -> None:
        with pytest.raises(InvalidInput, match="in_flight=0"):
            mapped([1], in_flight=0)


class TestEndlessInputs:
    def test_are_taken_only_so_far_ahead(self, producer: Producer) -> None:
        taken = itertools.count()
        outputs = producer.map("slow", ({"value": f"endless {next(taken)}"} for _ in itertools.count()), in_flight=20)
        for n in range(50):
            assert next(outputs)["value"] == f"endless {n}"
        outputs.close()  # type: ignore[attr-defined]
        assert next(taken) <= 50 + 20

    def test_are_taken_only_so_far_ahead_on_a_loop(self, served: Deployment) -> None:
        taken = itertools.count()

        async def test() -> None:
            async with AsyncProducer(served.settings) as producer:
                inputs = ({"value": f"loop {next(taken)}"} for _ in itertools.count())
                async with aclosing(producer.map("slow", inputs, in_flight=20)) as outputs:
                    got = [(await anext(outputs))["value"] for _ in range(50)]
                assert got == [f"loop {n}" for n in range(50)]

        run(test)
        assert next(taken) <= 50 + 20 + 1

    def test_what_was_taken_ahead_is_dropped_by_who_stops(self, served: Deployment, producer: Producer) -> None:
        gate = str(served.gate("stops"))
        known = {"value": "known before it stops"}
        producer.predict("slow", known)
        requests = [{"value": f"stops {n}", "wait_for": gate} for n in range(100)]
        outputs = producer.map("slow", [known, *requests])
        assert next(outputs)["value"] == "known before it stops"
        outputs.close()  # type: ignore[attr-defined]
        wait_until(lambda: served.flight(requests[-1]) == {}, "the last is not wanted any more")
        served.open_gate("stops")
        assert producer.predict("slow", {"value": "after"})["value"] == "after"
        assert served.computations("stops 99") == []

    def test_slow_ones_are_answered_one_by_one(self, producer: Producer) -> None:
        """Not when a chunk of them is full."""
        events: list[str] = []

        def inputs() -> Iterator[Any]:
            for n in range(10):
                events.append("taken")
                yield {"value": f"slow input {n}"}
                time.sleep(0.2)

        for _ in producer.map("slow", inputs()):
            events.append("answered")  # noqa: PERF401 - while the inputs append to it, too
        assert events.index("answered") < len(events) - 1 - events[::-1].index("taken")


class Shape(BaseModel):
    value: str
    sha: str


class Wrong(BaseModel):
    value: int


class TestTypedHandle:
    def test_gives_instances_of_its_type(self, producer: Producer) -> None:
        slow = producer.model("slow", output=Shape)
        request = {"value": "typed"}
        shape = slow.predict(request)
        assert isinstance(shape, Shape)
        assert shape.value == "typed"
        pending = slow.submit(request)
        assert pending.source is Source.HIT
        assert pending.result() == slow.peek(request) == shape
        assert [each.result() for each in slow.submit_many([request, request])] == [shape, shape]
        assert list(slow.map([request, request])) == [shape, shape]
        assert slow.invalidate(request)
        assert slow.peek(request) is None

    def test_on_a_loop_too(self, served: Deployment) -> None:
        async def test() -> None:
            async with AsyncProducer(served.settings) as producer:
                slow = producer.model("slow", output=Shape)
                request = {"value": "typed on a loop"}
                shape = await slow.predict(request)
                assert isinstance(shape, Shape)
                assert await (await slow.submit(request)) == await slow.peek(request) == shape
                assert [await each for each in await slow.submit_many([request])] == [shape]
                assert [each async for each in slow.map([request, request])] == [shape, shape]
                assert await slow.invalidate(request)
                assert await slow.purge() >= 1

        run(test)

    def test_an_output_that_does_not_fit_is_said_and_stays_as_it_is(self, producer: Producer) -> None:
        request = {"value": "no number"}
        wrong = producer.model("slow@1", output=Wrong)
        with pytest.raises(InvalidOutput, match=r"slow@1 does not fit Wrong: \$\.value"):
            wrong.predict(request)
        with pytest.raises(InvalidOutput):
            wrong.submit(request).result(DEADLINE_S)
        assert producer.model("slow").predict(request)["value"] == "no number"
