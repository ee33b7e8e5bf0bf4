"""What `foreseen stats` knows at a moment: counts by version of a model, queues, the cache server's memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foreseen import statistics
from foreseen.cache import Cache
from foreseen.cards import not_served
from foreseen.cli.deployment import read_versions
from foreseen.cli.models import read_depths
from foreseen.errors import BrokerUnavailable
from foreseen.keys import KeySpace, split_model
from foreseen.settings import Settings
from foreseen.statistics import Counts, ServerMemory

__all__ = ["Snapshot", "read"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known at a moment.

    Attributes:
        at: the moment, in monotonic seconds.
        counts: by `model@version`.
        waiting: messages in its queue; None if the broker does not answer.
        server: the cache server's memory.
        hottest: by `model@version`, about how often each of its hottest keys was hit, if that was asked for.
        unavailable: why the broker does not answer.
    """

    at: float
    counts: Mapping[str, Counts]
    waiting: Mapping[str, int | None]
    server: ServerMemory
    hottest: Mapping[str, Mapping[str, int]]
    unavailable: BrokerUnavailable | None

    def as_json(self, before: Snapshot | None) -> dict[str, Any]:
        """Return it as JSON values; with what happened per second since `before`, if given."""
        models: dict[str, Any] = {}
        for model_id, counts in self.counts.items():
            models[model_id] = {
                **asdict(counts),
                "hit_share": counts.hit_share,
                "coalesced_share": counts.coalesced_share,
                "failed_share": counts.failed_share,
                "waiting": self.waiting[model_id],
            }
            if model_id in self.hottest:
                models[model_id]["hottest"] = dict(self.hottest[model_id])
            if before is not None:
                models[model_id]["per_second"] = {
                    event: round(rate, 3) for event, rate in self.rates(model_id, before).items()
                }
        return {"models": models, "cache": asdict(self.server)}

    def rates(self, model_id: str, before: Snapshot | None) -> dict[str, float]:
        """Return how often each thing happened per second since `before`; nothing without one."""
        if before is None or model_id not in before.counts:
            return {}
        now, then, elapsed_s = asdict(self.counts[model_id]), asdict(before.counts[model_id]), self.at - before.at
        return {event: max(0, now[event] - then[event]) / elapsed_s for event in now}  # counts may be lost meanwhile


def read(cache: Cache, settings: Settings, model: str | None, *, hot: bool = False) -> Snapshot:
    """Look at everything, or at one model: two round trips, one for each version, and one to the server about itself.

    With `hot`, one more for each version: for its hottest keys.

    Raises:
        ModelNotServed: no worker has served that model of late.
        CacheUnavailable: the cache does not answer.
    """
    space = KeySpace(settings.namespace)
    name, version = split_model(model) if model is not None else (None, None)
    every = read_versions(cache, space)
    model_ids = [each.model_id for each in every if name in {None, each.name} and version in {None, each.version}]
    if model is not None and not model_ids:
        raise not_served(model, [each.model_id.encode() for each in every], 0)
    at = time.monotonic()
    counts = {each: statistics.parse(cache.commands(statistics.read(space, each))) for each in model_ids}
    hottest = {
        each: statistics.parse_hottest(cache.commands(statistics.read_hottest(space, each)))
        for each in (model_ids if hot else ())
    }
    server = statistics.parse_server(cache.of_each(statistics.read_server()))
    depths, unavailable = read_depths(settings, [space.queue(each) for each in model_ids])
    return Snapshot(at, counts, dict(zip(model_ids, depths, strict=True)), server, hottest, unavailable)
