"""A worker that would listen where no producer sends does not start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from acceptance.harness import Deployment

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_a_variable_of_celery_s_that_names_another_broker_is_refused(
    deploy: Callable[..., Deployment], name: str
) -> None:
    worker = deploy().start_worker("solo", wait=False, **{name: "redis://127.0.0.1:1/0"})
    assert worker.wait() != 0
    assert f"{name} and FORESEEN_BROKER_URL name different brokers" in worker.tail()
