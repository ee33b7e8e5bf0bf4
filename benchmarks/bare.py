"""The baseline for a miss: Celery as its tutorial shows it, with Celery's defaults, and a task that does nothing.

`BENCH_BARE_BROKER_URL` and `BENCH_BARE_RESULT_URL` say where; whoever starts its worker sets them.
"""

from __future__ import annotations

import os

from celery import Celery

__all__ = ["app", "echo"]

app = Celery("bare", broker=os.environ["BENCH_BARE_BROKER_URL"], backend=os.environ["BENCH_BARE_RESULT_URL"])


@app.task
def echo(text: str) -> str:
    """Give back what came."""
    return text
