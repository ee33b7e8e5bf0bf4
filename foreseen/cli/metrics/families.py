"""What Prometheus is told: the metrics, their names, labels and meaning; pure.

The table below is what docs/reference/metrics.md shows, and what the board and the alerts may name; tests see to both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from foreseen.cli.metrics.gather import Broker, CacheServer, Facts, ModelFacts
from foreseen.measures import ANSWER, ITEMS, MODEL_CALL, QUEUED, Histogram
from foreseen.statistics import ServerMemory

__all__ = ["MEASURED", "METRICS", "Metric", "families"]

_MODEL: Final = ("model", "version")


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: without what Prometheus puts behind it: `_total` of counters, `_bucket` and so on of histograms.
        kind: counter, gauge or histogram.
        labels: whose values are bounded: models that workers serve, and words of ours.
        meaning: for people.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


_COUNTERS: Final = (
    Metric("foreseen_submissions", "counter", (*_MODEL, "source"),
           "Submissions by how they were answered: hit, near, stale, computed (it opened a flight), coalesced."),
    Metric("foreseen_computations_begun", "counter", _MODEL, "Computations that a worker began."),
    Metric("foreseen_computations", "counter", (*_MODEL, "outcome"), "Computations that ended: result or failure."),
    Metric("foreseen_refreshes", "counter", _MODEL, "Computations begun behind an entry that still answered."),
    Metric("foreseen_compute_seconds", "counter", _MODEL, "What the computations took."),
    Metric("foreseen_saved_seconds", "counter", _MODEL, "What those had taken of which an entry answered."),
    Metric("foreseen_leases_lapsed", "counter", _MODEL,
           "Flights taken over because their holder gave no sign of life."),
    Metric("foreseen_flights_unwanted", "counter", _MODEL, "Flights dropped because nobody waited any more."),
    Metric("foreseen_outcomes_refused", "counter", _MODEL, "Outcomes that the cache did not keep, for want of memory."),
    Metric("foreseen_results_unkept", "counter", _MODEL, "Results that were told and not to be kept."),
    Metric("foreseen_entries_unreadable", "counter", _MODEL, "Entries that were torn, foreign or another release's."),
    Metric("foreseen_messages_rejected", "counter", _MODEL, "Messages that a worker dropped: they are none of ours."),
    Metric("foreseen_audits", "counter", _MODEL, "Hits that were computed again, and compared with their entries."),
    Metric("foreseen_audits_differed", "counter", _MODEL, "Of these, those that differed."),
)  # fmt: skip
#: Of each histogram that processes add up, what it is told as.
MEASURED: Final = {
    ANSWER: Metric("foreseen_answer_duration_seconds", "histogram", (*_MODEL, "source"),
                   "From asking to the answer, in producers; one hit in 16 is timed, and counts for 16."),
    QUEUED: Metric("foreseen_queue_duration_seconds", "histogram", _MODEL, "From sending a message to its begin."),
    MODEL_CALL: Metric("foreseen_model_call_duration_seconds", "histogram", _MODEL, "A batch in its model."),
    ITEMS: Metric("foreseen_model_call_items", "histogram", _MODEL, "Items of a batch."),
}  # fmt: skip
_GAUGES: Final = (
    Metric("foreseen_server_up", "gauge", ("server",), "1 if the server answers; cache or broker."),
    Metric("foreseen_workers", "gauge", (), "Workers that live."),
    Metric("foreseen_model_served", "gauge", _MODEL, "1 if a worker serves it now."),
    Metric("foreseen_queue_messages", "gauge", _MODEL, "Messages that wait; each holds up to a batch of items."),
    Metric("foreseen_queue_oldest_age_seconds", "gauge", _MODEL,
           "How long the first message has waited; of a Redis broker."),
    Metric("foreseen_unacked_messages", "gauge", (), "Messages with workers, of all queues; of a Redis broker."),
    Metric("foreseen_unacked_oldest_age_seconds", "gauge", (), "How long the first of them has been; likewise."),
    Metric("foreseen_dead_letters", "gauge", (), "Inputs that were given up on: `foreseen dead list`."),
    Metric("foreseen_cache_keys", "gauge", (), "Keys in the cache's database: entries, flights and the rest."),
    Metric("foreseen_cache_memory_used_bytes", "gauge", (), "In use by the cache server."),
    Metric("foreseen_cache_memory_max_bytes", "gauge", (), "Where it begins to evict; 0 is no bound."),
    Metric("foreseen_cache_evicted_keys", "counter", (), "Keys that it evicted since it started."),
    Metric("foreseen_broker_memory_used_bytes", "gauge", (), "In use by the broker; of a Redis broker."),
    Metric("foreseen_broker_memory_max_bytes", "gauge", (), "Where it refuses messages; 0 is no bound; likewise."),
    Metric("foreseen_broker_evicted_keys", "counter", (), "Keys that it evicted: each may be lost work; likewise."),
)  # fmt: skip

METRICS: Final = {each.name: each for each in (*_COUNTERS, *MEASURED.values(), *_GAUGES)}
_KINDS: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily,
}  # fmt: skip


class _Families:
    """Families as they fill; only those that have samples are told."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        if name not in self._made:
            metric = METRICS[name]
            self._made[name] = _KINDS[metric.kind](metric.name, metric.meaning, labels=metric.labels)
        return self._made[name]

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a sample, unless nobody knows it."""
        if value is not None:
            self.of(name).add_metric(labels, value)

    def all(self) -> Iterator[Family]:
        return iter(self._made.values())


def families(facts: Facts) -> Iterable[Family]:
    """Return what is told of facts."""
    made = _Families()
    for server, told in (("cache", facts.cache), ("broker", facts.broker)):
        made.add("foreseen_server_up", float(told is not None), server)
    if facts.cache is not None:
        for model_id, model in facts.cache.models.items():
            _add_model(made, model_id.partition("@")[::2], model)
        made.add("foreseen_workers", facts.cache.workers)
        made.add("foreseen_cache_keys", facts.cache.keys)
        _add_memory(made, "cache", facts.cache.memory)
    if facts.broker is not None:
        _add_broker(made, facts.broker, facts.cache)
    return made.all()


def _add_model(made: _Families, labels: tuple[str, ...], model: ModelFacts) -> None:
    counts = model.counts
    sources = {
        "hit": counts.hit, "near": counts.near, "stale": counts.stale,
        "computed": counts.opened, "coalesced": counts.joined,
    }  # fmt: skip
    for source, count in sources.items():
        made.add("foreseen_submissions", count, *labels, source)
    for outcome, count in (("result", counts.computed), ("failure", counts.failed)):
        made.add("foreseen_computations", count, *labels, outcome)
    for name, value in (
        ("foreseen_computations_begun", counts.begun),
        ("foreseen_refreshes", counts.refreshed),
        ("foreseen_compute_seconds", counts.spent_us / 1e6),
        ("foreseen_saved_seconds", counts.saved_us / 1e6),
        ("foreseen_leases_lapsed", counts.lapsed),
        ("foreseen_flights_unwanted", counts.unwanted),
        ("foreseen_outcomes_refused", counts.refused),
        ("foreseen_results_unkept", counts.unkept),
        ("foreseen_entries_unreadable", counts.unreadable),
        ("foreseen_messages_rejected", counts.rejected),
        ("foreseen_audits", counts.audited),
        ("foreseen_audits_differed", counts.differed),
        ("foreseen_model_served", int(model.is_served)),
    ):
        made.add(name, value, *labels)
    for (histogram, label), measured in model.measured.items():
        metric = MEASURED[histogram]
        if (len(metric.labels) > len(_MODEL)) == bool(label) and (not label or label in sources):
            buckets = list(zip(_bounds(histogram), accumulate(measured.counts), strict=True))
            made.of(metric.name).add_metric([*labels, label] if label else labels, buckets, sum_value=measured.total)


def _add_broker(made: _Families, broker: Broker, cache: CacheServer | None) -> None:
    for model_id, count in broker.depths.items():
        labels = model_id.partition("@")[::2]
        made.add("foreseen_queue_messages", count, *labels)
        if cache is not None and broker.memory is not None:
            sent_ms = broker.sent_ms.get(model_id, cache.now_ms)
            made.add("foreseen_queue_oldest_age_seconds", max(0, cache.now_ms - sent_ms) / 1000, *labels)
    made.add("foreseen_unacked_messages", broker.unacked)
    made.add("foreseen_unacked_oldest_age_seconds", broker.unacked_s)
    made.add("foreseen_dead_letters", broker.dead_letters)
    if broker.memory is not None:
        _add_memory(made, "broker", broker.memory)


def _add_memory(made: _Families, server: str, memory: ServerMemory) -> None:
    made.add(f"foreseen_{server}_memory_used_bytes", memory.used_bytes)
    made.add(f"foreseen_{server}_memory_max_bytes", memory.max_bytes)
    made.add(f"foreseen_{server}_evicted_keys", memory.evicted)


def _bounds(histogram: Histogram) -> list[str]:
    return [*map(str, histogram.bounds), "+Inf"]
