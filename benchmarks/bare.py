"""The baseline for a miss: Celery as its tutorial shows it, and as its guide to optimising wants it for short tasks.

Events are off and JSON is the format, by Celery's defaults. `BENCH_BARE_BROKER_URL` and `BENCH_BARE_RESULT_URL` say
where; whoever starts its worker sets them.
"""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.costs import compute_on_device

__all__ = ["app", "device", "echo"]

app = Celery("bare", broker=os.environ["BENCH_BARE_BROKER_URL"], backend=os.environ["BENCH_BARE_RESULT_URL"])
app.conf.update(
    broker_pool_limit=64,  # a connection for each of the callers; 10 by default
    worker_prefetch_multiplier=64,  # "values like 50 or 150" where tasks are short; 4 by default
)


@app.task
def echo(text: str) -> str:
    """Give back what came."""
    return text


@app.task
def device(text: str) -> str:
    """Give back what came, after as long as the model of the same name takes for one."""
    compute_on_device(1)
    return text
