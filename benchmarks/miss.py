"""A miss, beside bare Celery with its Redis result backend: same server, same pool, one process each."""

from __future__ import annotations

from benchmarks.harness import Comparison, Tell, compare
from benchmarks.stage import MODEL, Stage, fresh_text

__all__ = ["single_miss"]


def single_miss(stage: Stage, tell: Tell) -> Comparison:
    """`predict` of what nobody has asked for, beside `delay().get()`."""

    def miss() -> None:
        text = fresh_text()
        assert stage.producer.predict(MODEL, text) == text

    def bare() -> None:
        text = fresh_text()
        assert stage.bare_echo.delay(text).get() == text

    return compare(
        "single miss", miss, "bare Celery delay().get()", bare, rounds=40, calls=30, target=0.75, tell=tell
    )  # fmt: skip
