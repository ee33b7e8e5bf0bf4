"""The group that every command hangs in: what `foreseen --help` says, and how a command that fails ends."""

from __future__ import annotations

import sys
from typing import Any

import click

from foreseen.cli.demo import demo
from foreseen.cli.interrupt import Interrupted
from foreseen.errors import ForeseenError

__all__ = ["root"]

HELP = """\
An asynchronous job-queue inference worker system: predictions that were asked for before are already foreseen.

Application code submits prediction tasks; each is looked up in a Redis result cache first. A miss becomes one Celery
task, a worker computes it and keeps the result, and who asks for the same meanwhile joins that one computation.

\b
See it work, on this machine and with nothing else set up:
  foreseen demo

\b
Serve models, and see the workers, with Celery's own commands:
  FORESEEN_MODELS=workers.models.file_type  celery -A workers worker
  celery -A workers flower

\b
Ask from your application:
  from producer import Producer
  with Producer() as producer:
      label = producer.predict("file-type", data)
"""

EPILOG = """\
\b
Servers are told by FORESEEN_BROKER_URL (redis://127.0.0.1:6379/0) and
FORESEEN_CACHE_URL (redis://127.0.0.1:6379/1).
"""


class _Root(click.Group):
    """A group whose commands end in one line, not in a traceback, where foreseen knows what is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            status = error.status if isinstance(error, Interrupted) else 130
            click.echo("\nStopped; nothing is left running.", err=True)
            sys.exit(status)
        except ForeseenError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Root, help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="foreseen", message="foreseen %(version)s")
def root() -> None:
    """Teach by `HELP`; the commands do the rest."""


root.add_command(demo)
