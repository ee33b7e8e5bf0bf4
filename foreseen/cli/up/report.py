"""What `foreseen up` shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.status import Status
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from foreseen.cli.up.flower import Flower
from foreseen.cli.up.log_lines import Line
from foreseen.cli.up.served import Served

__all__ = ["Report"]

#: Lines longer than this are hard to read, however wide the terminal.
_MAX_WIDTH: Final = 110
_STYLES: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


class Report:
    """Writes to the standard output; from any thread.

    A terminal that has closed, or a pipe that nobody reads any more, must not keep anything from ending in good order:
    what cannot be written is left out.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        is_terminal = self._console.is_terminal
        self._console.width = min(self._console.width, _MAX_WIDTH) if is_terminal else _MAX_WIDTH
        self._status: Status | None = None

    def starting(self, what: str) -> None:
        """Show that something takes a moment; where nothing can be redrawn, say nothing."""
        if not self._console.is_terminal:
            return
        with suppress(OSError):
            if self._status is None:
                self._status = self._console.status(what)
                self._status.start()
            else:
                self._status.update(what)

    def settled(self) -> None:
        """Nothing takes a moment any more."""
        status, self._status = self._status, None
        if status is not None:
            with suppress(OSError):
                status.stop()

    def note(self, text: str) -> None:
        """Tell something."""
        self._print(Text(text))

    def problem(self, text: str) -> None:
        """Tell what went wrong."""
        first, *rest = text.splitlines()
        self._print(Text.assemble((first, "bold red"), *(f"\n{line}" for line in rest)))

    def log(self, name: str, line: Line) -> None:
        """Show a line of a process."""
        level = (f"{line.level} ", _STYLES[line.level]) if line.level in _STYLES else ""
        self._print(Text.assemble((f"{name:<6} | ", "dim"), level, line.text))

    def summary(
        self, server: Sequence[str], models: Sequence[Served], broken: set[str], worker: str, flower: Flower | None
    ) -> None:
        """Tell what runs, where, and how to ask."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", min_width=6)
        facts.add_row("server", Text("\n".join(server)))
        facts.add_row("models", _models(models, broken))
        facts.add_row("worker", Text(worker))
        if flower is not None:
            user, _, password = flower.login.partition(":")
            facts.add_row("flower", Text(f"{flower.url}  user: {user}  password: {password}"))
        self._print(Text.assemble("\n", ("foreseen is up", "bold green"), "\n"))
        self._print(Padding(facts, (0, 0, 0, 2), expand=False))

    def how_to_ask(self, python: str, exports: Sequence[str], variables: Sequence[str], model: Served | None) -> None:
        """Show what to do in another terminal.

        Args:
            python: has foreseen installed.
            exports: commands to tell a shell where the servers are; there are none if producers look there anyway.
            variables: names of those that have to be set as they are here.
            model: to ask.
        """
        if exports:
            self._print(Text("\nIn a second terminal, say where that is:\n"))
            self._code("\n".join(exports), "bash")
        if model is not None:
            where = "there" if exports else "in a second terminal"
            same = f" and the same {', '.join(variables)} as here" if variables and not exports else ""
            self._print(Text(f"\nAsk, {where}, with {python}{same}:\n"))
            comment = "" if model.example else f"  # ... is a {model.input}"
            ask = f'print(producer.predict("{model.name}", {model.example or "..."})){comment}'
            self._code(f"from producer import Producer\nproducer = Producer()\n{ask}", "python")
        self._print(Text("\nCtrl-C ends all of it.\n"))

    def _code(self, code: str, language: str) -> None:
        if self._console.is_terminal:
            self._print(Padding(Syntax(code, language, background_color="default", theme="ansi_dark"), (0, 0, 0, 2)))
        else:
            self._print(Text("\n".join(f"  {line}" for line in code.splitlines())))

    def _print(self, what: RenderableType) -> None:
        with suppress(OSError):
            # What is folded cannot be copied, or found by a program that reads it.
            self._console.print(what, soft_wrap=isinstance(what, Text))


def _models(models: Sequence[Served], broken: set[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in models:
        state = Text("could not be loaded: see above", "bold red") if each.model_id in broken else Text("")
        table.add_row(Text(each.model_id), Text(f"{each.input} -> {each.output}"), state)
    return table
