"""Against MLServer, running for real: what it answers, refuses, and does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from adapters.conftest import MLServer, free_ports

from foreseen.errors import ModelFailed, TransientFailure
from workers.adapters.open_inference import OpenInferenceModel
from workers.compute import compute
from workers.policies import Retry


@pytest.fixture
def trouble(mlserver: MLServer, loaded: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes a model of the troubled one there."""

    def make(**attributes: Any) -> Any:
        class Trouble(OpenInferenceModel[float, float]):
            name = "trouble"
            version = "1"
            url = mlserver.url
            input_name = "number"
            output_names = ("doubled",)

        for name, value in attributes.items():
            setattr(Trouble, name, value)
        return loaded(Trouble)

    return make


@pytest.fixture
def requests(mlserver: MLServer, loaded: Callable[..., Any]) -> Callable[[], int]:
    """Return what tells how many requests the troubled model has had, this one included."""

    class Requests(OpenInferenceModel[int, int]):
        name = "trouble"
        version = "requests"
        url = mlserver.url
        input_name = "number"
        output_names = ("requests",)

    model = loaded(Requests)
    return lambda: int(compute(model, [0])[0])


def test_one_batch_is_one_request(trouble: Callable[..., Any], requests: Callable[[], int]) -> None:
    model = trouble()
    before = requests()
    assert compute(model, [1.0, 2.0, 3.5]) == [2.0, 4.0, 7.0]
    assert requests() - before == 2  # and its own


def test_what_the_server_cannot_answer_now_is_transient_and_not_asked_item_by_item(
    trouble: Callable[..., Any], requests: Callable[[], int]
) -> None:
    model = trouble()
    before = requests()
    outcomes = compute(model, [1.0, 503.0, 3.0])
    assert [type(each) for each in outcomes] == [TransientFailure] * 3
    assert "answered 503: out for lunch" in outcomes[0].message
    assert outcomes[0].details == {"status": 503}
    assert all(Retry().passes(each) for each in outcomes)
    assert requests() - before == 2


def test_what_the_server_refuses_fails_for_good_and_alone(trouble: Callable[..., Any]) -> None:
    first, refused, last = compute(trouble(), [1.0, 400.0, 3.0])
    assert (first, last) == (2.0, 6.0)
    assert type(refused) is ModelFailed
    assert "answered 400: " in refused.message
    assert "no such number" in refused.message
    assert not Retry().passes(refused)


def test_a_server_that_takes_too_long_is_a_transient_failure(trouble: Callable[..., Any]) -> None:
    (outcome,) = compute(trouble(timeout_s=0.3), [10.0])
    assert type(outcome) is TransientFailure
    assert outcome.details == {"type": "ReadTimeout"}


def test_a_server_that_is_away_is_a_transient_failure_and_no_failed_load(trouble: Callable[..., Any]) -> None:
    (port,) = free_ports(1)
    (outcome,) = compute(trouble(url=f"http://127.0.0.1:{port}"), [1.0])
    assert type(outcome) is TransientFailure
    assert f"http://127.0.0.1:{port} did not answer: ConnectError" in outcome.message


def test_a_model_that_is_not_there_fails_and_says_so(trouble: Callable[..., Any]) -> None:
    (outcome,) = compute(trouble(remote_name="no/such"), [1.0])
    assert type(outcome) is ModelFailed
    assert "/v2/models/no%2Fsuch/infer answered 404" in outcome.message


def test_several_outputs_come_by_name(trouble: Callable[..., Any]) -> None:
    class Both(type(trouble())):  # type: ignore[misc]
        output_names = ("doubled", "requests")
        output_type = dict[str, Any]

        def decode(self, results: Any, batch: Any) -> Any:
            assert len(batch) == 2
            assert results["doubled"].dtype == "float64"
            return [float(each) for each in results["doubled"].ravel()]

    model = Both()
    model.load()
    try:
        assert model.predict([1.0, 2.0]) == [2.0, 4.0]
    finally:
        model.unload()


def test_numbers_that_json_cannot_hold_are_that_inputs_failure(trouble: Callable[..., Any]) -> None:
    good, bad = compute(trouble(), [1.0, float("nan")])
    assert good == 2.0
    assert "NaN or infinity" in bad.message
