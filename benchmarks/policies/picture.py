"""Pictures of a run. The same record gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.picture import COLOURS, plain, save, styled
from benchmarks.policies.boundary import BIN_S, COST_S, EXPIRY_S
from benchmarks.policies.record import Record

__all__ = ["draw"]

_COMPUTED, _WAITED = COLOURS[1], COLOURS[2]
_MILLISECONDS: Final = 1000


def draw(record: Record, directory: Path) -> None:
    """Draw policies-boundary.svg and policies-hot-key.svg."""
    with styled():
        save(_boundaries(record), directory / "policies-boundary.svg")
        save(_hot_keys(record), directory / "policies-hot-key.svg")


def _boundaries(record: Record) -> Any:
    """A panel for each policy: computations begun, and requests that no entry answered."""
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    rows = -(-len(record.boundaries) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(10, 1.9 * rows), layout="constrained", sharex=True, sharey=True)
    skipped = round(1 / BIN_S)  # the first second, in which everything is computed for the first time
    for axes, one in zip(grid.flat, record.boundaries, strict=False):
        places = [place * BIN_S for place in range(skipped, len(one.computed))]
        axes.fill_between(places, one.waited[skipped:], step="post", color=_WAITED, alpha=0.4, linewidth=0)
        axes.step(places, one.computed[skipped:], where="post", color=_COMPUTED, linewidth=1.3)
        axes.set_title(one.name, loc="left", fontsize=10)
        for boundary in (1, 2):
            axes.axvline(boundary * (COST_S + EXPIRY_S), color="#999999", linewidth=0.8, linestyle=":")
        plain(axes, "y")
    figure.supxlabel("seconds after all were computed at once", fontsize=9.5)
    figure.supylabel("in a tenth of a second", fontsize=9.5)
    handles = [
        Line2D([], [], color=_COMPUTED, label="computations begun"),
        Line2D([], [], color=_WAITED, alpha=0.4, linewidth=6, label="requests that no entry answered"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _hot_keys(record: Record) -> Any:
    """A panel for each model: what the slowest of each moment took."""
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(
        1, len(record.hot_keys), figsize=(10, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    for axes, one in zip(grid[0], record.hot_keys, strict=True):
        at_s = [at for at, _ in one.calls]
        axes.plot(at_s, [took_s * _MILLISECONDS for _, took_s in one.calls], ".", color=_COMPUTED, markersize=2)
        axes.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(one.model, loc="left", fontsize=10)
        plain(axes, "y")
    grid[0][0].set_ylabel("ms, the slowest of each 20 ms")
    figure.supxlabel("seconds after the entry was to expire", fontsize=9.5)
    return figure
