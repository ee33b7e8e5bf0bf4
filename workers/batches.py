"""Computing what deliveries have begun: a delivery's runs by themselves, or with those that other threads bring."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from foreseen.canonical import restore
from foreseen.errors import CacheUnavailable, InputRefused, MalformedMessage, Misconfigured, UnsupportedLayout
from foreseen.measures import ITEMS, MODEL_CALL
from workers.compute import ANSWERED, Unkept, compute
from workers.gathering import Answered
from workers.outcomes import Outcomes
from workers.run import LATE, Run
from workers.runtime import Runtime

__all__ = ["Batches"]


class Batches:
    """Computes runs of one model, and has their outcomes told.

    Args:
        runtime: of the process.
        outcomes: tells them.
        holder: of the delivery whose thread this is.
    """

    def __init__(self, runtime: Runtime, outcomes: Outcomes, holder: str) -> None:
        self._runtime = runtime
        self._outcomes = outcomes
        self._holder = holder

    def compute(self, runs: Sequence[Run], *, share: bool) -> None:
        """Have each run of a delivery computed and told, in batches of the model's size.

        Those that have an outcome are only told.

        Args:
            runs: at least one.
            share: with those that other threads of this process bring meanwhile.

        Raises:
            CacheUnavailable, UnsupportedLayout: one of them could not be told.
            BaseException: what ended a call of the model that computed one of them: see `workers.compute`.
        """
        model_id = runs[0].delivery.message.model_id
        waiting = [run for run in runs if run.outcome is None]
        refused = [run for run in runs if run.outcome is not None]
        if waiting and not share:
            size = self._runtime.models[model_id].batching.max_batch_size
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                self.call(batch, _let_nobody_go)
                self.tell([*refused, *batch])
                refused = []
        if refused:
            self.tell(refused)
        if waiting and share:
            self._runtime.gathering(model_id).compute(waiting, self)

    def call(self, batch: Sequence[Run], answered: Answered) -> None:
        """Give each run its outcome, in one call of the model.

        Args:
            batch: of any deliveries.
            answered: called on another thread, should the call not end.
        """
        inputs: list[Any] = []
        readable: list[Run] = []
        now = time.monotonic()
        for run in batch:
            if run.deadline_at <= now:
                run.outcome = LATE
                continue
            try:
                inputs.append(restore(run.item.canonical.text, run.item.canonical.blobs))
                readable.append(run)
            except (MalformedMessage, Misconfigured) as error:
                run.outcome = InputRefused(f"{run.item.key.short}: {error}")
        if not inputs:
            return
        model: Any = self._runtime.model(batch[0].delivery.message.model_id)
        spans = self._runtime.spans
        began = time.perf_counter()
        with spans.call(readable) if spans is not None else nullcontext():
            outcomes = compute(model, inputs, _Observer(self, batch, readable, answered))
        took_s = time.perf_counter() - began
        self._runtime.measures.note(model.model_id(), MODEL_CALL, took_s)
        self._runtime.measures.note(model.model_id(), ITEMS, len(readable))
        cost_us = round(took_s * 1e6 / len(readable))
        for run, outcome in zip(readable, outcomes, strict=True):
            run.is_kept = not isinstance(outcome, Unkept)
            run.outcome = outcome.output if isinstance(outcome, Unkept) else outcome
            run.cost_us = min(cost_us, 2**32 - 1)

    def tell(self, batch: Sequence[Run]) -> None:
        """Tell the outcomes of a batch."""
        self._outcomes.tell(batch)

    def wanted(self, runs: Sequence[Run]) -> list[bool]:
        """Tell for each whether anybody wants it still; all are of whom the cache cannot say."""
        wanted = self._runtime.flights.wanted
        asked = [run for run in runs if not run.is_direct]
        try:
            told = self._runtime.cache.run([wanted(run.item.key, run.delivery.holder) for run in asked])
        except (CacheUnavailable, UnsupportedLayout):
            return [True] * len(runs)
        unwanted = {id(run) for run, is_wanted in zip(asked, told, strict=True) if not is_wanted}
        return [id(run) not in unwanted for run in runs]

    def give_up_on(self, stuck: Sequence[Run], others: Sequence[Run], answered: Answered) -> None:
        """Answer for a call that does not end, and let those go who wait for it."""
        if self._runtime.leases is not None:
            self._runtime.leases.remove(self._holder)  # whatever else this thread was to compute: it is lost
        try:
            self._outcomes.give_up_on(stuck, others)
        except BaseException as error:
            answered(error)
            raise
        for run in (*stuck, *others):
            run.outcome = ANSWERED
        answered(None)


class _Observer(NamedTuple):
    """What a batch's computation can ask and tell: of `readable`, which are what the model gets of `batch`."""

    batches: Batches
    batch: Sequence[Run]
    readable: Sequence[Run]
    answered: Answered

    def wanted(self, places: Sequence[int]) -> list[bool]:
        return self.batches.wanted([self.readable[place] for place in places])

    def stuck(self, places: Sequence[int]) -> None:
        stuck = [self.readable[place] for place in places]
        others = [run for run in self.batch if run not in stuck]
        self.batches.give_up_on(stuck, others, self.answered)


def _let_nobody_go(error: BaseException | None) -> None:
    """Nobody waits for this call but the thread that makes it."""
