"""The Celery app: `celery -A workers worker`, `celery -A workers flower`.

Settings are foreseen's own, or those of the module that `CELERY_CONFIG_MODULE` names. Which models are served is read
when a worker starts, so that Flower and `celery inspect` need none.
"""

from __future__ import annotations

import os

import click
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

__all__ = ["app"]

# Not the setting `broker_transport`: its value would stand for the scheme in every URL that Celery and Flower show.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "foreseen.transport:Transport"))
# What tells predictions apart in Flower's list of tasks; its own choice of columns has no place for keys and counts.
os.environ.setdefault("FLOWER_TASKS_COLUMNS", "name,args,state,result,received,runtime,worker,uuid")
app = Celery("foreseen", include=["workers.tasks", "workers.startup"])
app.user_options["worker"].add(  # pyright: ignore[reportOptionalSubscript] - every app has options
    click.Option(
        ["--serve"], metavar="MODELS", help="Names of models to serve, of those found: a,b@2. [FORESEEN_SERVE]"
    )
)
app.config_from_object(os.environ.get("CELERY_CONFIG_MODULE") or "foreseen.celery_settings")
