"""Fixtures of the acceptance tests: deployments with real processes, whose logs are shown when a test fails."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

# Test folders are no packages, so what tests share is found by its folder: `acceptance.harness`, `served.record`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from acceptance.harness import Deployment, clean_environment
from acceptance.zygote import Zygote

if TYPE_CHECKING:
    from _pytest.runner import CallInfo

_DEPLOYMENTS: Final = pytest.StashKey[list[Deployment]]()


@pytest.fixture(scope="session", autouse=True)
def forked_workers() -> Iterator[None]:
    """Have workers forked from a process that has imported what they do: each start takes a fifth of the time."""
    with Zygote(clean_environment()) as zygote:
        Deployment.zygote = zygote
        yield
        Deployment.zygote = None


@pytest.fixture
def deploy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Make a deployment with the settings given; it ends with the test."""
    deployments: list[Deployment] = []
    request.node.stash[_DEPLOYMENTS] = deployments
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Deployment:
            directory = tmp_path / f"deployment{len(deployments)}"
            directory.mkdir()
            deployment = Deployment(directory, **options)
            deployments.append(deployment)
            stack.callback(deployment.close)
            return deployment.open()

        yield make
    gc.collect()  # what a producer left open is told of this test, and not of whichever runs when it is collected


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    """Return a deployment with the harness's own settings."""
    return deploy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the processes' logs with a failure, and the record."""
    del call
    report = yield
    if report.failed:
        for deployment in item.stash.get(_DEPLOYMENTS, []):
            report.sections += [(f"log of {name}", tail) for name, tail in deployment.logs()]
            if deployment.record.exists():
                report.sections.append(("computations", deployment.record.read_text()))
    return report
