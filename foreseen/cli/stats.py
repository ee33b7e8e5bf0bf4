"""`foreseen stats`: what the cache server and the broker know of what is going on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from foreseen.cli.completion import complete_model
from foreseen.cli.show import as_json as one_line
from foreseen.cli.show import draw, write_json

if TYPE_CHECKING:
    from rich.console import Group

    from foreseen.cache import Cache
    from foreseen.cli.snapshot import Snapshot
    from foreseen.settings import Settings
    from foreseen.statistics import Counts, ServerMemory

__all__ = ["stats"]

#: Slow enough to read, fast enough to see something happen.
_INTERVAL_S: Final = 2.0
#: What became of look-ups, and of computations: a line each, so that they fit a terminal of 80 columns.
_COLUMNS: Final = (
    ("hit", "near", "stale", "opened", "joined", "refreshed", "spent", "saved"),
    ("begun", "computed", "failed", "lapsed", "unwanted", "refused", "waiting"),
)
#: The hottest keys that are shown.
_HOTTEST: Final = 10
_TIMES: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


@click.command(short_help="Show what is hit, computed and waiting, and what the cache saves; --watch does so live.")
@click.argument("model", required=False, shell_complete=complete_model)
@click.option(
    "--watch", is_flag=False, flag_value=_INTERVAL_S, type=click.FloatRange(min=0.1), metavar="[SECONDS]",
    help="Show it again every 2 seconds, or as many as you say, with rates, until Ctrl-C.",
)  # fmt: skip
@click.option("--hot", is_flag=True, help="Show the keys that are hit most, of the last hour at most.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; with --watch, one on each line.")
def stats(model: str | None, watch: float | None, *, hot: bool, as_json: bool) -> None:
    """Show what the servers know, by version of each model, or of MODEL alone.

    \b
    hit        look-ups that a fresh entry answered
    near       likewise, in a producer's own memory
    stale      submissions that were answered past an entry's fresh life
    opened     submissions that found no entry and opened a flight
    joined     submissions that joined a flight under way
    refreshed  computations begun behind an entry that still answered
    spent      what computations took, those that failed included
    saved      what the computations had taken of which an entry answered

    \b
    begun      computations that workers began
    computed   results
    failed     failures
    lapsed     flights taken over because their worker gave no sign of life
    unwanted   flights dropped because nobody waited any more
    refused    outcomes that the cache did not keep, for want of memory
    waiting    messages in the queue that no worker has taken; each holds up to
               a batch of inputs

    Messages that workers dropped, since they are none of ours, are told as rejected where there are any; likewise
    results that were not to be kept, since their model says so, or they are too large; and how many hits were
    audited, which is computed again, and how many of these differed from what the cache has; and entries that could
    not be read, being torn, foreign or another release's.

    Hits are counted by the producers, which tell the cache every other second and when they are closed; one that
    dies takes as much with it. Counts are gone with the cache's data, or 60 days after the first. Memory and evictions
    are those of the whole cache server. With --hot, one hit in 16 is noted: the counts are estimates.

    \b
    Examples:
      foreseen stats
      foreseen stats file-type --watch
      foreseen stats file-type --hot
      foreseen stats --watch 10 --json >> stats.jsonl
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.cli.deployment import open_cache, read_settings
    from foreseen.cli.snapshot import read

    settings = read_settings()
    with open_cache(settings) as cache:
        if watch is None:
            snapshot = read(cache, settings, model, hot=hot)
            if as_json:
                write_json(snapshot.as_json(None))
            else:
                draw(_drawn(snapshot, None))
            if snapshot.unavailable is not None:
                raise snapshot.unavailable
            return
        try:
            _watch(_snapshots(cache, settings, model, watch, hot=hot), as_json=as_json)
        except KeyboardInterrupt:  # how it is meant to end
            return


def _snapshots(
    cache: Cache, settings: Settings, model: str | None, interval_s: float, *, hot: bool
) -> Iterator[Snapshot]:
    from foreseen.cli.snapshot import read

    while True:
        began = time.monotonic()
        yield read(cache, settings, model, hot=hot)
        time.sleep(max(0.0, began + interval_s - time.monotonic()))


