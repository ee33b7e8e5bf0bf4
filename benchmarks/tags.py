"""Invalidating a tag, when there are a million entries of others."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.crowd import TAGGED, Crowd
from benchmarks.harness import Comparison, Side, Tell, interleave
from benchmarks.stage import Stage

__all__ = ["invalidated_tag"]

_FEW: Final = 1000


def invalidated_tag(stage: Stage, tell: Tell) -> list[Comparison]:
    """`invalidate_tag` of one with 10 entries among 1,000,000 (100,000 in a short run), beside one among 1,000.

    Fair: as for a hit among them; every entry has a tag, which it shares with nine others, registered with the real
    script, and each tag that is invalidated has all its ten. What puts them back is not counted.
    """
    stage.have()
    with ExitStack() as stack:
        few, many = (stack.enter_context(Crowd()) for _ in range(2))
        for crowd, entries in ((few, _FEW), (many, stage.size.of(2000, 100_000, 1_000_000))):
            crowd.fill(entries, tell)
            crowd.tag(tell)
        sides: dict[str, Side] = {
            f"invalidating a tag of {TAGGED} among {crowd.entries:,}": _side(crowd, stage.size.of(10, 100, 100))
            for crowd in (many, few)
        }
        rounds = interleave(sides, size=stage.size, rounds=stage.size.of(2, 60, 150), tell=tell)
    return [rounds.time(*sides, target=2.0)]


def _side(crowd: Crowd, count: int) -> Side:
    return lambda: [crowd.invalidate() for _ in range(count)]
