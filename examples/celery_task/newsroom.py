"""A Celery application with one task that foreseen has taken over: `keywords`."""

# Celery ships no types: to a type checker a task is its function.
# pyright: reportFunctionMemberAccess=false
from __future__ import annotations

import os
import re
from collections import Counter

from celery import Celery

from producer.celery import PredictionTask
from workers import CachePolicy

# Its own broker database and its own results: foreseen's are 0 and 1.
app = Celery(
    "newsroom",
    broker=os.environ.get("NEWSROOM_BROKER_URL", "redis://127.0.0.1:6379/2"),
    backend=os.environ.get("NEWSROOM_RESULTS_URL", "redis://127.0.0.1:6379/3"),
)
app.conf.update(broker_connection_retry_on_startup=True, result_expires=3600)

COMMON = frozenset({"a", "and", "at", "in", "is", "of", "on", "that", "the", "to", "was"})


# All that has changed is what stands in these brackets; it was `@app.task` before.
@app.task(base=PredictionTask, cache=CachePolicy(expiry_s=3600), examples=({"text": "the news of the day"},))
def keywords(text: str, most: int = 3) -> list[str]:
    """Return the words that a text has most of; computed by foreseen's workers."""
    words = (word for word in re.findall(r"[a-z]+", text.lower()) if word not in COMMON)
    return [word for word, _ in Counter(words).most_common(most)]


@app.task
def file(article: str) -> str:
    """Say where an article belongs; computed by the newsroom's own workers, as ever."""
    # Waiting inside a task is safe here: foreseen's workers compute it, and they take none of these tasks.
    words = keywords.delay(article).get(timeout=30)
    return f"{words[0]}/{'-'.join(words)}"
