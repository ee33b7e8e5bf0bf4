"""The asynchronous producer: the same answers, many at once, on a loop that it does not hold up."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until

from foreseen.broker import Publisher
from foreseen.embedded import EmbeddedServer
from foreseen.settings import Settings
from producer import (
    AsyncProducer,
    CacheUnavailable,
    InvalidInput,
    ModelFailed,
    ModelNotServed,
    PredictionTimeout,
    ProducerClosed,
    Source,
    UnknownKey,
    WrongLoop,
)

pytestmark = pytest.mark.acceptance

T = TypeVar("T")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests that break nothing: each asks for values of its own."""
    with Deployment(tmp_path_factory.mktemp("async")) as deployment:
        deployment.start_worker("threads", 8)
        yield deployment


@asynccontextmanager
async def producer_of(deployment: Deployment, **settings: Any) -> AsyncIterator[AsyncProducer]:
    async with AsyncProducer(deployment.settings.model_copy(update=settings)) as producer:
        yield producer


def run(test: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await test()

    return asyncio.run(bounded(), debug=False)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


class TestAsking:
    def test_the_same_names_give_the_same_answers(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer:
                request = {"value": "names"}
                assert await producer.peek("slow", request) is None
                output = await producer.predict("slow", request)
                assert output["value"] == "names"
                pending = await producer.submit("slow", request)
                assert (pending.source, pending.task_id, pending.done()) == (Source.HIT, None, True)
                assert await pending == await pending.result(timeout=0) == output
                assert await producer.peek("slow", request) == output
                attached = await producer.pending(pending.key)
                assert await attached == output
                assert await producer.invalidate("slow", request) is True
                assert await producer.peek("slow", request) is None
                assert await producer.purge("slow@1") == 1
                many = await producer.submit_many("slow", [{"value": f"names {n % 3}"} for n in range(6)])
                assert [(await each)["value"] for each in many] == [f"names {n % 3}" for n in range(6)]

        run(test)
        assert len(served.computations("names")) == 1

    def test_it_opens_at_its_first_use_however_many_come_first(self, served: Deployment) -> None:
        async def test() -> None:
            producer = AsyncProducer(served.settings)
            values = [f"first {n % 5}" for n in range(50)]
            outputs = await asyncio.gather(*(producer.predict("slow", {"value": value}) for value in values))
            assert [output["value"] for output in outputs] == values
            await producer.close()
            with pytest.raises(ProducerClosed):
                await producer.predict("slow", {"value": 1})

        run(test)

    def test_what_is_wrong_is_said(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served, model_wait_s=0.2) as producer:
                with pytest.raises(InvalidInput, match="send JSON values"):
                    await producer.predict("slow", {"value": object()})
                with pytest.raises(InvalidInput, match="priority 10"):
                    await producer.predict("slow", {}, priority=10)
                with pytest.raises(ModelNotServed, match="did you mean 'slow'"):
                    await producer.predict("slown", {})
                with pytest.raises(UnknownKey):
                    await producer.pending("slow@1:" + "0" * 40)
                failing = {"value": "failing", "raise": "on purpose"}
                with pytest.raises(ModelFailed, match="on purpose"):
                    await producer.predict("slow", failing)
                pending = await producer.submit("slow", failing)
                assert isinstance(await pending.exception(), ModelFailed)
                with pytest.raises(PredictionTimeout, match=r"within 0\.1 s"):
                    await producer.predict("slow", {"value": "late", "sleep_s": 1.0}, timeout=0.1)

        run(test)

    def test_callbacks_run_on_the_loop(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer:
                called: asyncio.Queue[tuple[Any, int]] = asyncio.Queue()
                pending = await producer.submit("slow", {"value": "called"})
                pending.add_done_callback(lambda each: called.put_nowait((each, threading.get_ident())))
                assert await called.get() == (pending, threading.get_ident())

        run(test)


class TestManyAtOnce:
    def test_a_thousand_mixed_are_right_and_computed_once_each(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer:
                await producer.submit_many("slow", [{"value": f"mixed {n}"} for n in range(200)])
                values = [f"mixed {n % 400}" for n in range(1000)]
                random.shuffle(values)
                outputs = await asyncio.gather(*(producer.predict("slow", {"value": value}) for value in values))
                assert [output["value"] for output in outputs] == values

        run(test)
        assert [len(served.computations(f"mixed {n}")) for n in range(400)] == [1] * 400

    def test_the_loop_is_never_held_up_by_more_than_20_ms_of_work(self, served: Deployment) -> None:
        """In processor time of the loop's thread between two passes, which a busy machine does not stretch."""
        longest = 0.0

        async def test() -> None:
            async def beat() -> None:
                nonlocal longest
                last = time.thread_time()
                while True:
                    await asyncio.sleep(0)
                    now = time.thread_time()
                    longest, last = max(longest, now - last), now

            async with producer_of(served) as producer:
                await producer.submit_many("slow", [{"value": f"beat {n}"} for n in range(100)])
                gc.collect()
                gc.freeze()  # what this process of tests has piled up is not walked meanwhile
                beating = asyncio.create_task(beat())
                await asyncio.sleep(0)
                asked = [producer.predict("slow", {"value": f"beat {n % 300}"}) for n in range(1000)]
                await asyncio.gather(*asked)
                await producer.submit_many("slow", [{"value": f"beat {n}"} for n in range(1000)])
                beating.cancel()

        try:
            run(test)
        finally:
            gc.unfreeze()
        assert 0 < longest < 0.020

    def test_nothing_is_published_on_the_loop_s_thread(
        self, served: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: set[int] = set()
        publish = Publisher.publish

        def noted(self: Publisher, *arguments: Any) -> list[Any]:
            threads.add(threading.get_ident())
            return publish(self, *arguments)

        monkeypatch.setattr(Publisher, "publish", noted)

        async def test() -> None:
            async with producer_of(served) as producer:
                await asyncio.gather(*(producer.predict("slow", {"value": f"thread {n}"}) for n in range(20)))

        run(test)
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    def test_a_herd_of_tasks_in_several_processes_computes_once(self, deploy: Callable[..., Deployment]) -> None:
        deployment = deploy(lease_s=10.0)
        deployment.start_worker("threads", 4)
        said = deployment.run_producers(
            4,
            """
import asyncio

async def main():
    async with AsyncProducer() as producer:
        barrier()
        for turn in range(10):
            request = {"value": f"herd {turn}", "nonce": True, "sleep_s": 0.02}
            outputs = await asyncio.gather(*(producer.predict("slow", request) for _ in range(50)))
            say(sorted({output["holder"] for output in outputs}))

asyncio.run(main())
""",
        )
        for turn in range(10):
            holders = {holder for process in said for holder in process[turn]}
            assert len(holders) == 1
            assert len(deployment.computations(f"herd {turn}")) == 1


class TestLeaving:
    def test_half_of_the_waiting_tasks_are_cancelled_and_the_rest_answered(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer:
                request = {"value": "half", "wait_for": str(served.gate("half"))}
                tasks = [asyncio.create_task(producer.predict("slow", request)) for _ in range(100)]
                await until(lambda: served.computations("half"))
                for task in tasks[::2]:
                    task.cancel()
                await asyncio.wait(tasks[::2])
                assert all(task.cancelled() for task in tasks[::2])
                served.open_gate("half")
                assert {output["value"] for output in await asyncio.gather(*tasks[1::2])} == {"half"}

        run(test)
        assert len(served.computations("half")) == 1

    @pytest.mark.parametrize("passes", range(0, 12, 2))
    def test_who_is_cancelled_while_joining_leaves_nothing_behind(
        self, deploy: Callable[..., Deployment], passes: int
    ) -> None:
        """Wherever the cancellation strikes, the flight ends: there is no worker, and nobody else wants it."""
        deployment = deploy()
        worker = deployment.start_worker("solo")  # publishes the card
        worker.terminate()
        worker.wait()
        request = {"value": "nobody's"}

        async def test() -> None:
            async with producer_of(deployment) as producer:
                assert await producer.peek("slow", request) is None  # the model is known now
                task = asyncio.create_task(producer.predict("slow", request))
                for _ in range(passes):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                await until(lambda: deployment.flight(request) == {})

        run(test)

    def test_a_task_that_awaits_what_was_submitted_may_be_cancelled(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer:
                request = {"value": "promised", "wait_for": str(served.gate("promised"))}
                pending = await producer.submit("slow", request)
                waiting = asyncio.create_task(pending.result())
                await until(lambda: served.computations("promised"))
                waiting.cancel()
                await asyncio.wait([waiting])
                assert served.joiners(request, "d") == 1
                served.open_gate("promised")
                assert (await pending)["value"] == "promised"

        run(test)

    def test_cancel_leaves_and_others_get_their_answer(self, served: Deployment) -> None:
        async def test() -> None:
            async with producer_of(served) as producer, producer_of(served) as other:
                request = {"value": "given up", "wait_for": str(served.gate("given up"))}
                pending, kept = await producer.submit("slow", request), await other.submit("slow", request)
                assert await pending.cancel()
                assert pending.cancelled()
                with pytest.raises(asyncio.CancelledError):
                    await pending
                served.open_gate("given up")
                assert (await kept)["value"] == "given up"
                assert not await kept.cancel()

        run(test)

    def test_closing_ends_what_is_open_and_what_was_submitted_is_computed(self, served: Deployment) -> None:
        async def test() -> None:
            request = {"value": "left", "wait_for": str(served.gate("left"))}
            async with producer_of(served) as producer:
                pending = await producer.submit("slow", request)
                waiting = asyncio.create_task(producer.predict("slow", request))
                await until(lambda: served.computations("left"))
            assert isinstance(await pending.exception(), ProducerClosed)
            with pytest.raises(ProducerClosed):
                await waiting
            served.open_gate("left")
            async with producer_of(served) as producer:
                assert (await producer.predict("slow", request))["value"] == "left"

        run(test)
        assert len(served.computations("left")) == 1


class TestItsLoop:
    def test_another_loop_is_refused(self, served: Deployment) -> None:
        producer = AsyncProducer(served.settings)
        with asyncio.Runner() as own:
            own.run(producer.predict("slow", {"value": "own"}))
            with asyncio.Runner() as other, pytest.raises(WrongLoop, match="one for each loop"):
                other.run(producer.predict("slow", {"value": "own"}))
            own.run(producer.close())


class TestTrouble:
    def test_a_server_that_is_not_there_is_said_and_tried_again(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = EmbeddedServer(port=port)
        settings = Settings(broker_url=f"redis://127.0.0.1:{port}/0", cache_url=f"redis://127.0.0.1:{port}/1")

        async def test() -> None:
            producer = AsyncProducer(settings)
            key = "slow@1:" + "0" * 40
            for _ in range(2):
                with pytest.raises(CacheUnavailable):
                    await producer.pending(key)
            await asyncio.to_thread(server.start)
            with pytest.raises(UnknownKey):
                await producer.pending(key)
            await producer.close()

        try:
            run(test)
        finally:
            server.stop()

    def test_a_restart_while_a_hundred_wait_loses_none(self, deploy: Callable[..., Deployment]) -> None:
        deployment = deploy()
        deployment.start_worker("threads", 2)

        async def test() -> None:
            async with producer_of(deployment) as producer:
                gate = str(deployment.gate("restart"))
                tasks = [
                    asyncio.create_task(producer.predict("slow", {"value": n, "wait_for": gate})) for n in range(100)
                ]
                await until(lambda: len(deployment.computations()) >= 2)
                await asyncio.to_thread(deployment.server.restart)
                deployment.open_gate("restart")
                outputs = await asyncio.gather(*tasks)
                assert [output["value"] for output in outputs] == list(range(100))

        run(test)

    @pytest.mark.parametrize("kind", ["pubsub", "normal"])
    def test_a_killed_connection_costs_nobody_an_answer(self, deploy: Callable[..., Deployment], kind: str) -> None:
        deployment = deploy(lease_s=5.0)
        deployment.start_worker("threads", 2)

        async def test() -> None:
            async with producer_of(deployment) as producer:
                gate = str(deployment.gate("kill"))
                waiting = asyncio.create_task(producer.predict("slow", {"value": 1, "wait_for": gate}))
                await until(lambda: deployment.computations(1))
                with deployment.redis() as client:
                    client.client_kill_filter(_type=kind, skipme=True)
                deployment.open_gate("kill")
                assert (await waiting)["value"] == 1
                assert (await producer.predict("slow", {"value": 2}))["value"] == 2

        run(test)


def test_what_was_submitted_is_computed_though_its_process_ends(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.start_worker("threads", 4)
    process = deployment.start_producer(
        """
import asyncio

async def main():
    producer = AsyncProducer()
    for n in range(200):
        await producer.submit("slow", {"value": n})
    say("submitted")
    os._exit(0)

asyncio.run(main())
"""
    )
    assert process.hear(DEADLINE_S) == "submitted"
    wait_until(lambda: len(deployment.computations()) == 200, "all are computed")
