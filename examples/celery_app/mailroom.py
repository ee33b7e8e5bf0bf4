"""A Celery application of its own, with a task that needs a prediction: `celery -A mailroom worker`."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from pydantic import BaseModel

from producer import BrokerUnavailable, CacheUnavailable, ModelNotServed, PredictionTimeout, Producer

# Its own broker database and its own results: foreseen's are 0 and 1.
app = Celery(
    "mailroom",
    broker=os.environ.get("MAILROOM_BROKER_URL", "redis://127.0.0.1:6379/2"),
    backend=os.environ.get("MAILROOM_RESULTS_URL", "redis://127.0.0.1:6379/3"),
)
app.conf.update(broker_connection_retry_on_startup=True, result_expires=3600)


class Label(BaseModel):
    """What the mailroom needs of the model's output."""

    group: str
    mime_type: str


# Connects when a task first asks, so in each of the worker's processes: they are forked after this import.
producer = Producer()
file_type = producer.model("file-type", output=Label)

TRAYS = {"text": "to read", "code": "to review", "executable": "to quarantine"}


#: What a retry can help: a server that is away, a model that nobody serves yet, a queue that is long.
AGAIN = (BrokerUnavailable, CacheUnavailable, ModelNotServed, PredictionTimeout)


@app.task(autoretry_for=AGAIN, retry_backoff=True, max_retries=5)
def sort(path: str) -> dict[str, str | int]:
    """Say which tray a letter belongs in."""
    # Waiting inside a task is safe here: foreseen's workers compute it, and they take none of these tasks.
    label = file_type.predict(Path(path).read_bytes(), timeout=30)
    tray = TRAYS.get(label.group, "to file")
    return {"letter": Path(path).name, "mime_type": label.mime_type, "tray": tray, "process": os.getpid()}
