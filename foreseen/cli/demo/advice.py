"""The demo's words: what its figures mean, and what to do next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foreseen.cli.demo.figures import Figures

__all__ = ["Step", "meanings", "next_steps", "total"]

APPLICATION = '''\
from producer import Producer

with Producer() as producer:
    data = open(__file__, "rb").read()
    print(producer.predict("file-type", data))        # submit and wait

    pending = producer.submit("file-type", b"%PDF-")  # a concurrent.futures.Future
    print(pending.source, pending.result(timeout=30))

    for each in producer.submit_many("file-type", [b"{}", b"<a/>", b"{}"]):
        print(each.key, each.result(timeout=30))
'''

MODEL = '''\
from collections import Counter

from workers import CachePolicy, Model


class Frequent(Model[str, list[str]]):  # input and output: what pydantic can validate
    name = "frequent"
    cache = CachePolicy(expiry_s=3600)

    def load(self) -> None:  # once per process: open your weights here
        self.ignored = {"a", "an", "the"}

    def predict(self, batch: list[str]) -> list[list[str]]:
        words = [[word for word in text.lower().split() if word not in self.ignored] for text in batch]
        return [[word for word, _ in Counter(each).most_common(3)] for each in words]
'''

#: Until the worker serves, the server must be there; on one's own machine it can come from the wheel.
SERVER = """\
python -c "import signal, foreseen.embedded as e; e.EmbeddedServer(6379).start(); signal.pause()"
"""

WORKER = """\
FORESEEN_MODELS=workers.models.file_type celery -A workers worker
python application.py
"""

OWN_MODEL_WORKER = """\
PYTHONPATH=. FORESEEN_MODELS=workers.models.file_type,frequent celery -A workers worker
python -c 'from producer import Producer; print(Producer().predict("frequent", "to be or not to be"))'
"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do: what for, and the code."""

    title: str
    code: str
    language: str


def meanings(figures: Figures) -> list[str]:
    """Return, for each pass, what its figures mean."""
    cold, warm, herd = figures.passes
    crowd = herd.requests // figures.rounds
    faster = cold.p50_ms / warm.p50_ms if warm.p50_ms else 0
    return [
        f"Nothing was known: the model ran for each of the {cold.distinct:,} distinct contents. The other "
        f"{cold.hits + cold.coalesced:,} requests asked for one of these again: {cold.hits:,} found its result in the cache, "
        f"{cold.coalesced:,} joined its computation.",
        f"Everything was known: the model ran {_times(warm.computed)}. {warm.requests / warm.wall_s:,.0f} answers a second, "
        f"and half of them {faster:.0f} times sooner than before.",
        f"{figures.rounds} times, {crowd} callers asked the same new thing at the same moment. The model ran "
        f"{_times(herd.computed)}, so once each time; everybody else waited for that one result or found it.",
    ]


def total(figures: Figures) -> str:
    """Return the sum of it all."""
    requests, computed = (sum(each) for each in zip(*((p.requests, p.computed) for p in figures.passes), strict=True))
    return f"{requests:,} requests, {computed:,} computations: one for each distinct question, and not one more."


def next_steps() -> Sequence[Step]:
    """Return what to do next, in order."""
    return (
        Step("A server, unless a Redis or Valkey runs on port 6379 already:", _activated(SERVER), "bash"),
        Step("Your application. Save it as application.py:", APPLICATION, "python"),
        Step("Run it beside a worker, each in a terminal of its own:", WORKER, "bash"),
        Step("Your own model. Save it as frequent.py:", MODEL, "python"),
        Step("Serve it, then ask it:", OWN_MODEL_WORKER, "bash"),
    )


def _times(count: int) -> str:
    return {0: "not once", 1: "once"}.get(count, f"{count:,} times")


def _activated(command: str) -> str:
    """Put in front what makes `python` and `celery` those of this environment, if they are not."""
    here = Path(sys.prefix)
    found = shutil.which("celery")
    if found is not None and Path(found).parent == here / "bin":
        return command
    activate = here / "bin" / "activate"
    if not activate.exists():
        return command
    return f". {os.path.relpath(activate) if activate.is_relative_to(Path.cwd()) else activate}\n{command}"
