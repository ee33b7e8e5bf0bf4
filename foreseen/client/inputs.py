"""From an application's inputs to submissions: canonical forms, keys, and what else was asked, looked over; no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from foreseen.canonical import CanonicalInput, canonicalize
from foreseen.client.submission import DEFAULT_PRIORITY, Submission
from foreseen.client.watch import Watch
from foreseen.errors import InvalidInput
from foreseen.flights import Kind
from foreseen.keys import key_of, keys_of
from foreseen.message import MAX_PRIORITY
from foreseen.tags import Tags, tags_of

__all__ = ["Inputs"]

#: Beyond, a double is not exact; the model's own expiry is shorter anyway.
_LONGEST_MS: Final = 2**53 - 1


class Inputs:
    """Makes submissions of inputs.

    Args:
        max_bytes: how large an input's canonical form may be, blobs included.
        watch: is told of each submission, where somebody wants to see them.
    """

    def __init__(self, max_bytes: int, watch: Watch | None) -> None:
        self._max_bytes = max_bytes
        self._watch = watch

    def canonical(self, value: Any) -> CanonicalInput:
        """Return the input's canonical form.

        Raises:
            InvalidInput: it has none, or is too large.
        """
        canonical = canonicalize(value)
        if canonical.blobs or len(canonical.text) > self._max_bytes:
            self._check_size(canonical)
        return canonical

    def _check_size(self, canonical: CanonicalInput) -> None:
        size = len(canonical.text) + sum(map(len, canonical.blobs))
        if size > self._max_bytes:
            raise InvalidInput(f"The input has {size} bytes; FORESEEN_MAX_INPUT_BYTES allows {self._max_bytes}.")

    def submission(
        self,
        found: tuple[str, str],
        data: Any,
        kind: Kind,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
        bare: bool = False,
    ) -> Submission:
        """Return a submission of an input to the model and version `found`, asked by its `bare` name or not.

        Raises:
            InvalidInput: the input has no canonical form or is too large, or the priority, the expiry or a tag is none.
        """
        _check_priority(priority)
        expiry_ms = _expiry_ms(expiry_s)
        canonical = self.canonical(data)
        key = key_of(*found, canonical)
        submission = Submission(
            key, canonical, kind,
            refresh=refresh, priority=priority, deadline_s=deadline_s, expiry_ms=expiry_ms, bare=bare,
            tags=tags_of(tags, data) if tags != () else (),
        )  # fmt: skip
        if self._watch is not None:
            self._watch.asked(submission)
        return submission

    def submissions(
        self,
        found: tuple[str, str],
        inputs: Iterable[Any],
        kind: Kind,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
        expiry_s: float | None = None,
        refresh: bool = False,
        tags: Tags = (),
        bare: bool = False,
    ) -> list[Submission]:
        """Return a submission of each input; errors are those of `submission`."""
        _check_priority(priority)
        expiry_ms = _expiry_ms(expiry_s)
        values = list(inputs)
        canonicals = list(map(canonicalize, values))
        for canonical in canonicals:
            if canonical.blobs or len(canonical.text) > self._max_bytes:
                self._check_size(canonical)
        keys = keys_of(*found, [canonical.text for canonical in canonicals])
        tagged = [tags_of(tags, value) for value in values] if tags != () else [()] * len(values)
        submissions = [
            Submission(
                key, canonical, kind,
                refresh=refresh, priority=priority, deadline_s=deadline_s, expiry_ms=expiry_ms, bare=bare,
                tags=own_tags,
            )
            for key, canonical, own_tags in zip(keys, canonicals, tagged, strict=True)
        ]  # fmt: skip
        if self._watch is not None:
            for submission in submissions:
                self._watch.asked(submission)
        return submissions


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidInput(f"priority {priority} is outside 0 to {MAX_PRIORITY}; {MAX_PRIORITY} is served first")


def _expiry_ms(expiry_s: float | None) -> int | None:
    if expiry_s is None:
        return None
    if not 0 <= expiry_s < float("inf"):
        raise InvalidInput(f"expiry_s={expiry_s}: give seconds, or 0 to keep nothing, or None for what the model says")
    return min(round(expiry_s * 1000), _LONGEST_MS)
