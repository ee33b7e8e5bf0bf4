"""`foreseen check`: whether a model keeps what workers, the cache and batches rely on, and what batch sizes cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from foreseen.cli.inputs import RULES, Form, form_of, read
from foreseen.cli.show import draw, plain, write_json
from foreseen.errors import Misconfigured

if TYPE_CHECKING:
    from rich.console import RenderableType

    from workers.contract import Report
    from workers.registry import ModelClass

__all__ = ["check"]

HELP = f"""\
Try a model's contract in this process, without a server or a worker.

MODEL is what `foreseen up` serves: a file, a module, one class of either, as in digits.py:Digit, or a directory.

\b
  loads                it loads
  inputs fit           its examples fit its input type, as they travel
  warms up             they are computed, as a worker does it when it starts
  outputs fit          its outputs fit their type, and travel
  deterministic        the same again, also by a copy of it loaded anew
  batch equals single  a full batch gives what each input gives alone
  order kept           outputs come in the order of the inputs
Floats may be off by its CachePolicy's audit_tolerance, 0 unless set.

Then it measures what an item costs by batch size, and suggests the smallest size that is nearly as cheap as the
cheapest. The inputs are the model's `examples`, or what --input gives.

{RULES}
\b
Ends with 0 if all that was tried passed, 1 if something failed, 2 if there is no such model or nothing to try it with.

\b
Examples:
  foreseen check digits.py
  foreseen check digits.py:Digit --input a.png --input b.png
  foreseen check digits --json | jq '.[].suggested_batch_size'
"""

_FAILED: Final = 1
_MARKS: Final = {"passed": ("✓", "bold green"), "failed": ("✗", "bold red"), "untried": ("-", "dim")}


@click.command(help=HELP, short_help="Try a model: same answers again, in a batch, in any order; what batches cost.")
@click.argument("model")
@click.option("--input", "inputs", metavar="INPUT", multiple=True, help="To try it with; several times for several.")
@click.option("--as", "form", type=click.Choice([each.value for each in Form]), help="What the inputs are.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), help="How far floats may be off; audit_tolerance unless set."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object for each model.")
def check(model: str, *, inputs: Sequence[str], form: str | None, tolerance: float | None, as_json: bool) -> None:
    """Try the models that an argument names."""
    from workers.trial import check_model

    reports: list[Report] = []
    for cls in _models(model):
        values = _values(cls, inputs, form) if inputs else None
        reports.append(check_model(cls, values, tolerance=tolerance))
        if not as_json:
            draw(_drawn(reports[-1]))
    if as_json:
        write_json([_as_json(report) for report in reports])
    if not all(report.passed for report in reports):
        sys.exit(_FAILED)


def _models(argument: str) -> list[ModelClass]:
    from workers.registry import find_models

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `up` does for its workers
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - as text, as sys.path holds it
        sys.path.insert(0, here)  # where a worker looks, too
    found = find_models([argument])
    if found.errors:
        raise Misconfigured("\n".join(found.errors.values()))
    return [*found.models.values()]


def _values(cls: ModelClass, inputs: Sequence[str], form: str | None) -> list[Any]:
    values: list[Any] = []
    for each in read(inputs, Form(form) if form else form_of(cls.input_schema())):
        if each.error is not None:
            raise type(each.error)(f"{each.name}: {each.error}")
        values.append(each.value)
    return values


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "model": report.model_id,
        "passed": report.passed,
        "checks": [{"name": one.name, "verdict": str(one.verdict), "seen": one.seen} for one in report.checks],
        "costs": [{"batch_size": one.batch_size, "call_s": one.call_s, "item_s": one.item_s} for one in report.costs],
        "max_batch_size": report.max_batch_size,
        "suggested_batch_size": report.suggested_batch_size,
    }


def _drawn(report: Report) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    checks = Table.grid(padding=(0, 2))
    for _ in range(3):
        checks.add_column(overflow="fold")
    for one in report.checks:
        mark, style = _MARKS[one.verdict]
        checks.add_row(Text(mark, style), Text(one.name), Text(plain(one.seen)))
    parts: list[RenderableType] = [Text(report.model_id, "bold"), checks]
    if report.costs:
        costs = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
        for heading in ("batch", "a call", "an item", "items a second"):
            costs.add_column(heading, justify="right")
        for cost in report.costs:
            rate = f"{1 / cost.item_s:,.0f}"
            costs.add_row(f"{cost.batch_size:,}", _duration(cost.call_s), _duration(cost.item_s), rate)
        parts += [costs, Text(_suggestion(report)), ""]
    return Group(*parts)


def _suggestion(report: Report) -> str:
    suggested, most = report.suggested_batch_size, report.max_batch_size
    if suggested is None or suggested == most:
        gains = "" if most == 1 else "; an item is cheapest in the largest batch, so more may pay"
        return f"max_batch_size={most}, as it is, is what this suggests{gains}."
    return f"Suggested: max_batch_size={suggested}; it is {most}, where an item costs hardly less."


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError
