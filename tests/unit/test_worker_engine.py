"""The worker's steps over a cache that says what the test laid out and a broker that only records."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest

from foreseen.canonical import CanonicalInput, canonicalize
from foreseen.compression import inflate
from foreseen.dead_letters import DeadLetter
from foreseen.entry import CODEC, COMPRESSED_CODEC
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    InputRefused,
    InvalidOutput,
    ModelFailed,
    PredictionFailed,
    TimeLimitExceeded,
    TooManyAttempts,
    TransientFailure,
)
from foreseen.flights import Call, Hit, Joined
from foreseen.holding import Alone, Begin, Begun, Finish, Finished, HolderFlights
from foreseen.keys import key_of
from foreseen.measures import Measures
from foreseen.message import Item, Message
from foreseen.payload import unpack
from foreseen.settings import Settings
from workers.compute import ANSWERED, compute
from workers.engine import Engine, NotServed, Report
from workers.gathering import Gathering
from workers.model import Model
from workers.policies import Batching, CachePolicy, Limits, Retry
from workers.wanted import Unwanted, wanted

SETTINGS = Settings(namespace="t", lease_s=10)
HOLDER = "holder-1"


class Echo(Model[Any, Any]):
    name = "model"
    version = "1"
    cache = CachePolicy(expiry_s=100, jitter=0.2, failure_expiry_s=5)
    batching = Batching(max_batch_size=3)

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.answer: Callable[[Any], Any] = lambda one: one

    def predict(self, batch: Sequence[Any]) -> list[Any]:
        self.batches.append(list(batch))
        return [self.answer(one) for one in batch]


class Scene:
    """A runtime whose cache and broker keep, in one list, what they were told in which order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.begun: deque[Begun] = deque()
        self.finished: deque[Finished] = deque()
        self.cache_errors: deque[Exception] = deque()
        self.broker_error: Exception | None = None
        self.is_wanted = True
        self.letters: list[DeadLetter] = []
        self.pointer: bytes | None = None
        self.joined: deque[Any] = deque()
        self.buried: set[str] = set()
        self.let_go: list[str] = []
        self.model = Echo()
        self.loaded: Any = self.model
        self.flights = HolderFlights(SETTINGS)
        self.runtime: Any = SimpleNamespace(
            settings=SETTINGS,
            home=SimpleNamespace(channel="t:worker:w1"),
            isolation=self,
            shares_calls=False,
            leases=SimpleNamespace(remove=self.let_go.append),
            flights=self.flights,
            models={"model@1": Echo},
            model=lambda _: self.loaded,
            cache=SimpleNamespace(run=self.run, commands=self.commands),
            publisher=SimpleNamespace(publish=self.publish),
            measures=Measures(),
            spans=None,
        )

    @contextmanager
    def in_company(self) -> Iterator[None]:
        yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.events.append(("alone", []))
        yield

    def run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        if self.cache_errors:
            raise self.cache_errors.popleft()
        self.events.append(("ask", list(calls)))
        return [self.say(call) for call in calls]

    def say(self, call: Call[Any]) -> Any:
        match call.script.name:
            case "begin":
                return self.begun.popleft() if self.begun else Begun(Begin.RUN, call.args[1], b"generatn", 9)  # type: ignore[arg-type]
            case "finish":
                return self.finished.popleft() if self.finished else Finished(Finish.KEPT)
            case "watermark":
                return 12
            case "wanted":
                return self.is_wanted
            case "join":
                return self.joined.popleft()
            case _:
                return True

    def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Keep which inputs have a letter."""
        if commands[-1] == ("GET", "t:current:model"):
            return [b"1" if "model@1" in self.runtime.models else None, self.pointer]
        self.buried |= {name for verb, name, *_ in commands if verb == "HSET"}
        return [b"1" if name in self.buried else None for _, name, *_ in commands]

    def publish(self, messages: Sequence[Any], bounds: Any = None) -> list[Any]:
        assert bounds is None or set(bounds) == {"t.dead"}
        if self.broker_error is not None:
            raise self.broker_error
        self.letters += [each for each in messages if isinstance(each, DeadLetter)]
        self.events.append(("publish", [each for each in messages if isinstance(each, Message)]))
        return []

    def handle(self, message: Message, holder: str = HOLDER) -> Report:
        return Engine(self.runtime).handle(message, holder)

    def calls(self, script: str) -> list[Call[Any]]:
        asked = [call for what, calls in self.events if what == "ask" for call in calls]
        return [call for call in asked if call.script.name == script]

    @property
    def sent(self) -> list[Message]:
        return [message for what, messages in self.events if what == "publish" for message in messages]

    @property
    def order(self) -> list[str]:
        """What happened, in order: the scripts of each round trip (each named once), and publishing."""
        return ["publish" if what == "publish" else "+".join(dict.fromkeys(call.script.name for call in told))
                for what, told in self.events]  # fmt: skip

    def told(self) -> list[tuple[str, Any]]:
        """What finish was told: kind, and the outcome."""
        bodies: list[tuple[Any, Any]] = [(call.args[1], call.args[5]) for call in self.calls("finish")]
        assert all(int.from_bytes(body[:4], "big") == crc32(body[4:]) for _, body in bodies)
        return [(kind, unpack(body[4:])) for kind, body in bodies]

    def expiries_ms(self) -> list[Any]:
        return [call.args[6] for call in self.calls("finish")]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept."""
    slept: list[float] = []
    clock = SimpleNamespace(
        sleep=slept.append, perf_counter=lambda: 0.0, monotonic=lambda: 0.0, time=lambda: 1.7e9,
    )  # fmt: skip
    set_clock(monkeypatch, clock)
    return slept


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    for module in ("engine", "batches", "outcomes", "patience"):
        monkeypatch.setattr(f"workers.{module}.time", clock)


def message(*values: Any, priority: int = 4) -> Message:
    items = []
    for n, value in enumerate(values):
        canonical = canonicalize(value)
        items.append(Item(key_of("model", "1", canonical), f"token-{n}", 7, 0, canonical))
    return Message("model@1", tuple(items), 1_700_000_000_000, priority)


def draw(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    monkeypatch.setattr("workers.outcomes.random", SimpleNamespace(random=lambda: number))


class TestComputing:
    def test_each_item_is_begun_computed_and_finished(self, scene: Scene) -> None:
        one = message(1, {"x": b"raw"})
        assert scene.handle(one) == Report(computed=2)
        assert scene.order == ["begin+watermark", "finish"]
        assert scene.told() == [("R", 1), ("R", {"x": b"raw"})]
        assert scene.model.batches == [[1, {"x": b"raw"}]]

    def test_begin_is_told_what_the_message_says(self, scene: Scene) -> None:
        one = message(1, 2, priority=7)
        scene.handle(one)
        first = scene.calls("begin")[0]
        assert first.args[:8] == (str(one.items[0].key), "token-0", 7, 0, 7, HOLDER, one.id, 0)
        (watermark,) = scene.calls("watermark")
        assert watermark.keys == ("t:w:{t.model@1:7}",)
        assert watermark.args[0] == one.sent_ms

    def test_an_item_in_a_message_of_its_own_is_alone(self, scene: Scene) -> None:
        scene.handle(message(1))
        assert scene.calls("begin")[0].args[7] == 1

    def test_finish_is_told_what_begin_read(self, scene: Scene) -> None:
        scene.begun.append(Begun(Begin.RUN, "taken-over", b"GENERATN", 42))
        one = message(1)
        scene.handle(one)
        (call,) = scene.calls("finish")
        assert call.args[:5] == (str(one.items[0].key), "R", HOLDER, b"GENERATN", 42)
        assert call.args[8] == one.id

    def test_what_is_settled_is_not_computed(self, scene: Scene) -> None:
        scene.begun.append(Begun(Begin.SETTLED))
        assert scene.handle(message(1, 2)) == Report(computed=1, settled=1)
        assert scene.model.batches == [[2]]
        assert scene.sent == []

    def test_a_message_that_is_settled_takes_one_round_trip(self, scene: Scene) -> None:
        scene.begun += [Begun(Begin.SETTLED)] * 2
        assert scene.handle(message(1, 2)) == Report(settled=2)
        assert scene.order == ["begin+watermark"]

    def test_batches_are_no_larger_than_the_model_takes(self, scene: Scene) -> None:
        scene.handle(message(*range(7)))
        assert scene.model.batches == [[0, 1, 2], [3, 4, 5], [6]]
        assert [value for _, value in scene.told()] == list(range(7))

    def test_none_is_an_output(self, scene: Scene) -> None:
        assert scene.handle(message(None)) == Report(computed=1)
        assert scene.told() == [("R", None)]

    def test_a_bad_item_fails_alone(self, scene: Scene) -> None:
        scene.model.answer = lambda one: 1 // one
        assert scene.handle(message(1, 0, 1.5)) == Report(computed=2, failed=1)
        assert [kind for kind, _ in scene.told()] == ["R", "F", "R"]
        assert scene.told()[1][1]["details"] == {"type": "ZeroDivisionError"}

    def test_what_it_cost_is_told_per_item(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter([10.0, 13.0])
        set_clock(monkeypatch, SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=lambda: 0.0))
        scene.handle(message(1, 2, 3))
        assert [call.args[7] for call in scene.calls("finish")] == [1_000_000] * 3

    def test_what_it_cost_fits_its_field(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter([0.0, 1e9])
        set_clock(monkeypatch, SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=lambda: 0.0))
        scene.handle(message(1))
        assert scene.calls("finish")[0].args[7] == 2**32 - 1

    @pytest.mark.parametrize(
        ("code", "report"),
        [(Finish.KEPT, Report(computed=1)), (Finish.TOLD, Report(computed=1)), (Finish.SETTLED, Report(settled=1))],
    )
    def test_the_report_says_what_became_of_it(self, scene: Scene, code: Finish, report: Report) -> None:
        scene.finished.append(Finished(code))
        assert scene.handle(message(1)) == report


class TestFailures:
    @pytest.mark.parametrize(
        ("code", "kind", "kept_ms"),
        [(Begin.EXPIRED, DeadlineExceeded, 0), (Begin.EXHAUSTED, TooManyAttempts, 5000)],
    )
    def test_what_begin_refuses_is_finished_and_not_computed(
        self, scene: Scene, code: Begin, kind: type[PredictionFailed], kept_ms: int
    ) -> None:
        scene.begun.append(Begun(code, "token-0", b"generatn", 9))
        one = message(1, 2)
        assert scene.handle(one) == Report(computed=1, failed=1)
        assert scene.model.batches == [[2]]
        (first, failure), second = scene.told()
        assert (first, failure["name"]) == ("F", kind.__name__)
        assert one.items[0].key.short in failure["message"]
        assert second == ("R", 2)
        assert scene.expiries_ms()[0] == kept_ms

    def test_what_this_process_could_not_load_is_handed_back_before_anything_is_begun(self, scene: Scene) -> None:
        scene.loaded = ModelFailed("no weights", {"type": "OSError", "stage": "load"})
        with pytest.raises(NotServed, match="no weights"):
            scene.handle(message(1))
        assert scene.events == []

    def test_a_failure_of_the_model_is_kept_as_long_as_its_policy_says(self, scene: Scene) -> None:
        scene.model.answer = lambda _: 1 // 0
        scene.handle(message(1))
        assert scene.expiries_ms() == [5000]

    @pytest.mark.parametrize(
        ("failure", "kept_ms"),
        [
            (ValueError("broken"), 5000),
            (InvalidOutput("no number"), 5000),
            (TransientFailure("busy"), 1000),
            (ConnectionResetError("gone"), 1000),
            (TimeLimitExceeded("too long"), 60_000),
            (TooManyAttempts("it died"), 60_000),
        ],
    )
    def test_a_failure_is_kept_by_what_it_says_of_the_next_try(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, failure: Exception, kept_ms: int
    ) -> None:
        monkeypatch.setattr(Echo, "cache", CachePolicy())
        monkeypatch.setattr(Echo, "retry", Retry(attempts=1))
        scene.model.answer = lambda _: failure
        scene.handle(message(1))
        assert scene.expiries_ms() == [kept_ms]

    def test_an_output_that_cannot_travel_is_an_invalid_output(self, scene: Scene) -> None:
        scene.model.answer = lambda one: {"lock": 2**70} if one == 1 else one
        assert scene.handle(message(1, 2)) == Report(computed=1, failed=1)
        (kind, failure), other = scene.told()
        assert (kind, failure["name"], other) == ("F", InvalidOutput.__name__, ("R", 2))
        assert "model@1 cannot travel" in failure["message"]

    def test_an_input_whose_blobs_are_others_is_refused(self, scene: Scene) -> None:
        """The digest covers the text alone, which names each blob's: a worker compares those too."""
        right = message(b"raw", 2)
        text = right.items[0].canonical.text
        wrong = right.again(
            [Item(right.items[0].key, "token-0", 7, 0, CanonicalInput(text, (b"other",))), right.items[1]]
        )
        assert scene.handle(wrong) == Report(computed=1, failed=1)
        assert scene.told()[0][1]["name"] == InputRefused.__name__
        assert scene.told()[1] == ("R", 2)
        assert scene.model.batches == [[2]]

    def test_a_failure_whose_details_cannot_travel_is_told_without_them(self, scene: Scene) -> None:
        scene.model.answer = lambda _: ModelFailed("broken", {"at": object()})
        scene.handle(message(1))
        assert scene.told() == [("F", {"name": "ModelFailed", "message": "broken", "details": {}})]


class TestCompression:
    @pytest.mark.parametrize(
        ("value", "above_bytes", "codec"),
        [
            ("same " * 1000, None, 1),
            ("same " * 1000, 4096, 2),
            ("same " * 1000, 5100, 1),
            ("same " * 2000, 4096, 1),  # more than the deployment keeps
            (bytes(range(256)), 0, 1),  # not worth it
        ],
    )
    def test_is_for_what_is_large_and_becomes_smaller(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, value: Any, above_bytes: int | None, codec: int
    ) -> None:
        monkeypatch.setattr(scene.runtime, "settings", SETTINGS.model_copy(update={"max_entry_bytes": 8000}))
        monkeypatch.setattr(Echo, "cache", CachePolicy(compress_above_bytes=above_bytes))
        scene.model.answer = lambda _: value
        scene.handle(message(1))
        (call,) = scene.calls("finish")
        body = call.args[5]
        assert isinstance(body, bytes)
        assert call.args[17] == codec
        assert unpack(inflate(body[4:], 8000) if codec == COMPRESSED_CODEC else body[4:]) == value

    def test_is_not_for_failures(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Echo, "cache", CachePolicy(compress_above_bytes=0))
        scene.model.answer = lambda _: ModelFailed("broken " * 1000)
        scene.handle(message(1))
        assert scene.calls("finish")[0].args[17] == CODEC


class TestExpiry:
    @pytest.mark.parametrize(("number", "expiry_ms"), [(0.0, 100_000), (0.5, 90_000), (1.0, 80_000)])
    def test_is_spread_by_the_policy_s_jitter_and_never_longer(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, number: float, expiry_ms: int
    ) -> None:
        draw(monkeypatch, number)
        scene.handle(message(1))
        assert scene.expiries_ms() == [expiry_ms]

    def test_is_drawn_for_each_entry(self, scene: Scene) -> None:
        scene.handle(message(*range(20)))
        assert len(set(scene.expiries_ms())) > 1
        assert all(80_000 <= expiry_ms <= 100_000 for expiry_ms in scene.expiries_ms())

    def test_is_not_spread_for_failures(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        draw(monkeypatch, 1.0)
        scene.model.answer = lambda _: ModelFailed("broken")
        scene.handle(message(1))
        assert scene.expiries_ms() == [5000]

    def test_what_its_model_does_not_want_kept_is_told_and_not_kept(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Echo, "cache", CachePolicy(expiry_s=100, jitter=0))
        monkeypatch.setattr(Echo, "cacheable", lambda _, output: output != 2)
        scene.handle(message(1, 2, 3))
        assert scene.told() == [("R", 1), ("R", 2), ("R", 3)]
        assert scene.expiries_ms() == [100_000, 0, 100_000]

    @pytest.mark.parametrize(
        ("asked_ms", "kept_ms", "stale_ms"),
        [
            (None, 100_000, 30_000),
            (200_000, 100_000, 30_000),
            (110_000, 100_000, 10_000),
            (20_000, 20_000, 0),
            (0, 0, 0),
        ],
    )
    def test_nothing_is_kept_longer_than_was_asked_for(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, asked_ms: int | None, kept_ms: int, stale_ms: int
    ) -> None:
        monkeypatch.setattr(Echo, "cache", CachePolicy(expiry_s=100, stale_s=30, jitter=0))
        one = message(1)
        scene.handle(replace(one, items=(one.items[0]._replace(expiry_ms=asked_ms),)))
        (call,) = scene.calls("finish")
        assert (call.args[6], call.args[15]) == (kept_ms, stale_ms)

    def test_nor_is_a_failure(self, scene: Scene) -> None:
        scene.model.answer = lambda _: ModelFailed("broken")
        one = message(1, 2)
        first, second = one.items
        scene.handle(replace(one, items=(first._replace(expiry_ms=3000), second._replace(expiry_ms=30_000))))
        assert scene.expiries_ms() == [3000, 5000]

    def test_zero_keeps_nothing(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Echo, "cache", CachePolicy(expiry_s=0, failure_expiry_s=0))
        scene.model.answer = lambda one: ModelFailed("broken") if one == 2 else one
        scene.handle(message(1, 2))
        assert scene.expiries_ms() == [0, 0]


class TestSendingAgain:
    """What stands in for this delivery is with the broker before it returns, since then comes the ack."""

    def test_a_delivery_that_meets_a_live_holder_is_copied_and_the_copy_noted_then(self, scene: Scene) -> None:
        scene.begun += [
            Begun(Begin.HELD, "flight-a", lease_left_ms=2500),
            Begun(Begin.HELD, "flight-b", lease_left_ms=4000),
        ]
        one = message(1, 2, priority=7)
        assert scene.handle(one) == Report(sent_again=1)
        assert scene.order == ["begin+watermark", "publish", "copied"]
        (copy,) = scene.sent
        assert (copy.items, copy.due_s, copy.priority, copy.sent_ms) == (one.items, 4.0, 7, 0)
        assert copy.id != one.id
        noted = [("flight-a", copy.id, 1), ("flight-b", copy.id, 1)]
        owns = [(item.token,) for item in copy.items]
        assert [call.args for call in scene.calls("copied")] == [
            one + own for one, own in zip(noted, owns, strict=True)
        ]
        assert [call.keys for call in scene.calls("copied")] == [
            (scene.flights.space.flight(item.key),) for item in one.items
        ]

    def test_a_copy_that_the_broker_did_not_take_is_not_noted(self, scene: Scene) -> None:
        """Noted first, the redelivery would settle in favour of a copy that never existed."""
        scene.begun.append(Begun(Begin.HELD, lease_left_ms=2500))
        scene.broker_error = BrokerUnavailable("down")
        with pytest.raises(BrokerUnavailable):
            scene.handle(message(1))
        assert scene.calls("copied") == []

    def test_suspects_go_into_messages_of_their_own(self, scene: Scene) -> None:
        scene.begun += [Begun(Begin.ALONE), Begun(Begin.ALONE)]
        one = message(1, 2, 3)
        assert scene.handle(one) == Report(computed=1, sent_again=2)
        assert [again.items for again in scene.sent] == [(one.items[0],), (one.items[1],)]
        assert [again.due_s for again in scene.sent] == [0, 0]
        assert scene.model.batches == [[3]]
        assert scene.calls("copied") == []

    def test_what_a_newer_flight_needs_is_sent_again_due_now(self, scene: Scene) -> None:
        scene.finished += [Finished(Finish.RESEND), Finished(Finish.KEPT), Finished(Finish.RESEND)]
        one = message(1, 2, 3)
        assert scene.handle(one) == Report(computed=1, sent_again=1)
        (again,) = scene.sent
        assert (again.items, again.due_s, again.sent_ms) == ((one.items[0], one.items[2]), 0, 0)
        assert scene.order == ["begin+watermark", "finish", "publish"]

    def test_what_another_holder_runs_by_now_is_copied(self, scene: Scene) -> None:
        scene.finished.append(Finished(Finish.HELD, "flight-a", 1500))
        one = message(1)
        assert scene.handle(one) == Report(sent_again=1)
        assert scene.sent[0].due_s == 1.5
        assert scene.order == ["begin+watermark", "finish", "publish", "copied"]

    def test_all_of_it_travels_together(self, scene: Scene) -> None:
        scene.begun += [Begun(Begin.HELD, lease_left_ms=1000), Begun(Begin.ALONE)]
        scene.finished.append(Finished(Finish.RESEND))
        assert scene.handle(message(1, 2, 3)) == Report(sent_again=3)
        assert scene.order == ["begin+watermark", "finish", "publish", "copied"]
        assert sorted(item.token for again in scene.sent for item in again.items) == ["token-0", "token-1", "token-2"]

    def test_if_the_broker_does_not_take_it_the_message_goes_back(self, scene: Scene) -> None:
        scene.finished.append(Finished(Finish.RESEND))
        scene.broker_error = BrokerUnavailable("down")
        with pytest.raises(BrokerUnavailable):
            scene.handle(message(1))


class TestACacheThatDoesNotAnswer:
    def test_is_asked_again_a_few_times(self, scene: Scene, pauses: list[float]) -> None:
        scene.cache_errors += [CacheUnavailable("down")] * 3
        assert scene.handle(message(1)) == Report(computed=1)
        assert pauses == [0.1, 0.5, 2.0]

    def test_at_last_sends_the_message_back(self, scene: Scene, pauses: list[float]) -> None:
        scene.cache_errors += [CacheUnavailable("down")] * 4
        with pytest.raises(CacheUnavailable):
            scene.handle(message(1))
        assert len(pauses) == 3
        assert scene.model.batches == []

    @pytest.mark.parametrize(("cost_s", "patience_s"), [(0.5, 2.6), (10.0, 10.0), (1000.0, 60.0)])
    def test_is_waited_for_as_long_as_the_computation_took(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, cost_s: float, patience_s: float
    ) -> None:
        now = [0.0]

        def pass_by(seconds: float) -> None:
            now[0] += seconds

        clock = SimpleNamespace(sleep=pass_by, perf_counter=lambda: now[0], monotonic=lambda: now[0])
        set_clock(monkeypatch, clock)

        def compute_long(one: Any) -> Any:
            pass_by(cost_s)
            scene.cache_errors = deque([CacheUnavailable("away")] * 1000)
            return one

        scene.model.answer = compute_long
        with pytest.raises(CacheUnavailable):
            scene.handle(message("a"))
        assert patience_s <= now[0] - cost_s <= patience_s + 2.0

    def test_does_not_cost_the_computation(self, scene: Scene, pauses: list[float]) -> None:
        """What failed is the telling: the outcome is told again, and not computed again."""

        def down(one: Any) -> Any:
            scene.cache_errors.append(CacheUnavailable("down"))
            return one

        scene.model.answer = down
        assert scene.handle(message(1)) == Report(computed=1)
        assert scene.model.batches == [[1]]
        assert pauses == [0.1]

    def test_other_errors_are_not_for_asking_again(self, scene: Scene, pauses: list[float]) -> None:
        scene.cache_errors.append(ValueError("begin replied nonsense"))
        with pytest.raises(ValueError, match="nonsense"):
            scene.handle(message(1))
        assert pauses == []


def test_who_may_have_ended_a_worker_begins_again_with_nothing_beside_it(scene: Scene) -> None:
    scene.begun = deque([Begun(Begin.ISOLATE), Begun(Begin.RUN, "token-0", b"generatn", 9)])
    assert scene.handle(message("a")) == Report(computed=1)
    assert [call.args[7] for call in scene.calls("begin")] == [Alone.IN_PROCESS, Alone.IN_WORKER]
    assert scene.order == ["begin+watermark", "", "begin+watermark", "finish"]
    assert not scene.sent


def test_a_begin_says_where_the_worker_listens(scene: Scene) -> None:
    scene.handle(message("a", "b"))
    assert {call.args[15] for call in scene.calls("begin")} == {"t:worker:w1"}
    assert {call.args[7] for call in scene.calls("begin")} == {Alone.NO}


def retrying(scene: Scene, **options: Any) -> list[list[Any]]:
    """Have the model fail for the moment, as `scene.model.answer` says; return the batches that it is given."""

    class Retrying(Echo):
        name = "model"
        retry = Retry(**options)

    scene.loaded = model = Retrying()
    scene.runtime.models = {"model@1": Retrying}
    return model.batches


class TestAnotherTry:
    def test_is_given_to_what_failed_for_the_moment_and_the_others_do_not_wait(
        self, scene: Scene, pauses: list[float]
    ) -> None:
        batches = retrying(scene, attempts=3, first_s=1.0)
        away = deque([ConnectionError("away"), TransientFailure("busy"), "there"])
        scene.loaded.answer = lambda one: away.popleft() if one == "b" else one
        assert scene.handle(message("a", "b")) == Report(computed=2)
        assert batches == [["a", "b"], ["b"], ["b"]]
        assert scene.order == ["begin+watermark", "finish", "finish"]
        assert scene.told() == [("R", "a"), ("R", "there")]
        assert all(at_least / 2 <= pause <= at_least for pause, at_least in zip(pauses, (1.0, 2.0), strict=True))

    def test_ends_with_the_last_failure(self, scene: Scene, pauses: list[float]) -> None:
        batches = retrying(scene, attempts=2)
        scene.loaded.answer = lambda _: ConnectionError("away")
        assert scene.handle(message("a")) == Report(failed=1)
        assert batches == [["a"], ["a"]]
        assert len(pauses) == 1
        (kind, failure), = scene.told()  # fmt: skip
        assert (kind, failure["name"]) == ("F", "ModelFailed")

    @pytest.mark.parametrize("failure", [ValueError("x"), InvalidOutput("x"), KeyError(1)])
    def test_is_not_for_what_would_fail_again(self, scene: Scene, pauses: list[float], failure: Exception) -> None:
        batches = retrying(scene, attempts=5)
        scene.loaded.answer = lambda _: failure
        scene.handle(message("a"))
        assert batches == [["a"]]
        assert not pauses

    def test_is_not_begun_after_the_deadline(self, scene: Scene, pauses: list[float]) -> None:
        batches = retrying(scene, attempts=5, first_s=1.0)
        scene.loaded.answer = lambda _: ConnectionError("away")
        scene.begun = deque([Begun(Begin.RUN, "token-0", b"generatn", 9, deadline_left_ms=400)])
        scene.handle(message("a"))
        assert batches == [["a"]]
        assert not pauses


class TestDeadLetters:
    EXHAUSTED = Begun(Begin.EXHAUSTED, "token-0", b"generatn", 9, deaths=3, last_death="w1: signal 9")

    def test_say_what_was_given_up_and_why_before_the_failure_is_told(self, scene: Scene) -> None:
        scene.begun = deque([self.EXHAUSTED])
        sent = message("poison", "fine")
        assert scene.handle(sent) == Report(computed=1, failed=1)
        (letter,) = scene.letters
        assert (letter.key, letter.canonical) == (sent.items[0].key, sent.items[0].canonical)
        assert isinstance(letter.failure, TooManyAttempts)
        assert letter.failure.details == {"deaths": 3, "last": "w1: signal 9"}
        assert scene.order == ["begin+watermark", "publish", "finish"]

    def test_keep_no_input_if_the_deployment_says_so(self, scene: Scene) -> None:
        scene.runtime.settings = SETTINGS.model_copy(update={"dead_letter_inputs": False})
        scene.begun = deque([self.EXHAUSTED])
        scene.handle(message("poison"))
        assert scene.letters[0].canonical is None

    def test_that_cannot_be_sent_hold_nobody_up(self, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
        scene.broker_error = BrokerUnavailable("gone")
        scene.begun = deque([self.EXHAUSTED])
        assert scene.handle(message("poison")) == Report(failed=1)
        assert "no dead letter" in caplog.text
        assert "poison" not in caplog.text

    def test_are_written_once_however_often_the_input_is_asked_for(self, scene: Scene) -> None:
        for _ in range(3):
            scene.begun = deque([self.EXHAUSTED])
            assert scene.handle(message("poison")) == Report(failed=1)
        assert len(scene.letters) == 1

    def test_are_not_written_of_ordinary_failures(self, scene: Scene) -> None:
        scene.model.answer = lambda _: ValueError("x")
        scene.handle(message("a"))
        assert not scene.letters


class TestWhatNobodyWants:
    def test_is_handed_back_and_sent_again_in_case_somebody_has_come(self, scene: Scene) -> None:
        scene.is_wanted = False
        scene.model.answer = lambda one: one if all(wanted()) else Unwanted()
        sent = message("a", "b")
        assert scene.handle(sent) == Report(sent_again=1)
        assert scene.order == ["begin+watermark", "wanted", "give_up", "publish"]
        assert [call.args[:2] for call in scene.calls("give_up")] == [(HOLDER, 0)] * 2
        assert [item.key for item in scene.sent[0].items] == [item.key for item in sent.items]

    def test_is_not_known_while_the_cache_is_away(self, scene: Scene) -> None:
        def answer(one: Any) -> Any:
            scene.cache_errors = deque([CacheUnavailable("away")])
            return one if all(wanted()) else Unwanted()

        scene.is_wanted = False
        scene.model.answer = answer
        assert scene.handle(message("a")) == Report(computed=1)


class TestACallThatDoesNotEnd:
    """In a thread, where nothing can end it; `give_up_on` is called on another one."""

    def give_up_on(self, scene: Scene, monkeypatch: pytest.MonkeyPatch, sent: Message) -> None:
        def stuck(_model: Any, inputs: Sequence[Any], observer: Any) -> list[Any]:
            observer.stuck(range(len(inputs)))
            return [ANSWERED for _ in inputs]  # it ends at last

        class Limited(Echo):
            name = "model"
            limits = Limits(compute_s=0.5)

        scene.loaded, scene.runtime.models = Limited(), {"model@1": Limited}
        monkeypatch.setattr("workers.batches.compute", stuck)
        scene.handle(sent)

    def test_is_answered_for(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.give_up_on(scene, monkeypatch, message("a"))
        assert [(kind, told["name"]) for kind, told in scene.told()] == [("F", "TimeLimitExceeded")]
        assert len(scene.letters) == 1

    def test_is_not_renewed_any_more_nor_is_what_else_its_thread_was_to_compute(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.give_up_on(scene, monkeypatch, message("a"))
        assert scene.let_go == [HOLDER]

    def test_of_many_has_each_computed_alone(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.give_up_on(scene, monkeypatch, message("a", "b"))
        assert [call.args[:3] for call in scene.calls("give_up")] == [(HOLDER, 1, "took longer than 0.5 s")] * 2
        assert [len(each.items) for each in scene.sent] == [1, 1]
        assert not scene.letters


class Together:
    """Messages handled at once by threads of their own, put together while the model is held up by one before them.

    The first call is for that one; what `answer` does with the others comes after.
    """

    def __init__(self, scene: Scene, pool: ThreadPoolExecutor, model: Echo) -> None:
        self.scene, self.pool, self.model = scene, pool, model
        self.entered, self.go = threading.Event(), threading.Event()
        self.futures: list[Future[Report]] = []
        self.answer: Callable[[Any], Any] = lambda one: one
        self.gathering: Gathering[Any] = Gathering(Batching(max_batch_size=8, max_wait_s=1000.0))
        scene.loaded, scene.runtime.models = model, {"model@1": type(model)}
        scene.runtime.shares_calls = True
        scene.runtime.gathering = lambda _: self.gathering
        model.answer = self.compute

    def compute(self, one: Any) -> Any:
        if one != "first":
            return self.answer(one)
        self.entered.set()
        assert self.go.wait(20)
        return one

    def handle(self, *messages: Message) -> list[Any]:
        """Return what each came to: its report, or what it raised."""
        first = self.pool.submit(self.scene.handle, message("first"), "holder-0")
        assert self.entered.wait(20)
        for n, one in enumerate(messages):
            before = len(self.gathering._gathered.waiting)
            self.futures.append(self.pool.submit(self.scene.handle, one, f"holder-{n + 1}"))
            self.until(lambda before=before: len(self.gathering._gathered.waiting) > before)  # type: ignore[misc]
        self.scene.events.clear()
        self.model.batches.clear()
        self.go.set()
        outcomes = [future.exception(20) or future.result() for future in self.futures]
        assert first.result(20) == Report(computed=1)
        return outcomes

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def finishes(self) -> list[set[Any]]:
        """Return, for each round trip that told outcomes, the holders that it told them for."""
        trips = [
            [call.args[2] for call in calls if call.script.name == "finish"]
            for what, calls in self.scene.events
            if what == "ask"
        ]
        return [set(trip) for trip in trips if trip and trip != ["holder-0"]]


@pytest.fixture
def together(scene: Scene) -> Iterator[Together]:
    with ThreadPoolExecutor(8) as pool:
        together = Together(scene, pool, Echo())
        yield together
        together.go.set()


class TestMessagesComputedTogether:
    def test_are_told_in_one_round_trip_and_reported_each(self, together: Together) -> None:
        assert together.handle(message("a"), message("b", "c")) == [Report(computed=1), Report(computed=2)]
        assert together.model.batches == [["a", "b", "c"]]
        assert together.finishes() == [{"holder-1", "holder-2"}]

    def test_are_begun_in_company_though_one_item_is_all_they_have(self, together: Together, scene: Scene) -> None:
        assert together.scene.handle(message("a")) == Report(computed=1)
        assert [call.args[7] for call in scene.calls("begin")] == [Alone.NO]

    def test_a_bad_item_fails_alone(self, together: Together) -> None:
        together.answer = lambda one: 1 // one
        assert together.handle(message(1), message(0), message(2)) == [
            Report(computed=1), Report(failed=1), Report(computed=1),
        ]  # fmt: skip
        assert together.model.batches == [[1, 0, 2], [1], [0], [2]]
        assert together.finishes() == [{"holder-1", "holder-2", "holder-3"}]

    def test_suspects_share_no_call(self, together: Together, scene: Scene) -> None:
        """Begun again alone, and computed at once, whatever runs: its death is to count against it alone."""
        scene.begun = deque([Begun(Begin.ALONE), Begun(Begin.RUN, "token-0", b"generatn", 9)])
        first = together.pool.submit(scene.handle, message("suspect"))
        assert first.result(20) == Report(computed=1)
        assert [call.args[7] for call in scene.calls("begin")] == [Alone.NO, Alone.IN_PROCESS]
        assert together.gathering._gathered._running == 0
        assert scene.sent == []
        scene.events.clear()
        scene.begun = deque([Begun(Begin.ALONE), Begun(Begin.ISOLATE), Begun(Begin.RUN, "token-0", b"generatn", 9)])
        assert scene.handle(message("suspect")) == Report(computed=1)
        assert [call.args[7] for call in scene.calls("begin")] == [Alone.NO, Alone.IN_PROCESS, Alone.IN_WORKER]

    def test_suspects_are_not_put_with_what_waits(self, together: Together, scene: Scene) -> None:
        blocked = together.pool.submit(scene.handle, message("first"), "holder-0")
        assert together.entered.wait(20)
        scene.begun = deque([Begun(Begin.ALONE), Begun(Begin.RUN, "token-0", b"generatn", 9)])
        assert scene.handle(message("suspect")) == Report(computed=1)
        assert not blocked.done()  # the model was busy all the while
        together.go.set()
        blocked.result(20)

    def test_memory_that_runs_out_is_everybodys_who_shared_the_call(self, together: Together) -> None:
        def exhaust(one: Any) -> Any:
            if one == "large":
                raise MemoryError
            return one

        together.answer = exhaust
        outcomes = together.handle(message("a"), message("large"), message("b", "c"))
        assert [type(outcome) for outcome in outcomes] == [MemoryError] * 3
        assert together.finishes() == []

    def test_a_cache_that_cannot_be_told_sends_every_message_back(
        self, together: Together, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def down(_calls: Any) -> Any:
            raise CacheUnavailable("down")

        def answer(one: Any) -> Any:
            monkeypatch.setattr(scene.runtime.cache, "run", down)
            return one

        monkeypatch.setattr("workers.patience._RETRY_S", (0.0,))
        first_told = threading.Event()
        run = scene.run

        def seen(calls: Sequence[Call[Any]]) -> list[Any]:
            replies = run(calls)
            if [call.args[2] for call in calls if call.script.name == "finish"] == ["holder-0"]:
                first_told.set()
            return replies

        scene.runtime.cache.run = seen
        together.answer = lambda one: first_told.wait(20) and answer(one)
        outcomes = together.handle(message("a"), message("b"))
        assert [type(outcome) for outcome in outcomes] == [CacheUnavailable] * 2

    def test_only_what_failed_for_the_moment_is_tried_again(self, scene: Scene) -> None:
        class Retrying(Echo):
            name = "model"
            retry = Retry(attempts=2, first_s=0.001)

        with ThreadPoolExecutor(8) as pool:
            together = Together(scene, pool, Retrying())
            tried = deque([ConnectionError("away")])
            together.answer = lambda one: tried.popleft() if one == "b" and tried else one
            assert together.handle(message("a"), message("b")) == [Report(computed=1), Report(computed=1)]
            assert together.model.batches == [["a", "b"], ["b"]]
            assert together.finishes() == [{"holder-1"}, {"holder-2"}]

    def test_the_higher_priority_of_their_messages_goes_first(self, together: Together) -> None:
        assert together.handle(message("low", priority=0), message("high", priority=9)) == [Report(computed=1)] * 2
        assert together.model.batches == [["high", "low"]]

    def test_each_item_is_asked_for_under_its_own_holder(self, together: Together, scene: Scene) -> None:
        together.answer = lambda one: one if all(wanted()) else Unwanted()
        assert together.handle(message("a"), message("b")) == [Report(computed=1)] * 2
        assert [call.args for call in scene.calls("wanted")] == [("holder-1",), ("holder-2",)]


class TestADeadlineThatPassesBeforeItsCall:
    """Who has joined meanwhile may have a later one, or none: begin knows, and is asked again."""

    @pytest.fixture
    def sent(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Message:
        """The fourth is for a second call, and has half the time that the first one takes."""
        now = [0.0]
        set_clock(monkeypatch, SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: now[0]))

        def answer(one: Any) -> Any:
            now[0] += 0.3
            return one

        scene.model.answer = answer
        run = Begun(Begin.RUN, "token-0", b"generatn", 9)
        scene.begun = deque([run, run, run, run._replace(deadline_left_ms=450)])
        return message("a", "b", "c", "late")

    def test_is_told(self, scene: Scene, sent: Message) -> None:
        scene.begun.append(Begun(Begin.EXPIRED, "token-0", b"generatn", 9))
        assert scene.handle(sent) == Report(computed=3, failed=1)
        assert scene.model.batches == [["a", "b", "c"]]
        assert scene.told()[-1][1]["name"] == DeadlineExceeded.__name__
        assert scene.order == ["begin+watermark", "finish", "give_up", "begin+watermark", "finish"]
        assert [call.args[:2] for call in scene.calls("give_up")] == [(HOLDER, 0)]

    def test_is_no_longer_that_of_all_who_joined(self, scene: Scene, sent: Message) -> None:
        scene.begun.append(Begun(Begin.RUN, "token-0", b"generatn", 10))
        assert scene.handle(sent) == Report(computed=4)
        assert scene.model.batches == [["a", "b", "c"], ["late"]]


class TestACallForManyThatDoesNotEnd:
    """Its thread is lost; those of the other messages are not."""

    def give_up(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, *messages: Message, places: list[int]
    ) -> list[Any]:
        class Limited(Echo):
            name = "model"
            limits = Limits(compute_s=0.5)

        real = compute

        def stuck(model: Any, inputs: Sequence[Any], observer: Any) -> list[Any]:
            if list(inputs) == ["first"]:
                return real(model, inputs, observer)

            def answer() -> None:
                with suppress(BrokerUnavailable):
                    observer.stuck(places)

            answering = threading.Thread(target=answer)
            answering.start()
            answering.join()
            # It comes back at last; the thread that only waited for it is gone by then.
            assert wait(together.futures, 20, FIRST_COMPLETED).done
            return [ANSWERED for _ in inputs]

        monkeypatch.setattr("workers.batches.compute", stuck)
        with ThreadPoolExecutor(8) as pool:
            together = Together(scene, pool, Limited())
            return together.handle(*messages)

    def test_is_everybodys_to_be_delivered_again_if_it_cannot_be_answered_for(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.broker_error = BrokerUnavailable("down")
        outcomes = self.give_up(scene, monkeypatch, message("a"), message("b"), places=[0, 1])
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 2

    def test_is_answered_for_whatever_message_they_came_in(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        outcomes = self.give_up(scene, monkeypatch, message("a"), message("b", "c"), places=[0, 1, 2])
        assert outcomes == [Report(), Report()]
        assert len(scene.let_go) == 1  # whose thread is lost
        given_up = [call.args[:3] for call in scene.calls("give_up")]
        why = "took longer than 0.5 s"
        assert given_up == [("holder-1", 1, why), ("holder-2", 1, why), ("holder-2", 1, why)]
        assert [len(each.items) for each in scene.sent] == [1, 1, 1]
        assert scene.calls("finish") == [call for call in scene.calls("finish") if call.args[2] == "holder-0"]

    def test_alone_of_its_batch_is_told_and_the_others_are_sent_again(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch that raised is computed item by item, and one of those does not end: nobody else tells the others."""
        outcomes = self.give_up(scene, monkeypatch, message("a"), message("b", "c"), places=[1])
        assert outcomes == [Report(), Report()]
        assert [told["name"] for kind, told in scene.told() if kind == "F"] == ["TimeLimitExceeded"]
        assert [call.args[:2] for call in scene.calls("give_up")] == [("holder-1", 0), ("holder-2", 0)]
        assert [len(each.items) for each in scene.sent] == [1, 1]
        assert len(scene.letters) == 1


class TestVersionsThatAreGone:
    @pytest.fixture(autouse=True)
    def gone(self, scene: Scene) -> None:
        scene.runtime.models = {}
        scene.pointer = b"2"

    def joined(self, *, publish: bool = True) -> Joined:
        return Joined(publish, publish, "b" * 16, 7, 1000, 5000, 0, 6)

    def test_who_named_the_version_is_told_which_is_current(self, scene: Scene) -> None:
        assert scene.handle(message(1, 2)) == Report(failed=2)
        told = [failure for _, failure in scene.told()]
        assert [(failure["name"], failure["details"]) for failure in told] == [("VersionGone", {"current": "2"})] * 2
        assert "which means model@2 now" in told[0]["message"]
        assert scene.expiries_ms() == [0, 0]
        assert [call.args[-1] for call in scene.calls("finish")] == [1, 1]
        assert not scene.calls("join")

    def test_who_asked_by_the_bare_name_is_passed_on_before_anybody_is_told(self, scene: Scene) -> None:
        scene.finished.extend([Finished(Finish.BARE), Finished(Finish.TOLD), Finished(Finish.TOLD)])
        scene.joined.append(self.joined())
        assert scene.handle(message(1, 2)) == Report(failed=2)
        steps = [(what, [getattr(each, "script", each) for each in told]) for what, told in scene.events]
        (published,) = [told[0] for what, told in scene.events if what == "publish"]
        (join,) = scene.calls("join")
        key = key_of("model", "2", canonicalize(1))
        assert published.model_id == "model@2"
        assert published.items == (Item(key, "b" * 16, 7, 0, canonicalize(1)),)
        assert (published.sent_ms, published.priority) == (5000, 6)
        assert join.keys[3] == scene.flights.space.flight(key)
        assert join.args[4] == "", "nobody to push to"
        assert join.args[-1] == "1", "and so it is passed on again, should that version end too"
        order = [what if what == "publish" else told[0].name for what, told in steps]
        assert order[-5:] == ["finish", "join", "publish", "published", "finish"]
        assert [call.args[-1] for call in scene.calls("finish")] == [1, 1, 0]

    def test_what_the_current_version_has_or_computes_is_not_sent_again(self, scene: Scene) -> None:
        scene.finished.extend([Finished(Finish.BARE)] * 2)
        scene.joined.extend([Hit(b"entry"), self.joined(publish=False)])
        scene.handle(message(1, 2))
        assert not [told for what, told in scene.events if what == "publish" and told]
        assert len(scene.calls("finish")) == 4

    def test_nobody_is_told_if_it_could_not_be_passed_on(self, scene: Scene) -> None:
        scene.finished.append(Finished(Finish.BARE))
        scene.joined.append(self.joined())
        scene.broker_error = BrokerUnavailable("away")
        with pytest.raises(BrokerUnavailable):
            scene.handle(message(1))
        assert [call.args[-1] for call in scene.calls("finish")] == [1]

    @pytest.mark.parametrize("pointer", [None, b"1", b"no version"])
    def test_where_none_has_taken_its_place_it_is_handed_back(self, scene: Scene, pointer: bytes | None) -> None:
        scene.pointer = pointer
        with pytest.raises(NotServed):
            scene.handle(message(1))
        assert not scene.calls("begin")
