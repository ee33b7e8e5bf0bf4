from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import producer
from foreseen import errors
from foreseen.entry import Entry, Kind, failure_body
from foreseen.errors import ForeseenError, InvalidOutput, ModelFailed, PredictionFailed, VersionGone
from foreseen.outcome import Failure

ALL: dict[str, type[ForeseenError]] = {name: getattr(errors, name) for name in errors.__all__}
FAILURES = [error for error in ALL.values() if issubclass(error, PredictionFailed)]
RETRYABLE = {
    "BrokerUnavailable", "CacheUnavailable", "DeadlineExceeded", "ModelNotServed", "PredictionTimeout",
    "QueueFull", "TooFewMembers", "TransientFailure", "UnsupportedLayout",
}  # fmt: skip

each_error = pytest.mark.parametrize("error", ALL.values(), ids=ALL)
each_failure = pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)


def drawn_tree() -> dict[str, str | None]:
    """Return each class of the docstring's tree with the one it hangs on."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    assert errors.__doc__ is not None
    for indent, name in re.findall(r"^    ((?:[│ ]   )*(?:[├└]── )?)(\w+)", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 4
        path = [*path[:depth], name]
        parents[name] = path[depth - 1] if depth else None
    return parents


class TestTree:
    def test_is_what_its_docstring_draws(self) -> None:
        real = {name: error.__bases__[0].__name__ for name, error in ALL.items() if error is not ForeseenError}
        assert drawn_tree() == {"ForeseenError": None, **real}

    def test_holds_every_class_of_the_module(self) -> None:
        classes = {each for each in vars(errors).values() if isinstance(each, type)}
        assert {each.__name__ for each in classes if each.__module__ == errors.__name__} == set(ALL)

    @pytest.mark.parametrize(
        ("name", "builtin"),
        [
            ("InvalidInput", ValueError), ("ModelNotServed", LookupError), ("UnknownKey", LookupError),
            ("PredictionTimeout", TimeoutError), ("CacheUnavailable", ConnectionError),
            ("BrokerUnavailable", ConnectionError), ("Malformed", ValueError), ("Misconfigured", RuntimeError),
        ],
    )  # fmt: skip
    def test_is_caught_by_what_python_calls_it(self, name: str, builtin: type[Exception]) -> None:
        assert issubclass(ALL[name], builtin)


class TestRetryable:
    def test_says_which_can_succeed_later_without_a_change(self) -> None:
        """A frozen list: retry policies read it and nothing else."""
        assert {name for name, error in ALL.items() if error.retryable} == RETRYABLE

    def test_poison_is_what_costs_processes_or_time(self) -> None:
        poison = {name for name, error in ALL.items() if getattr(error, "poison", False)}
        assert poison == {"TooManyAttempts", "TimeLimitExceeded"}

    @pytest.mark.parametrize("name", sorted(RETRYABLE))
    def test_is_documented_where_it_can(self, name: str) -> None:
        assert "retry" in (ALL[name].__doc__ or "").lower()

    @each_error
    def test_every_error_says_what_happened(self, error: type[ForeseenError]) -> None:
        assert error.__doc__
        assert error.__doc__ != error.__bases__[0].__doc__


class TestWire:
    @each_failure
    def test_a_failure_arrives_as_it_was_sent(self, kind: type[PredictionFailed]) -> None:
        sent = kind("what happened", {"type": "ZeroDivisionError", "count": 3})
        got = PredictionFailed.from_wire(sent.to_wire())
        assert type(got) is kind
        assert (got.message, got.details, str(got)) == (sent.message, sent.details, "what happened")

    def test_a_name_of_another_release_is_still_a_failure(self) -> None:
        got = PredictionFailed.from_wire({"name": "MeltedDown", "message": "hot", "details": {"at": 1}})
        assert type(got) is PredictionFailed
        assert (got.message, got.details) == ("hot", {"at": 1})

    @pytest.mark.parametrize("name", ["Exception", "ForeseenError", "InvalidInput", "__class__", "PredictionTimeout"])
    def test_only_failures_can_be_named(self, name: str) -> None:
        assert type(PredictionFailed.from_wire({"name": name, "message": ""})) is PredictionFailed

    @pytest.mark.parametrize("wire", [{}, {"name": None}, {"message": 5}, {"details": "text"}, {"details": None}])
    def test_missing_and_odd_fields_are_no_reason_not_to_tell(self, wire: dict[str, Any]) -> None:
        got = PredictionFailed.from_wire(wire)
        assert isinstance(got.message, str)
        assert got.details == {}

    def test_details_are_a_copy(self) -> None:
        details = {"count": 1}
        failure = ModelFailed("x", details)
        details["count"] = 2
        assert failure.details == {"count": 1}

    @given(st.sampled_from(FAILURES), st.text(max_size=20), st.dictionaries(st.text(max_size=3), st.integers(0, 9)))
    def test_a_failure_survives_the_cache(
        self, kind: type[PredictionFailed], message: str, details: dict[str, int]
    ) -> None:
        payload = failure_body(kind(message, details))[4:]
        outcome = Entry(Kind.FAILURE, b"generatn", 1, 1, 1, 1, payload).outcome()
        assert isinstance(outcome, Failure)
        assert (type(outcome.error), outcome.error.message) == (kind, message)
        assert outcome.error.details == details


class TestPickling:
    """What a process pool, or Celery's own, does with an exception on its way to the parent."""

    @each_failure
    def test_a_failure_keeps_its_type_message_and_details(self, kind: type[PredictionFailed]) -> None:
        got = pickle.loads(pickle.dumps(kind("what happened", {"type": "x"})))  # noqa: S301 - our own, in this process
        assert (type(got), got.message, got.details, str(got)) == (
            kind,
            "what happened",
            {"type": "x"},
            "what happened",
        )

    @each_error
    def test_every_error_survives(self, error: type[ForeseenError]) -> None:
        got = pickle.loads(pickle.dumps(error("what happened")))  # noqa: S301 - likewise
        assert (type(got), str(got), got.retryable) == (error, "what happened", error.retryable)

    def test_a_subclass_of_the_user_s_survives(self) -> None:
        got = pickle.loads(pickle.dumps(Melted("hot", {"at": 1})))  # noqa: S301 - likewise
        assert (type(got), got.details) == (Melted, {"at": 1})


class Melted(InvalidOutput):
    pass


Melted.__module__ = __name__


def test_a_failure_needs_no_details() -> None:
    assert VersionGone("gone").details == {}


def test_a_producer_s_errors_are_reached_through_its_package() -> None:
    """What a worker alone meets is not an application's concern."""
    inner = {"Malformed", "MalformedEntry", "MalformedMessage"}
    assert set(ALL) - set(producer.__all__) == inner
    assert [name for name in set(ALL) - inner if getattr(producer, name) is not ALL[name]] == []
