"""The features of a batch of inputs: those that are kept, those computed here, those that another process is computing.

Looked up and begun in one round trip, for the whole batch; what is to be computed here is one batch, told to everybody
before the model over it runs. A stage's flight needs no message: whoever needs the features begins it, and if its
process dies, the lease lapses and the next who needs them begins it again. Deaths are counted against the model's own
input, and not here.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from foreseen.canonical import restore
from foreseen.client.submission import Answer, Submission
from foreseen.entry import Entry
from foreseen.errors import (
    ForeseenError,
    InputRefused,
    InvalidOutput,
    MalformedEntry,
    MalformedMessage,
    Misconfigured,
    PredictionFailed,
    PredictionTimeout,
)
from foreseen.flights import Call, Kind, nonce
from foreseen.holding import Alone, Begin, Begun
from foreseen.keys import Key, key_of
from foreseen.message import Item, Message
from foreseen.outcome import Failure, Result
from foreseen.outcome import Outcome as Told
from foreseen.payload import pack, unpack
from workers.compute import ANSWERED, Observer, Outcome, Unkept, compute
from workers.leases import Holding
from workers.model import Model
from workers.outcomes import Outcomes
from workers.patience import insist
from workers.run import Delivery, Run, refusal_of
from workers.runtime import Runtime
from workers.stage import Stage
from workers.wanted import Unwanted

__all__ = ["Features"]

log = logging.getLogger("foreseen.worker")

#: How long features are waited for that another process is computing, before they are computed here too: a stage
#: takes milliseconds as a rule, and a process that is stopped is not to hold up a second one for a whole lease.
_FOLLOW_S: Final = 2.0


class Features:
    """Prepares what a model's call needs.

    Args:
        runtime: of the process.
        outcomes: tells the stage's own.
        stage: of the model.
        observing: returns the observer of a computation of the stage for these runs of the model.
    """

    def __init__(
        self,
        runtime: Runtime,
        outcomes: Outcomes,
        stage: type[Stage[Any, Any]],
        observing: Callable[[Sequence[Run]], Observer],
    ) -> None:
        self._runtime = runtime
        self._outcomes = outcomes
        self._stage = stage
        self._observing = observing

    def of(self, runs: Sequence[Run]) -> list[Any]:
        """Return each run's features as they travel, or what stands in their place.

        That is a `PredictionFailed`, `Unwanted` or `ANSWERED`: then it is what the run comes to.

        Raises:
            CacheUnavailable, UnsupportedLayout: the stage's flights could not be begun or told.
            BaseException: what ended the stage's computation: see `workers.compute`.
        """
        features: dict[str, Any] = {}
        alone = [run for run in runs if run.is_direct]  # without the cache
        first: dict[str, Run] = {}
        for run in runs:
            if not run.is_direct:
                first.setdefault(run.item.key.digest, run)
        if first:
            find = self._from_others if self._stage.apart else self._from_cache
            alone += find(list(first.values()), features)
        if alone:
            computed = self._compute(alone)
            features |= {run.item.key.digest: _as_it_travels(each) for run, each in zip(alone, computed, strict=True)}
        return [features[run.item.key.digest] for run in runs]

    def _from_cache(self, runs: Sequence[Run], features: dict[str, Any]) -> list[Run]:
        """Put in features that are kept, or computed here or elsewhere; return for whom they are computed unkept."""
        leading: list[tuple[Run, Run]] = []
        following: list[tuple[Run, Key]] = []
        alone: list[Run] = []
        for run, key, found, begun, delivery in self._begin(runs):
            if begun.code in {Begin.RUN, Begin.EXPIRED, Begin.EXHAUSTED}:
                item = Item(key, begun.token, 0, 0, run.item.canonical)
                own = Run(delivery, item, begun, refusal_of(begun, item), attempt=self._stage.retry.attempts)
                leading.append((run, own))
                if begun.code is Begin.EXPIRED:  # somebody else's deadline
                    alone.append(run)
            elif begun.code in {Begin.ALONE, Begin.ISOLATE}:
                alone.append(run)
            elif (outcome := self._read(key, found)) is None:
                following.append((run, key))
            else:
                features[run.item.key.digest] = _of(outcome)
        if leading:
            features |= self._lead(leading)
        if following:
            alone += self._follow(following, features)
        return alone

    def _from_others(self, runs: Sequence[Run], features: dict[str, Any]) -> list[Run]:
        """Put in features that workers of the stage's own have computed; return for whom there are none."""
        keys = [key_of(self._stage.name, self._stage.version, run.item.canonical) for run in runs]
        found = insist(self._runtime.cache, [self._runtime.flights.peek(key) for key in keys])
        for run, key, data in zip(runs, keys, found, strict=True):
            if (outcome := self._read(key, data)) is not None:
                features[run.item.key.digest] = _of(outcome)
        return [run for run in runs if run.item.key.digest not in features]

    def _begin(self, runs: Sequence[Run]) -> list[tuple[Run, Key, bytes | None, Begun, Delivery]]:
        """Look up what is kept and begin what is not: in one round trip."""
        flights, stage = self._runtime.flights, self._stage
        keys = [key_of(stage.name, stage.version, run.item.canonical) for run in runs]
        holder = nonce()
        calls: list[Call[Any]] = []
        deliveries: list[Delivery] = []
        for run, key in zip(runs, keys, strict=True):
            item = Item(key, nonce(), 0, 0, run.item.canonical)
            message = Message(stage.model_id(), (item,), 0, run.priority)
            deliveries.append(Delivery(message, holder))
            calls += [
                flights.peek(key),
                flights.begin(key, item.token, 0, 0, run.priority, holder, message.id, alone=Alone.NO),
            ]
        replies = insist(self._runtime.cache, calls)
        return list(zip(runs, keys, replies[::2], replies[1::2], deliveries, strict=True))

    def _lead(self, leading: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
        """Compute what this process has begun, and tell it; return features."""
        computing = [(run, own) for run, own in leading if own.outcome is None]
        holder = leading[0][1].delivery.holder
        leases = self._runtime.own_leases()
        leases.add(Holding(holder, [own.item.key for _, own in leading]))
        try:
            began = time.perf_counter()
            outcomes = self._compute([run for run, _ in computing])
            cost_us = round((time.perf_counter() - began) * 1e6 / max(1, len(computing)))
            for (_, own), outcome in zip(computing, outcomes, strict=True):
                own.is_kept = not isinstance(outcome, Unkept)
                own.outcome = outcome.output if isinstance(outcome, Unkept) else outcome
                own.cost_us = min(cost_us, 2**32 - 1)
            self._outcomes.tell([own for _, own in leading])
        finally:
            leases.remove(holder)
        return {run.item.key.digest: _as_it_travels(own.outcome) for run, own in leading}

    def _compute(self, runs: Sequence[Run]) -> list[Outcome]:
        """Have the stage compute, in batches of its size."""
        stage: Any = self._runtime.model(self._stage.model_id())
        if not isinstance(stage, Model):
            return [stage for _ in runs]
        outcomes: list[Outcome] = [None] * len(runs)
        values: list[Any] = []
        places: list[int] = []
        for place, run in enumerate(runs):
            try:
                values.append(restore(run.item.canonical.text, run.item.canonical.blobs))
                places.append(place)
            except (MalformedMessage, Misconfigured) as error:
                outcomes[place] = InputRefused(f"{run.item.key.short}: {error}")
        size = stage.batching.max_batch_size
        for start in range(0, len(places), size):
            part = places[start : start + size]
            computed = compute(stage, values[start : start + size], self._observing([runs[place] for place in part]))
            if any(each is ANSWERED for each in computed):  # and so is the model's whole batch
                return [ANSWERED for _ in runs]
            for place, outcome in zip(part, computed, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _follow(self, following: Sequence[tuple[Run, Key]], features: dict[str, Any]) -> list[Run]:
        """Wait for what another process is computing; return for whom that takes too long, or cannot be heard."""
        submissions = [
            Submission(key, run.item.canonical, Kind.WAITER, priority=run.priority) for run, key in following
        ]
        digests = {each: run.item.key.digest for each, (run, _) in zip(submissions, following, strict=True)}
        told: queue.SimpleQueue[tuple[Submission, Answer]] = queue.SimpleQueue()
        until = time.monotonic() + _FOLLOW_S
        try:
            client = self._runtime.client()
            client.run(client.engine.submit(submissions))
        except ForeseenError as error:
            log.info("features that are computed elsewhere cannot be waited for: %s", error)
            return [run for run, _ in following]
        client.listen()
        for each in submissions:
            client.engine.table.watch(each, lambda answer, each=each: told.put((each, answer)))  # type: ignore[misc]
        try:
            for _ in submissions:
                each, answer = told.get(timeout=max(0.0, until - time.monotonic()))
                if isinstance(answer, (Result, Failure)):
                    features[digests[each]] = _of(answer)
        except queue.Empty:
            client.leave_soon([each for each in submissions if each.answer is None], PredictionTimeout("computed here"))
        return [run for run, _ in following if run.item.key.digest not in features]

    def _read(self, key: Key, data: bytes | None) -> Told | None:
        """Return what an entry holds, and count the hit; None if there is none, or it cannot be read."""
        if data is None:
            return None
        settings = self._runtime.settings
        keyring = settings.keyring()
        try:
            entry = Entry.decode(data)
            entry = keyring.open(key, entry) if keyring else entry
            outcome = entry.plain(settings.max_entry_bytes).outcome()
        except (MalformedEntry, Misconfigured):
            return None
        self._runtime.client().engine.count_hit(key, data)
        return outcome


def _of(outcome: Told) -> Any:
    return outcome.value if isinstance(outcome, Result) else outcome.error


def _as_it_travels(outcome: Outcome) -> Any:
    """Return features that were just computed as whoever reads their entry gets them: the model is given the same."""
    output = outcome.output if isinstance(outcome, Unkept) else outcome
    if output is ANSWERED or isinstance(output, (PredictionFailed, Unwanted)):
        return output
    try:
        return unpack(pack(output))
    except (TypeError, ValueError, OverflowError) as error:
        return InvalidOutput(f"The features cannot travel: {error}")
