"""`foreseen predict`: inputs from the command line, files or standard input; outputs in the same order."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from foreseen.cli.completion import complete_model
from foreseen.cli.ending import Told
from foreseen.cli.inputs import RULES, STDIN, Form, Input, largest_bytes, read, shown
from foreseen.cli.show import as_json, plain, write
from foreseen.errors import ForeseenError, InvalidInput, PredictionFailed, PredictionTimeout

if TYPE_CHECKING:
    from producer import Producer

__all__ = ["in_flight", "predict"]

#: Inputs that are under way at a time: keeps dozens of worker processes busy ...
_IN_FLIGHT: Final = 1000
#: ... but large ones together no larger than this.
_IN_FLIGHT_BYTES: Final = 256 * 2**20

HELP = f"""\
Ask a model for predictions, and print each output as one line of JSON, in the order of the inputs.

MODEL is a name, which means its current version, or name@version. What was asked before is answered from the cache;
what somebody else is having computed is waited for.

{RULES}
\b
Examples:
  foreseen predict file-type README.md
  foreseen predict file-type src/*.py --json > types.jsonl
  foreseen predict my-model '{{"width": 3}}'
  generate | foreseen predict my-model - --as jsonl

With several inputs each line begins with the input's name. An input that fails is told on the error output, and the
others go on; the exit status is that of the first failure. Bytes are shown as {{"$bytes": "<base64>"}}, numpy arrays as
nested lists, NaN and infinities as texts.
"""


class Answer(NamedTuple):
    """What became of an input.

    Attributes:
        name: of the input.
        key: of the prediction; None if the input could not be read, or can have none.
        output: if there is no error.
        error: what went wrong with this one.
    """

    name: str
    key: str | None
    output: Any = None
    error: ForeseenError | None = None

    def as_json(self) -> str:
        """Return it as one line of JSON."""
        told: dict[str, Any] = {"input": self.name, "key": self.key}
        if self.error is None:
            return as_json({**told, "output": self.output})
        details = self.error.details if isinstance(self.error, PredictionFailed) else {}
        return as_json(
            {**told, "error": {"name": type(self.error).__name__, "message": str(self.error), "details": details}}
        )


@click.command(help=HELP, short_help="Ask a model for predictions.")
@click.argument("model", shell_complete=complete_model)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path())
@click.option("--as", "form", type=click.Choice([each.value for each in Form]), help="What the inputs are; see above.")
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for each output once it is the next.",
)  # fmt: skip
@click.option(
    "--deadline", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Do not begin a computation later than this after asking.",
)  # fmt: skip
@click.option("--priority", default=4, show_default=True, type=click.IntRange(0, 9), help="9 is served first.")
@click.option("--refresh", is_flag=True, help="Compute anew even if there is an entry.")
@click.option("--json", "lines", is_flag=True, help="Print one JSON object per input: input, key, and output or error.")
def predict(
    model: str,
    inputs: Sequence[str],
    form: str | None,
    timeout: float,
    deadline: float | None,
    priority: int,
    *,
    refresh: bool,
    lines: bool,
) -> None:
    """Do what `HELP` says."""
    if inputs.count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read only once")
    from foreseen.cli.deployment import find, open_producer, read_settings
    from foreseen.cli.interrupt import interruptible

    settings = read_settings()
    first_error: ForeseenError | None = None
    with interruptible():
        model_id, its_form = find(settings, model, Form(form) if form else None)
        is_lone = len(inputs) == 1 and its_form is not Form.JSONL
        options: dict[str, Any] = {
            "timeout": timeout,
            "deadline_s": deadline,
            "priority": priority,
            "refresh": refresh,
            "in_flight": in_flight(1 if its_form is Form.JSONL else largest_bytes(inputs)),
        }
        total = None if its_form is Form.JSONL else len(inputs)
        with open_producer(settings) as producer, _progress(total) as terminal:
            for answer in _answers(producer, model_id, read(inputs, its_form), options):
                terminal.advance()
                if lines:
                    terminal.tell(answer.as_json())
                elif answer.error is None:
                    prefix = "" if is_lone else f"{plain(shown(answer.name))}: "
                    terminal.tell(prefix + as_json(answer.output))
                elif not is_lone:
                    terminal.complain(f"Error: {plain(shown(answer.name))}: {answer.error}")
                elif answer.key is None:  # the input itself is at fault, so the line says which
                    raise InvalidInput(f"{plain(shown(answer.name))}: {answer.error}")
                else:
                    raise answer.error
                first_error = first_error or answer.error
    if first_error is not None:
        raise Told(first_error)


def in_flight(input_bytes: int) -> int:
    """Return how many inputs, of up to that size, may be under way at a time."""
    return max(1, min(_IN_FLIGHT, _IN_FLIGHT_BYTES // max(1, input_bytes)))


def _answers(producer: Producer, model_id: str, inputs: Iterator[Input], options: dict[str, Any]) -> Iterator[Answer]:
    """Yield what becomes of each input, in order. What is no single input's fault ends it: a server that is away."""
    asked: deque[Answer] = deque()

    def values() -> Iterator[Any]:
        for name, value, error in inputs:
            asked.append(Answer(name, None if error else _key(model_id, value), error=error))
            if error is None:
                yield value

    for output in producer.map(model_id, values(), return_exceptions=True, **options):
        while asked[0].error is not None:
            yield asked.popleft()
        answer = asked.popleft()
        if not isinstance(output, ForeseenError):
            yield answer._replace(output=output)
        elif isinstance(output, (InvalidInput, PredictionFailed, PredictionTimeout)):
            yield answer._replace(error=output)
        else:
            raise output
    yield from asked


def _key(model_id: str, value: Any) -> str | None:
    from foreseen.canonical import canonicalize
    from foreseen.keys import key_of

    name, _, version = model_id.partition("@")
    try:
        return str(key_of(name, version, canonicalize(value)))
    except InvalidInput:  # told when its turn comes
        return None


class _Terminal(NamedTuple):
    """How to write while a bar may be shown.

    Attributes:
        tell: a line of output.
        complain: a line for the error output.
        advance: one more input is answered.
    """

    tell: Callable[[str], object] = write
    complain: Callable[[str], object] = partial(write, err=True)
    advance: Callable[[], object] = lambda: None


@contextmanager
def _progress(total: int | None) -> Generator[_Terminal]:
    """Show a bar on the error output, if that is a terminal and there is more than one input."""
    if total == 1 or not sys.stderr.isatty():
        yield _Terminal()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("predicting", total=total)
        above = partial(console.out, highlight=False)
        # Lines for the terminal that shows the bar must go through it; others must not.
        yield _Terminal(above if sys.stdout.isatty() else write, above, lambda: bars.advance(bar))
