"""What a model says beside what it computes: what is kept, put together, too much, and worth another try."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from foreseen.errors import Misconfigured, PredictionFailed

__all__ = ["Batching", "CachePolicy", "FailureExpiry", "Limits", "Retry"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class FailureExpiry:
    """How long failures are kept, by what they say of the next try. 0 keeps none of a kind.

    Attributes:
        permanent_s: of those that come again for the same input: the model raised, its output does not fit.
        transient_s: of those that pass by themselves: a `TransientFailure`, and what `Retry(on=…)` names. Workers have
            tried again by then; short, so that the next who asks is computed, and not 0, so that a crowd of them waits.
        poison_s: of inputs that cost processes or time: `TooManyAttempts`, `TimeLimitExceeded`.

    Raises:
        Misconfigured: a value out of range.
    """

    permanent_s: float = 5.0
    transient_s: float = 1.0
    poison_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not _is_number(value) or value < 0:
                raise Misconfigured(f"FailureExpiry({name}={value!r}): give seconds, such as 5, or 0 to keep none")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long a model's predictions are kept.

    Attributes:
        expiry_s: seconds a result is kept; 0 keeps none (those who joined its flight are answered all the same).
        jitter: share of `expiry_s` by which expiries are spread, so that entries of one moment do not lapse together.
        failure_expiry_s: seconds a failure is kept, by its kind, or one number for all; 0 keeps none. A refresh that
            failed is not tried again within them.
        stale_s: seconds past `expiry_s` in which a result still answers, while it is computed again behind that.
        early_refresh: how eagerly a result that is asked for is computed again before it expires, by the XFetch rule:
            the dearer the computation and the nearer the expiry, the likelier. 1 is the rule's own choice, more is
            earlier, 0 never.
        compress_above_bytes: results larger than this are kept and pushed compressed, where that makes them at least a
            fifth smaller; None compresses none. Every producer needs `foreseen[compression]`, too.
        near: producers with a near cache may keep entries there, which costs up to a second after a purge.
        audit_tolerance: how far floats of an output that is computed again may be from its entry's, anywhere in it: for
            numbers below 1 absolutely, above in proportion; all else must be equal. None: what is computed differs by
            nature, and is never audited.

    Raises:
        Misconfigured: a value out of range.
    """

    expiry_s: float = 600.0
    jitter: float = 0.1
    failure_expiry_s: FailureExpiry | float = FailureExpiry()
    stale_s: float = 0.0
    early_refresh: float = 0.0
    compress_above_bytes: int | None = None
    near: bool = True
    audit_tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        for name in ("expiry_s", "failure_expiry_s", "stale_s"):
            value = getattr(self, name)
            if name == "failure_expiry_s" and isinstance(value, FailureExpiry):
                continue
            if not _is_number(value) or value < 0:
                raise Misconfigured(f"CachePolicy({name}={value!r}): give seconds, such as 600, or 0 to keep none")
        if not _is_number(self.early_refresh) or self.early_refresh < 0:
            raise Misconfigured(f"CachePolicy(early_refresh={self.early_refresh!r}): give a factor, such as 1, or 0")
        if not _is_number(self.jitter) or not 0 <= self.jitter < 1:
            raise Misconfigured(f"CachePolicy(jitter={self.jitter!r}): give a share from 0 to below 1, such as 0.1")
        above: Any = self.compress_above_bytes
        if above is not None and not (type(above) is int and above >= 0):
            raise Misconfigured(f"CachePolicy(compress_above_bytes={above!r}): give bytes, such as 4096, or None")
        if above is not None and find_spec("zstandard") is None:
            raise Misconfigured(f"CachePolicy(compress_above_bytes={above}): pip install 'foreseen[compression]' first")
        near: Any = self.near
        if not isinstance(near, bool):
            raise Misconfigured(f"CachePolicy(near={self.near!r}): give True, or False to keep nothing in producers")
        tolerance = self.audit_tolerance
        if tolerance is not None and (not _is_number(tolerance) or tolerance < 0):
            raise Misconfigured(
                f"CachePolicy(audit_tolerance={tolerance!r}): give a number, such as 1e-6, 0, or None to audit nothing"
            )

    @property
    def failures(self) -> FailureExpiry:
        """How long failures are kept, kind by kind."""
        told = self.failure_expiry_s
        return told if isinstance(told, FailureExpiry) else FailureExpiry(told, told, told)


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model's inputs are put together.

    Attributes:
        max_batch_size: the most inputs that one call of `predict` gets.
        max_wait_s: in a pool of threads, how long an input that comes while `predict` runs waits at most for others to
            come and for that call to end. While none runs it waits for nothing. 0 puts nothing together but what comes
            in one message.

    Raises:
        Misconfigured: a value out of range.
    """

    max_batch_size: int = 32
    max_wait_s: float = 0.005

    def __post_init__(self) -> None:
        if not _is_count(self.max_batch_size):
            raise Misconfigured(
                f"Batching(max_batch_size={self.max_batch_size!r}): give a whole number from 1 on, such as 32"
            )
        if not _is_number(self.max_wait_s) or self.max_wait_s < 0:
            raise Misconfigured(f"Batching(max_wait_s={self.max_wait_s!r}): give seconds, such as 0.005, or 0")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much.

    Attributes:
        compute_s: seconds that one call of `predict` may take; None is no limit. A batch that takes longer is computed
            again item by item; an item that does fails with `TimeLimitExceeded`.
        queued: messages, each of up to a batch of inputs, that may wait in the model's queue; a submission beyond is
            refused with `QueueFull`. None is no limit.

    Raises:
        Misconfigured: a value out of range.
    """

    compute_s: float | None = None
    queued: int | None = None

    def __post_init__(self) -> None:
        if self.compute_s is not None and (not _is_number(self.compute_s) or self.compute_s <= 0):
            raise Misconfigured(f"Limits(compute_s={self.compute_s!r}): give seconds, such as 30, or None for no limit")
        if self.queued is not None and not _is_count(self.queued):
            raise Misconfigured(f"Limits(queued={self.queued!r}): give a whole number from 1 on, or None for no limit")


