"""Fixtures, for a conftest.py that says `pytest_plugins = ["foreseen.testing.plugin"]`.

Said there and not found by pytest itself: for an entry point it would rewrite the assertions of all of foreseen, in
every run of an environment that has it. Nothing is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from foreseen.testing.deployment import Deployment, Served
    from producer import Producer

__all__ = ["foreseen_deployment", "foreseen_models", "foreseen_producer", "foreseen_settings"]


@pytest.fixture(scope="session")
def foreseen_models() -> Sequence[Served]:
    """Return what is served; a project's conftest.py overrides it."""
    return pytest.fail(
        "say which models are served, in conftest.py:\n\n"
        "    @pytest.fixture(scope='session')\n"
        "    def foreseen_models():\n"
        "        return ['digits']    # modules, or classes",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def foreseen_settings() -> dict[str, Any]:
    """Return settings, such as `{"lease_s": 1.0}`; a project's conftest.py may override it."""
    return {}


@pytest.fixture(scope="session")
def foreseen_deployment(foreseen_models: Sequence[Served], foreseen_settings: dict[str, Any]) -> Iterator[Deployment]:
    """Return a deployment in this process: a server, and a worker on threads. One for all tests of the run."""
    from foreseen.testing.deployment import Deployment

    with Deployment(foreseen_models, **foreseen_settings) as deployment:
        yield deployment


@pytest.fixture
def foreseen_producer(foreseen_deployment: Deployment) -> Iterator[Producer]:
    """Return a producer for this test; what earlier tests had computed is forgotten."""
    foreseen_deployment.forget()
    with foreseen_deployment.producer() as producer:
        yield producer
