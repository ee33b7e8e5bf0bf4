"""The group that every command hangs in: what `foreseen --help` says, and how a command that fails ends."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final

import click

from foreseen.cli.check import check
from foreseen.cli.completion import completion
from foreseen.cli.dead import dead
from foreseen.cli.demo import demo
from foreseen.cli.doctor import doctor
from foreseen.cli.ending import READER_GONE, STATUSES, Told, status_of
from foreseen.cli.forget import invalidate, purge
from foreseen.cli.interrupt import Interrupted
from foreseen.cli.metrics import metrics
from foreseen.cli.models import models
from foreseen.cli.plan import plan
from foreseen.cli.predict import predict
from foreseen.cli.result import result
from foreseen.cli.stats import stats
from foreseen.cli.up import up
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
Serve a model of your own: a server, a worker and Flower in one terminal.
  foreseen up shout.py

\b
Try whether it keeps what a cache and batches need, and what batches cost:
  foreseen check shout.py

\b
In production, serve models and see the workers with Celery's own commands:
  FORESEEN_MODELS=workers.models.file_type  celery -A workers worker
  celery -A workers flower

\b
Ask, and look at what happens, from here:
  foreseen predict file-type README.md
  foreseen models
  foreseen stats --watch

\b
Ask from your application:
  from producer import Producer
  with Producer() as producer:
      label = producer.predict("file-type", data)
"""

EPILOG = f"""\
{STATUSES}
\b
Servers are told by FORESEEN_BROKER_URL (redis://127.0.0.1:6379/0) and
FORESEEN_CACHE_URL (redis://127.0.0.1:6379/1).
"""

#: Commands that start processes; the others leave what workers do to them.
_STARTERS: Final = frozenset({"demo", "up"})


class _Root(click.Group):
    """A group whose commands end in a line and a status, not in a traceback, where foreseen knows what is wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which somebody would need them."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        # What went wrong ends a command, in a line of its own: without a log, the outage need not be told besides.
        logging.getLogger("foreseen.cache").addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            stopped = "Stopped; nothing is left running." if ctx.invoked_subcommand in _STARTERS else "Stopped."
            with suppress(OSError):  # the terminal may be what has gone
                click.echo(f"\n{stopped}", err=True)
            sys.exit(error.status if isinstance(error, Interrupted) else 130)
        except BrokenPipeError:  # `foreseen ... | head`: who reads has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail to flush at its exit
            sys.exit(READER_GONE)
        except Told as told:
            sys.exit(status_of(told.error))
        except ForeseenError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(status_of(error))


@click.group(cls=_Root, help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="foreseen", message="foreseen %(version)s")
def root() -> None:
    """Teach by `HELP`; the commands do the rest."""


for _command in (
    demo,
    up,
    check,
    predict,
    result,
    models,
    stats,
    metrics,
    plan,
    doctor,
    dead,
    invalidate,
    purge,
    completion,
):
    root.add_command(_command)
