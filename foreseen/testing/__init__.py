"""The test kit: a deployment in a test's own process, and the contract of a model. A composition root.

In a project's tests, with pytest (`pip install 'foreseen[testing]'`):

    # conftest.py
    pytest_plugins = ["foreseen.testing.plugin"]

    @pytest.fixture(scope="session")
    def foreseen_models():
        return ["digits"]                      # modules, or classes

    # test_digits.py
    def test_an_image_of_a_three(foreseen_producer):
        assert foreseen_producer.predict("digit", THREE) == 3

    def test_the_contract():
        report = check_model(Digit)
        assert report.passed, report

Nothing is imported before it is asked for, so that the plugin costs a test run that does not use it nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from foreseen.testing.deployment import Deployment
    from workers.contract import Check, Cost, Report, Verdict
    from workers.trial import check_model

__all__ = ["Check", "Cost", "Deployment", "Report", "Verdict", "check_model"]

_HOMES: Final = {
    "Deployment": "foreseen.testing.deployment",
    "check_model": "workers.trial",
    **dict.fromkeys(("Check", "Cost", "Report", "Verdict"), "workers.contract"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
