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

# What is shown is also run, by the tests. Lines fit a terminal of 80 columns, so that they can be copied.
APPLICATION = """\
from producer import Producer

with Producer() as producer:
    data = open(__file__, "rb").read()
    print(producer.predict("file-type", data))  # submit and wait

    pending = producer.submit("file-type", b"%PDF-")  # a Future
    print(pending.source, pending.result(timeout=30))

    for each in producer.submit_many("file-type", [b"{}", b"<a/>", b"{}"]):
        print(each.key, each.result(timeout=30))
"""

MODEL = """\
from workers import CachePolicy, Model


class Longest(Model[str, list[str]]):  # any types that pydantic can validate
    name = "longest"
    cache = CachePolicy(expiry_s=3600)

    def load(self) -> None:  # once per process: open your weights here
        self.kept = 3

    def predict(self, batch: list[str]) -> list[list[str]]:  # one for each
        return [sorted(text.split(), key=len)[-self.kept :] for text in batch]
"""

UP = """\
foreseen up workers.models.file_type
"""

RUN = """\
python application.py
"""

OWN_UP = """\
foreseen up longest.py workers.models.file_type
"""

OWN_RUN = """\
foreseen predict longest "never compute the same answer twice"
"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do: what for, and the code."""

    title: str
    code: str
    language: str


def meanings(figures: Figures) -> list[str]:
    """Return, for each pass, what its figures mean; white space is for whoever prints it to fold."""
    cold, warm, herd = figures.passes
    crowd = herd.requests // figures.rounds
    faster = cold.p50_ms / warm.p50_ms if warm.p50_ms else 0
    again = cold.hits + cold.coalesced
    return [
        f"""Nothing was known: the model {_ran(cold.computed)}, once for each distinct content. The other
        {again:,} requests asked for one of these again: {cold.hits:,} found its result in the cache,
        {cold.coalesced:,} joined its computation.""",
        f"""Everything was known: the model {_ran(warm.computed)}. {warm.requests / warm.wall_s:,.0f} answers a
        second; the median request waited {faster:,.0f} times less than in the cold pass.""",
        f"""{figures.rounds} times, {crowd} callers asked the same new question at the same moment. The model
        {_ran(herd.computed)}, so once each time; all others waited for that one result or found it.""",
    ]


def total(figures: Figures) -> str:
    """Return the sum of it all."""
    requests, computed = (sum(each) for each in zip(*((p.requests, p.computed) for p in figures.passes), strict=True))
    return f"{requests:,} requests, {computed:,} computations: one for each distinct question, and not one more."


def next_steps() -> Sequence[Step]:
    """Return what to do next, in order."""
    return (
        Step("A server, a worker and Flower, in another terminal:", _activated(UP), "bash"),
        Step("Your application. Save it as application.py", APPLICATION, "python"),
        Step("and run it, in a third:", _activated(RUN), "bash"),
        Step("Your own model. Save it as longest.py", MODEL, "python"),
        Step("and serve it, after Ctrl-C there:", OWN_UP, "bash"),
        Step("Then ask it:", OWN_RUN, "bash"),
    )


def _ran(count: int) -> str:
    return {0: "did not run", 1: "ran once"}.get(count, f"ran {count:,} times")


def _activated(command: str) -> str:
    """Put in front what makes `python` and `foreseen` those of this environment, if they are not."""
    here = Path(sys.prefix)
    found = shutil.which("foreseen")
    if found is not None and Path(found).parent == here / "bin":
        return command
    activate = here / "bin" / "activate"
    if not activate.exists():
        return command
    return f". {os.path.relpath(activate) if activate.is_relative_to(Path.cwd()) else activate}\n{command}"
