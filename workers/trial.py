"""The contract of a model, tried on inputs of its own: what workers, the cache and batches rely on.

An answer is kept under its input's key. So it must be a function of that input: not of what else is in the batch, of
the place in it, of what was asked before, or of the process that computes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice, takewhile
from typing import Any, Final

import jsonschema_rs

from foreseen.canonical import canonicalize, restore
from foreseen.errors import InvalidOutput, Misconfigured, PredictionFailed
from foreseen.payload import pack, unpack
from workers.compute import Outcome, Unkept, compute
from workers.contract import Check, Cost, Report, Verdict
from workers.deviation import deviation
from workers.functions import model_of
from workers.model import Model
from workers.warm_up import warm_up

__all__ = ["check_model"]

#: Enough calls to tell one batch size from another, short enough to wait for.
_ROUNDS: Final = 5
_ROUND_S: Final = 0.05
#: Outputs that differ by more were not computed from the same numbers: single precision rounds to 6e-8.
_ROUNDING: Final = 1e-5


class _Broken(Exception):
    """A check failed, and what it was about."""


def check_model(
    model: type[Model[Any, Any]] | Callable[..., Any],
    inputs: Sequence[Any] | None = None,
    *,
    tolerance: float | None = None,
    measure: bool = True,
) -> Report:
    """Try a model's contract.

    Args:
        model: a class, or a function that `as_model` made one.
        inputs: as a producer would send them; left out, the model's `examples`. The more they differ, the more is seen.
        tolerance: how far floats may be off, as `CachePolicy.audit_tolerance` tells it; left out, that of the model.
        measure: whether to measure what batch sizes cost.

    Raises:
        Misconfigured: it is no model, or there are no inputs.
    """
    cls = model_of(model) or model
    if not (isinstance(cls, type) and issubclass(cls, Model) and cls.is_complete()):
        raise Misconfigured(f"{model!r} is no model: a class such as FileType(Model[bytes, Label]) is one")
    values = [*(cls.examples if inputs is None else inputs)]
    if not values:
        raise Misconfigured(
            f"{cls.model_id()} has no examples to try: give the class some, examples = [first, second], "
            "or give inputs, two or more that differ"
        )
    trial = _Trial(cls, values, cls.cache.audit_tolerance if tolerance is None else tolerance)
    checks: list[Check] = []
    for check in trial.checks():
        checks.append(check)
        if check.verdict is Verdict.FAILED and check.name in trial.NEEDED:
            break
    passed = all(check.verdict is not Verdict.FAILED for check in checks)
    costs = tuple(trial.costs()) if measure and passed else ()
    trial.end()
    return Report(cls.model_id(), tuple(checks), costs, cls.batching.max_batch_size)


class _Trial:
    """A model on trial: its checks build on each other."""

    #: Without these there is nothing that later checks could look at.
    NEEDED: Final = frozenset({"loads", "inputs fit", "warms up", "outputs fit"})

    def __init__(self, cls: type[Model[Any, Any]], values: list[Any], tolerance: float | None) -> None:
        self._cls = cls
        self._sent = values
        self._tolerance = tolerance
        self._values: list[Any] = []  # as they come to a worker
        self._outputs: list[Any] = []
        self._model: Model[Any, Any] | None = None

    def checks(self) -> Iterator[Check]:
        """Yield the checks, each as it has been tried."""
        for name, attempt in (
            ("loads", self._loads),
            ("inputs fit", self._inputs_fit),
            ("warms up", self._warms_up),
            ("outputs fit", self._outputs_fit),
            ("deterministic", self._is_deterministic),
            ("batch equals single", self._batch_equals_single),
            ("order kept", self._keeps_order),
        ):
            try:
                verdict, seen = attempt()
            except _Broken as broken:
                verdict, seen = Verdict.FAILED, str(broken)
            yield Check(name, verdict, seen)

    def end(self) -> None:
        """Unload the model."""
        if self._model is not None:
            self._model.unload()

    def costs(self) -> list[Cost]:
        """Return what each batch size costs, from 1 on, doubling, to the largest that the model takes.

        All sizes are measured in each round, so that a machine that is busy for a while is so for all of them.
        """
        largest = self._cls.batching.max_batch_size
        sizes = [*takewhile(lambda size: size < largest, (2**power for power in count())), largest]
        best = dict.fromkeys(sizes, float("inf"))
        for _ in range(_ROUNDS):
            for size in sizes:
                batch = [*islice(cycle(self._values), size)]
                until = time.perf_counter() + _ROUND_S
                while True:
                    begun = time.perf_counter()
                    compute(self._loaded, batch)
                    ended = time.perf_counter()
                    best[size] = min(best[size], ended - begun)  # the others had to share the machine
                    if ended > until:
                        break
        return [Cost(size, call_s) for size, call_s in best.items()]

    @property
    def _loaded(self) -> Model[Any, Any]:
        assert self._model is not None  # noqa: S101 - "loads" is needed, and comes first
        return self._model

    def _loads(self) -> tuple[Verdict, str]:
        begun = time.perf_counter()
        self._model = self._load()
        return Verdict.PASSED, f"in {time.perf_counter() - begun:.2g} s"

    def _load(self) -> Model[Any, Any]:
        try:
            model = self._cls()
            model.load()
        except Exception as error:
            raise _Broken(_told(error)) from error
        return model

    def _inputs_fit(self) -> tuple[Verdict, str]:
        """Send each as a producer does: in canonical form, against the card's schema, and restored by a worker."""
        schema = jsonschema_rs.Draft202012Validator(self._cls.input_schema(), mask="the value")
        for number, value in enumerate(self._sent):
            try:
                canonical = canonicalize(value)
                schema.validate(json.loads(canonical.text))
                came = restore(*canonical)
                self._cls.validate_input(came)
            except Exception as error:
                raise _Broken(f"input {number}: {_told(error)}") from error
            self._values.append(came)
        return Verdict.PASSED, f"{_counted(len(self._values), 'input')}, as they travel"

    def _warms_up(self) -> tuple[Verdict, str]:
        begun = time.perf_counter()
        try:
            count = warm_up(self._loaded)
        except Exception as error:
            raise _Broken(_told(error)) from error
        if not count:
            return Verdict.UNTRIED, "the model has no examples"
        return Verdict.PASSED, f"with {_counted(count, 'example')} in {time.perf_counter() - begun:.2g} s"

    def _outputs_fit(self) -> tuple[Verdict, str]:
        outcomes = self._computed(self._loaded, self._values)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, PredictionFailed):
                raise _Broken(f"input {number}: {_told(outcome)}") from outcome
            self._outputs.append(outcome)
        return Verdict.PASSED, f"{_counted(len(outcomes), 'output')}, as they travel"

    def _is_deterministic(self) -> tuple[Verdict, str]:
        """Compute again, and once more in a copy loaded anew, as another process would have."""
        if self._tolerance is None:
            return Verdict.UNTRIED, "audit_tolerance=None says that what is computed differs by nature"
        self._compare(self._computed(self._loaded, self._values), "the same inputs again")
        anew = self._load()
        try:
            apart = self._compare(self._computed(anew, self._values), "the same inputs, by the model loaded anew,")
        finally:
            anew.unload()
        return Verdict.PASSED, f"again, and loaded anew: {_off(apart)}"

    def _batch_equals_single(self) -> tuple[Verdict, str]:
        largest = self._cls.batching.max_batch_size
        if largest == 1:
            return Verdict.PASSED, "max_batch_size=1: there are no batches"
        if self._tolerance is None:
            return Verdict.UNTRIED, "audit_tolerance=None says that what is computed differs by nature"
        alone = [self._computed(self._loaded, [value])[0] for value in self._values]
        self._compare(alone, "each input alone")
        filled = [*islice(cycle(self._values), max(largest, len(self._values)))]
        together = self._computed(self._loaded, filled)
        apart = max(map(deviation, together, cycle(map(_plain, alone))))
        if apart > self._tolerance:
            raise _Broken(f"a batch of {largest} gave {_off(apart)}. {_advice(apart)}")
        return Verdict.PASSED, f"a batch of {largest}: {_off(apart)}"

    def _keeps_order(self) -> tuple[Verdict, str]:
        if self._tolerance is None:
            return Verdict.UNTRIED, "audit_tolerance=None says that what is computed differs by nature"
        if all(deviation(output, self._outputs[0]) <= self._tolerance for output in self._outputs):
            return Verdict.UNTRIED, "all outputs are equal: give inputs whose outputs differ"
        backwards = self._computed(self._loaded, self._values[::-1])[::-1]
        self._compare(backwards, "the same inputs in another order")
        return Verdict.PASSED, f"{_counted(len(backwards), 'input')}, backwards"

    def _computed(self, model: Model[Any, Any], values: Sequence[Any]) -> list[Outcome]:
        """Compute in batches of the model's size; plain outputs, or failures."""
        size = self._cls.batching.max_batch_size
        batches = [values[start : start + size] for start in range(0, len(values), size)]
        return [_plain(outcome) for batch in batches for outcome in compute(model, batch)]

    def _compare(self, outcomes: Sequence[Outcome], what: str) -> float:
        """Return how far outcomes are from the first ones."""
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, PredictionFailed):
                raise _Broken(f"{what}: input {number}: {_told(outcome)}") from outcome
        apart = max(map(deviation, outcomes, self._outputs))
        if self._tolerance is not None and apart > self._tolerance:
            raise _Broken(f"{what} gave {_off(apart)}. {_advice(apart)}")
        return apart


def _plain(outcome: Outcome) -> Any:
    """Return an output as it travels, whether or not it would be kept; a failure as it is."""
    plain = outcome.output if isinstance(outcome, Unkept) else outcome
    if isinstance(plain, PredictionFailed):
        return plain
    try:
        return unpack(pack(plain))
    except (TypeError, ValueError) as error:
        return InvalidOutput(str(error))


def _told(error: BaseException) -> str:
    message = str(error).strip()
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _off(apart: float) -> str:
    if apart == 0:
        return "the same"
    return f"outputs {apart:.2g} off" if apart < float("inf") else "other outputs"


def _advice(apart: float) -> str:
    if apart < _ROUNDING:
        power = next(power for power in range(-15, 1) if 10.0**power >= 2 * apart)
        return f"If that is rounding, say so: CachePolicy(audit_tolerance=1e{power})"
    return "An answer is kept under its input's key, and may depend on nothing else"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
