"""`foreseen stats`: what the cache server and the broker know of what is going on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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
_COLUMNS: Final = (
    "opened", "joined", "begun", "computed", "failed", "lapsed", "unwanted", "refused", "waiting",
)  # fmt: skip


@click.command(short_help="Show what is computed, joined and waiting; --watch does so live.")
@click.argument("model", required=False, shell_complete=complete_model)
@click.option(
    "--watch", is_flag=False, flag_value=_INTERVAL_S, type=click.FloatRange(min=0.1), metavar="[SECONDS]",
    help="Show it again every 2 seconds, or as many as you say, with rates, until Ctrl-C.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; with --watch, one on each line.")
def stats(model: str | None, watch: float | None, *, as_json: bool) -> None:
    """Show what the servers know, by version of each model, or of MODEL alone.

    \b
    opened     submissions that found no entry and opened a flight
    joined     submissions that joined a flight under way
    begun      computations that workers began
    computed   results
    failed     failures
    lapsed     flights taken over because their worker gave no sign of life
    unwanted   flights dropped because nobody waited any more
    refused    outcomes that the cache did not keep, for want of memory
    waiting    messages in the queue that no worker has taken; each holds up to
               a batch of inputs

    Messages that workers dropped, since they are none of ours, are told as rejected where there are any; likewise
    results that were not to be kept, since their model says so, or they are too large.

    There is no hit rate: a look-up that finds an entry writes nothing, so the server cannot count it. Counts are
    gone with the cache's data, or 60 days after the last miss. Memory and evictions are those of the whole cache
    server.

    \b
    Examples:
      foreseen stats
      foreseen stats file-type --watch
      foreseen stats --watch 10 --json >> stats.jsonl
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.cli.deployment import open_cache, read_settings
    from foreseen.cli.snapshot import read

    settings = read_settings()
    with open_cache(settings) as cache:
        if watch is None:
            snapshot = read(cache, settings, model)
            if as_json:
                write_json(snapshot.as_json(None))
            else:
                draw(_drawn(snapshot, None))
            if snapshot.unavailable is not None:
                raise snapshot.unavailable
            return
        try:
            _watch(_snapshots(cache, settings, model, watch), as_json=as_json)
        except KeyboardInterrupt:  # how it is meant to end
            return


def _snapshots(cache: Cache, settings: Settings, model: str | None, interval_s: float) -> Iterator[Snapshot]:
    from foreseen.cli.snapshot import read

    while True:
        began = time.monotonic()
        yield read(cache, settings, model)
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
    """Return two lines for each version, three with rates: they fit a terminal of 80 columns."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(_row({name: name for name in _COLUMNS}), "dim")]
    for model_id, counts in snapshot.counts.items():
        lines.append(Text.assemble((model_id, "bold"), _shares(counts)))
        waiting = snapshot.waiting[model_id]
        told = {event: _short(count) for event, count in asdict(counts).items()}
        lines.append(Text(_row({**told, "waiting": "?" if waiting is None else _short(waiting)})))
        rates = {event: f"{_short(rate)}/s" for event, rate in snapshot.rates(model_id, before).items() if rate}
        if before is not None:
            lines.append(Text(_row(rates), "dim"))
    if not snapshot.counts:
        lines = [Text("No worker has published a model yet: start one with FORESEEN_MODELS set.")]
    return Group(*lines, Text(), Text(_memory(snapshot.server)))


def _row(cells: Mapping[str, str]) -> str:
    return "".join(f"{cells.get(name, ''):>{max(8, len(name) + 1)}}" for name in _COLUMNS)


def _shares(counts: Counts) -> str:
    told: list[str] = []
    if counts.coalesced_share is not None:
        told.append(f"{counts.opened + counts.joined:,} misses, {counts.coalesced_share:.1%} of them joined")
    if counts.failed_share is not None:
        told.append(f"{counts.computed + counts.failed:,} outcomes, {counts.failed_share:.1%} of them failed")
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