def _watch(snapshots: Iterator[Snapshot], *, as_json: bool) -> None:
    before: Snapshot | None = None
    with _screen() as show:
        for snapshot in snapshots:
            if as_json:
                click.echo(one_line(snapshot.as_json(before)))
            else:
                show(_drawn(snapshot, before))
            before = snapshot
            if snapshot.unavailable is not None:
                raise snapshot.unavailable


@contextmanager
def _screen() -> Generator[Callable[[Group], None]]:
    """Yield what shows a table: in the place of the one before on a terminal, and below it anywhere else."""
    if not sys.stdout.isatty():
        yield draw
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda table: live.update(table, refresh=True)


def _drawn(snapshot: Snapshot, before: Snapshot | None) -> Group:
    """Return three lines for each version, five with rates: they fit a terminal of 80 columns."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(_row(columns, {name: name for name in columns}), "dim") for columns in _COLUMNS]
    for model_id, counts in snapshot.counts.items():
        lines.append(Text.assemble((model_id, "bold"), _shares(counts)))
        waiting = snapshot.waiting[model_id]
        told = {event: _short(count) for event, count in asdict(counts).items()}
        told |= {"spent": _time(counts.spent_us / 1e6), "saved": _time(counts.saved_us / 1e6)}
        told["waiting"] = "?" if waiting is None else _short(waiting)
        rates = _rates(snapshot.rates(model_id, before))
        for columns in _COLUMNS:
            lines.append(Text(_row(columns, told)))
            if before is not None:
                lines.append(Text(_row(columns, rates), "dim"))
        hottest = islice(snapshot.hottest.get(model_id, {}).items(), _HOTTEST)
        lines += [Text(f"  {model_id}:{digits}  about {hits:,} hits") for digits, hits in hottest]
    if not snapshot.counts:
        lines = [Text("No worker has published a model yet: start one with FORESEEN_MODELS set.")]
    return Group(*lines, Text(), Text(_memory(snapshot.server)))


def _row(columns: Iterable[str], cells: Mapping[str, str]) -> str:
    return "".join(f"{cells.get(name, ''):>{max(9, len(name) + 1)}}" for name in columns)


def _rates(rates: Mapping[str, float]) -> dict[str, str]:
    """Return what happened per second; of time, the seconds."""
    told = {event: f"{_short(rate)}/s" for event, rate in rates.items() if rate}
    times = ((name, rates.get(f"{name}_us", 0.0) / 1e6) for name in ("spent", "saved"))
    return told | {name: f"{_short(rate_s)} s/s" for name, rate_s in times if rate_s}


def _shares(counts: Counts) -> str:
    told: list[str] = []
    if counts.hit_share is not None:
        told.append(f"{counts.hit_share:.1%} hits")
    if counts.coalesced_share is not None:
        told.append(f"of the misses {counts.coalesced_share:.1%} joined")
    if counts.failed_share is not None:
        told.append(f"of the outcomes {counts.failed_share:.1%} failed")
    if counts.audited:
        told.append(f"{counts.audited:,} hits audited, {counts.differed:,} of them differed")
    if counts.unreadable:
        told.append(f"{counts.unreadable:,} entries unreadable")
    if counts.rejected:
        told.append(f"{counts.rejected:,} messages rejected")
    if counts.unkept:
        told.append(f"{counts.unkept:,} results not to be kept")
    return f": {'; '.join(told)}" if told else ""


def _short(count: float) -> str:
    """Return a number in at most 7 characters."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:,}" if isinstance(count, int) else f"{count:.1f}"


def _time(seconds: float) -> str:
    """Return a time in at most 9 characters."""
    for factor, unit in _TIMES:
        if seconds >= factor:
            return f"{_short(seconds / factor)} {unit}"
    return f"{seconds:.1f} s"


def _memory(server: ServerMemory) -> str:
    used = "?" if server.used_bytes is None else _size(server.used_bytes)
    bound = f"of {_size(server.max_bytes)}" if server.max_bytes else "without a bound"
    evicted = "?" if server.evicted is None else f"{server.evicted:,}"
    return f"cache server: {used} {bound}; policy {server.policy or '?'}; {evicted} keys evicted"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - from one unit to the next
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1024
    return f"{count:.1f} GiB"
