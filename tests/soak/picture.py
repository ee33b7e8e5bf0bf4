"""A picture of a soak: four panels over the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from soak.measure import Series

__all__ = ["draw"]

_PANELS: Final = (
    ("Memory (RSS)", "MiB", ("MiB",)),
    ("Connections at the servers", "connections", ("connections",)),
    ("Keys", "keys", ("keys", "keys without expiry")),
    ("File descriptors (solid) and threads (dashed)", "", ("descriptors", "threads")),
)
#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito), one for each thing measured.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
_DASHED: Final = frozenset({"threads", "keys without expiry"})


def _group(series: Series) -> str:
    """Return what its line is called: workers are alike, and so are the processes of their pools."""
    if ", child" in series.what:
        return "pool processes"
    return "workers" if series.what.startswith("worker") else series.what


def draw(path: Path, minutes: Sequence[float], seen: Mapping[Series, Sequence[float]], warm_up_min: float) -> None:
    """Draw what was measured, and when, into a PNG file."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(_group(series) for series in seen))
    colours = dict(zip(names, _COLOURS, strict=False))
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for axes, (title, label, units) in zip(grid.flat, _PANELS, strict=True):
        panel: Any = axes
        for series, values in seen.items():
            if series.unit in units:
                style = "--" if series.unit in _DASHED else "-"
                panel.plot(minutes, values, style, color=colours[_group(series)], linewidth=1.3)
        panel.axvspan(minutes[0], warm_up_min, color="#f0f0f0", zorder=0, linewidth=0)
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.set_xlim(minutes[0], minutes[-1])
        panel.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    for axes in grid[1]:
        axes.set_xlabel("minutes; grey: warming up")
    handles = [plt.Line2D([], [], color=colours[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
