"""What the demo shows while it runs, and afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from textwrap import indent

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

from foreseen.cli.demo import advice
from foreseen.cli.demo.figures import Figures
from foreseen.cli.demo.files import Input

__all__ = ["Report"]

#: Where nothing can be redrawn, a pass tells this often how far it is.
_LINES_PER_PASS = 4
#: Lines longer than this are hard to read, however wide the terminal.
_MAX_WIDTH = 110


class Report:
    """Writes to the standard output, drawing where it is a terminal and in plain lines where it is not.

    Args:
        quiet: the standard output is for figures alone: write to the error output.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=quiet, highlight=False)
        if self._console.is_terminal:
            self._console.width = min(self._console.width, _MAX_WIDTH)
        else:
            self._console.width = _MAX_WIDTH
        self._bars: Progress | None = None

    def server(self, url: str, worker_processes: int) -> None:
        """Tell what is being started."""
        self._console.print("\n[bold]foreseen demo[/]: what kind of file is this?\n")
        self._fact("server", f"Valkey, at {url.rpartition('/')[0]}, for this demo alone")
        self._fact("worker", f"Celery {version('celery')}, {worker_processes} processes; model: file-type (Magika)")

    def input(self, chosen: Input, processes: int) -> None:
        """Tell what will be asked, and by whom."""
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}'s standard library"
        given = f"{chosen.from_library:,} of {python}"
        if chosen.repository is not None:
            given += f", {len(chosen.paths) - chosen.from_library:,} of the repository {chosen.repository}"
        self._fact("input", f"{len(chosen.paths):,} files: {given}")
        self._fact("producers", f"{processes} processes that ask at once, for every fourth file two of them")
        self._console.print()

    @contextmanager
    def starting(self) -> Generator[None]:
        """Show that it is not stuck while processes start."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("starting the worker and the producers"):
            yield

    @contextmanager
    def passes(self) -> Generator[None]:
        """Show the progress of passes."""
        if not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("  {task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as self._bars:
            yield

    @contextmanager
    def one_pass(self, name: str, requests: int) -> Generator[Callable[[int], None]]:
        """Show one pass; yields what is to be called with how many more requests were answered."""
        bars = self._bars
        if bars is not None:
            bar = bars.add_task(name, total=requests)
            yield lambda count: bars.advance(bar, count)
            bars.update(bar, completed=requests)
            return
        answered, told = 0, 0

        def advance(count: int) -> None:
            nonlocal answered, told
            answered += count
            if (due := answered * _LINES_PER_PASS // requests) > told:
                told = due
                self._console.print(f"  {name}: {answered:,} of {requests:,}")

        yield advance

    def table(self, figures: Figures) -> None:
        """Show what the passes brought, and what that means."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
        table.add_column("pass")
        for heading in ("requests", "distinct", "hits", "coalesced", "computed", "wall time", "p50", "p99"):
            table.add_column(heading, justify="right", no_wrap=heading != "wall time")
        for each in figures.passes:
            counts = (each.requests, each.distinct, each.hits, each.coalesced, each.computed)
            times = (_span(each.wall_s * 1000), _span(each.p50_ms), _span(each.p99_ms))
            table.add_row(f"[bold]{each.name}[/]", *(f"{count:,}" for count in counts), *times)
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))
        meanings = Table.grid(padding=(0, 2))
        for each, meaning in zip(figures.passes, advice.meanings(figures), strict=True):
            meanings.add_row(f"[bold]{each.name}[/]", " ".join(meaning.split()))
        self._console.print(Padding(meanings, (0, 0, 0, 2), expand=False))
        if not figures.wrong():
            self._console.print(Padding(f"[bold green]{advice.total(figures)}[/]", (1, 0, 0, 2), expand=False))

    def next_steps(self) -> None:
        """Tell what to do now."""
        for step in advice.next_steps():
            self._console.print(f"\n[bold]{step.title}[/]")
            if self._console.is_terminal:
                code = Syntax(step.code.rstrip(), step.language, background_color="default", theme="ansi_dark")
                self._console.print(Padding(code, (0, 0, 0, 2)))
            else:
                print(indent(step.code.rstrip(), "  "))
        self._console.print()

    def _fact(self, name: str, text: str) -> None:
        fact = Table.grid(padding=(0, 2))
        fact.add_column(min_width=9)
        fact.add_row(f"[bold]{name}[/]", escape(text))
        self._console.print(Padding(fact, (0, 0, 0, 2), expand=False))


def _span(milliseconds: float) -> str:
    """Return a duration with the digits that say something."""
    if milliseconds >= 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"  # noqa: PLR2004 - two digits