@dataclass(frozen=True, slots=True)
class Retry:
    """Which failures are worth another try, and when. The delivery is held meanwhile, and its lease renewed.

    Attributes:
        attempts: how often an input is computed at most; 1 tries nothing again.
        first_s: seconds before the second attempt; each further pause is twice the last, half of it drawn by chance.
        most_s: the longest pause.
        on: exceptions of a model that pass by themselves. A `PredictionFailed` says so by its `retryable`.

    Raises:
        Misconfigured: a value out of range.
    """

    attempts: int = 3
    first_s: float = 0.2
    most_s: float = 5.0
    on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)

    def __post_init__(self) -> None:
        if not _is_count(self.attempts):
            raise Misconfigured(
                f"Retry(attempts={self.attempts!r}): give a whole number from 1 on; 1 tries nothing again"
            )
        for name in ("first_s", "most_s"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise Misconfigured(f"Retry({name}={value!r}): give seconds, such as 0.2")
        kinds: Any = self.on
        if not isinstance(kinds, tuple) or not all(_is_exception(kind) for kind in kinds):
            raise Misconfigured(f"Retry(on={self.on!r}): give a tuple of exception classes, such as (ConnectionError,)")

    def passes(self, failure: PredictionFailed) -> bool:
        """Tell whether a failure passes by itself."""
        return failure.retryable or isinstance(failure.__cause__, self.on)

    def pause_s(self, failure: PredictionFailed, attempt: int) -> float | None:
        """Return how long to wait before an input is computed again whose n-th attempt failed so; None: not at all."""
        if attempt >= self.attempts or not self.passes(failure):
            return None
        longest_s: float = min(self.most_s, self.first_s * 2 ** (attempt - 1))
        return longest_s * (0.5 + 0.5 * random.random())


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_exception(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)
