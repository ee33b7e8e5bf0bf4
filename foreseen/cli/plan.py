"""`foreseen plan`: what a load would need, from what each step was measured to cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from foreseen.cli.show import draw, write, write_json

if TYPE_CHECKING:
    from foreseen.capacity import Load, Plan

__all__ = ["plan"]


@click.command(short_help="Tell what a load would need.")
@click.argument("requests_per_s", metavar="REQUESTS_PER_S", type=float)
@click.option("--hit-rate", type=float, default=0.9, show_default=True, help="Share that an entry answers.")
@click.option("--joined", type=float, default=0.0, show_default=True, help="Share of the rest that join.")
@click.option("--output-bytes", type=int, default=1000, show_default=True, help="Of a result, packed.")
@click.option("--expiry-s", type=float, default=600.0, show_default=True, help="How long results are kept.")
@click.option("--entries", type=int, help="Results kept at a time, if fewer inputs come again than are computed.")
@click.option("--item-ms", type=float, default=10.0, show_default=True, help="What the model computes for an item.")
@click.option("--batch-ms", type=float, default=0.0, show_default=True, help="And for a batch, whatever its size.")
@click.option("--items-per-message", type=float, default=1.0, show_default=True, help="Misses that travel together.")
@click.option("--requests-per-trip", type=float, default=1.0, show_default=True, help="Look-ups that go together.")
@click.option("--slots", type=int, default=1, show_default=True, help="Batches that a worker computes at a time.")
@click.option("--utilization", type=float, default=0.7, show_default=True, help="How busy anything may be.")
@click.option("--shard-gib", type=float, default=8.0, show_default=True, help="Memory of a shard of the cache.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def plan(
    requests_per_s: float, shard_gib: float, item_ms: float, batch_ms: float, slots: int, *, as_json: bool, **load: Any
) -> None:
    """Tell what REQUESTS_PER_S, at the peak, would need: producers, cache, broker, workers, and which fills up first.

    It asks no server. What a step costs is what docs/scaling.md has measured; where your model's time comes from is
    `foreseen stats`: spent, by what was computed.

    \b
    Examples:
      foreseen plan 12000
      foreseen plan 12000 --hit-rate 0.8 --item-ms 40 --items-per-message 8
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.capacity import Load
    from foreseen.capacity import plan as planned

    asked = Load(
        requests_per_s=requests_per_s,
        item_s=item_ms / 1000,
        batch_s=batch_ms / 1000,
        slots_per_worker=slots,
        shard_bytes=round(shard_gib * 2**30),
        **load,
    )
    told = planned(asked)
    if as_json:
        write_json(_as_json(asked, told))
    else:
        _draw(asked, told)


def _as_json(load: Load, told: Plan) -> dict[str, Any]:
    return {
        "hits_per_s": load.hits_per_s,
        "computed_per_s": load.computed_per_s,
        "messages_per_s": load.messages_per_s,
        "needs": [
            {"role": need.role, "count": need.count, "unit": need.unit, "because": need.because,
             "utilization": need.utilization, "cores": need.cores}
            for need in told.needs
        ],
        "memory_bytes": told.memory_bytes,
        "wait_s": {"mean": told.wait_s[0], "p99": told.wait_s[1]},
        "first": told.bottleneck.role,
        "limits": told.limits,
    }  # fmt: skip


def _draw(load: Load, told: Plan) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in ("role", "needs"):
        table.add_column(heading)
    for heading in ("busy", "cores"):
        table.add_column(heading, justify="right")
    table.add_column("decided by")
    for need in told.needs:
        plural = "" if need.count == 1 else "es" if need.unit.endswith("s") else "s"
        busy = f"{need.utilization:.0%}" + (" <- first" if need is told.bottleneck else "")
        table.add_row(need.role, f"{need.count:,} {need.unit}{plural}", busy, f"{need.cores:.1f}", need.because)
    draw(table)
    write(
        f"\n{load.hits_per_s:,.0f} hits, and {load.computed_per_s:,.0f} computations in {load.messages_per_s:,.0f} "
        f"messages, a second; {told.memory_bytes / 2**30:,.1f} GiB of entries."
    )
    if not math.isinf(told.wait_s[0]):
        mean_ms, p99_ms = (seconds * 1000 for seconds in told.wait_s)
        write(f"A message waits {mean_ms:,.0f} ms for a worker on average, 1 in 100 more than {p99_ms:,.0f} ms.")
    for limit in told.limits:
        write(f"\nNot as it stands: {limit}")
