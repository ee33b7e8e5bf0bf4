"""Pictures of a run: how far the ratios are from their targets, and how the times of single calls spread.

The same record gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import PERCENTILES, Comparison, Unit
from benchmarks.record import Record

__all__ = ["COLOURS", "draw", "plain", "save", "styled"]

#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
COLOURS: Final = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_VERDICTS: Final = {True: ("#0072B2", "target met"), False: ("#D55E00", "not met"), None: ("#999999", "no target")}
_PERCENTILE_TICKS: Final = (1, 25, 50, 75, 90, 99, 99.9)


def draw(record: Record, directory: Path) -> None:
    """Draw performance-ratios.svg and performance-latencies.svg."""
    with styled():
        save(_ratios(record), directory / "performance-ratios.svg")
        save(_latencies(record), directory / "performance-latencies.svg")


@contextmanager
def styled() -> Generator[None]:
    """Have figures look alike, and come out the same each time."""
    import matplotlib as mpl

    mpl.use("svg")
    # Without a salt the names of clip paths are drawn by chance; as text, letters are the reader's own font.
    style: Any = {"svg.hashsalt": "foreseen", "svg.fonttype": "none", "font.size": 9.5}
    with mpl.rc_context(style):
        yield


def save(figure: Any, path: Path) -> None:
    """Write a figure, without what differs from run to run."""
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # Matplotlib ends some lines with a space.
    path.write_text("\n".join(each.rstrip() for each in path.read_text("utf-8").splitlines()) + "\n", "utf-8")


def _ratios(record: Record) -> Any:
    """Two panels: less is better of what is taken, more is better of rates."""
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    rates = [one for one in record.figures if one.unit is Unit.PER_SECOND]
    costs = [one for one in record.figures if one.unit is not Unit.PER_SECOND]
    panels = [
        (costs, "time or memory, of the baseline's; further left is better"),
        (rates, "per second, times the baseline's; further right is better"),
    ]
    panels = [panel for panel in panels if panel[0]]
    figure, grid = plt.subplots(
        len(panels), 1, figsize=(10, 1.6 + 0.36 * len(record.figures)), layout="constrained", squeeze=False,
        height_ratios=[len(ones) + 1 for ones, _ in panels],
    )  # fmt: skip
    for axes, (ones, title) in zip(grid[:, 0], panels, strict=True):
        _panel(axes, ones, title)
    marks = [("o", 6, colour, label) for colour, label in _VERDICTS.values()]
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=size, markeredgewidth=2, color=colour, label=label)
        for marker, size, colour, label in [*marks, ("|", 13, "black", "target")]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axes: Any, ones: list[Comparison], title: str) -> None:
    for place, one in enumerate(ones):
        colour, _ = _VERDICTS[one.met]
        axes.plot([1, one.ratio], [place, place], color=colour, linewidth=1, alpha=0.5)
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(one.ratio, place, "o", color=colour, markersize=6)
        axes.annotate(f"{one.ratio:.2f}", (one.ratio, place), (0, 7), textcoords="offset points", ha="center", size=8)
        if one.target is not None:
            axes.plot(one.target, place, "|", color="black", markersize=13, markeredgewidth=2)
    axes.axvline(1, color="#666666", linewidth=0.8)
    axes.set_xscale("log")
    ends = [value for one in ones for value in (one.low, one.high, one.target or 1.0, 1.0)]
    axes.set_xlim(min(ends) / 1.25, max(ends) * 1.25)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xticks(_ticks(*axes.get_xlim()))
    axes.set_yticks(range(len(ones)), [f"{one.name} / {one.baseline}" for one in ones])
    axes.set_ylim(len(ones) - 0.4, -0.9)
    axes.set_title(title, loc="left", fontsize=10)
    plain(axes, "x")


def _latencies(record: Record) -> Any:
    """The times of one call by percentile, the tail drawn out."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    places = [_place(percent) for percent in PERCENTILES]
    middle = PERCENTILES.index(50)
    by_median = sorted(record.distributions, key=lambda each: each.seconds[middle])
    for colour, each in zip(COLOURS, by_median, strict=False):
        median = each.seconds[middle] * 1e6
        micros = [seconds * 1e6 for seconds in each.seconds]
        axes.plot(places, micros, color=colour, linewidth=1.6, label=f"{each.name} ({median:,.0f} µs)")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylabel("µs")
    axes.set_xticks([_place(tick) for tick in _PERCENTILE_TICKS], [f"{tick:g} %" for tick in _PERCENTILE_TICKS])
    axes.set_xlim(places[0], places[-1])
    axes.set_title("So many of the calls take at most so long (in brackets: half of them)", loc="left", fontsize=10)
    axes.set_xlabel("of the calls")
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    plain(axes, "both")
    return figure


def _place(percent: float) -> float:
    """Return where a percentile stands: evenly up to the median, then as far for each tenth that is left."""
    return percent / 100 if percent <= 50 else 0.5 - math.log10((100 - percent) / 50) / 2  # noqa: PLR2004 - the median


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each power of ten between two ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for first in (1, 2, 5) if low <= (tick := first * 10.0**power) <= high]


def plain(axes: Any, grid: str) -> None:
    """Leave out of a panel what tells nothing."""
    axes.grid(axis=grid, color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
