"""`foreseen up`: a server, a worker and Flower in one terminal."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from foreseen.errors import Misconfigured

__all__ = ["up"]

#: Each process of the pool loads every model: more than this only if asked for.
_MAX_PROCESSES = 4

HELP = """\
Start everything one person needs, in one terminal: a server, a worker and Flower. Ctrl-C ends all of it.

MODULE is a file with a model, a directory of such files, or the name of a module that can be imported; several are
fine. Without one it serves what FORESEEN_MODELS names.

\b
  foreseen up shout.py                     your own model
  foreseen up --reload models/             a directory, and start again whenever you save
  foreseen up workers.models.file_type     the model that comes with foreseen (needs magika)
  foreseen up --port 6390 shout.py         beside another Redis on this machine

\b
A file with a model:
  from workers import Model

\b
  class Shout(Model[str, str]):            # input and output: whatever pydantic can validate
      name = "shout"
      def predict(self, batch):            # list in, list out
          return [text.upper() for text in batch]

The server is the one at FORESEEN_BROKER_URL and FORESEEN_CACHE_URL (databases 0 and 1 of the Redis or Valkey on this
machine, unless they say otherwise). If nothing listens there and that is on this machine, a Valkey is started at
that port, in memory alone: its data goes when this command ends. So `Producer()` finds it from any other terminal.

Flower shows the worker and its tasks at http://127.0.0.1:5555, to whoever knows the login that is printed. A password
is made for each run; FORESEEN_FLOWER_LOGIN=user:password sets one.

On Ctrl-C the worker finishes what it computes, for at most --stop-timeout seconds; a second Ctrl-C ends it at once. A
worker that dies is started again, after 1, 2, 4 up to 30 s. The exit status is 130 after Ctrl-C and 143 after
SIGTERM, as shells count them, and one of those that `foreseen --help` lists if something is wrong.
"""


@click.command(help=HELP, short_help="Serve models: a server, a worker and Flower in one terminal.")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--concurrency", type=click.IntRange(1, 64), help="Processes of the worker.  [default: cores, at most 4]")
@click.option("--reload", is_flag=True, help="Start the worker again when a .py file beside a model changes.")
@click.option(
    "--watch",
    multiple=True,
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="The same for those in this directory and below it; can be repeated, implies --reload.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Use this port of this machine for the server.")
@click.option("--flower-port", default=5555, show_default=True, type=click.IntRange(1, 65535), help="Flower's port.")
@click.option("--no-flower", is_flag=True, help="Start no Flower.")
@click.option(
    "--stop-timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long the worker may finish what it computes.",
)
@click.option("--verbose", is_flag=True, help="Show every line that the worker and Flower log.")
def up(
    modules: tuple[str, ...],
    concurrency: int | None,
    *,
    reload: bool,
    watch: tuple[Path, ...],
    port: int | None,
    flower_port: int,
    no_flower: bool,
    stop_timeout: float,
    verbose: bool,
) -> None:
    """Teach by `HELP`; `run` does the rest."""
    reload = reload or bool(watch)
    needed = ["celery", "rich", *([] if no_flower else ["flower"]), *(["watchfiles"] if reload else [])]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise click.ClickException(f"up needs {', '.join(missing)}: pip install 'foreseen[up]'")
    from foreseen.cli.deployment import read_settings
    from foreseen.cli.interrupt import interruptible
    from foreseen.cli.up.flower import Flower, check_free, login_from
    from foreseen.cli.up.options import Options
    from foreseen.cli.up.report import Report
    from foreseen.cli.up.run import run
    from foreseen.cli.up.server import with_port

    settings = read_settings()
    if port is not None:
        settings = with_port(settings, port)
    if os.environ.get("CELERY_BROKER_URL", settings.broker_url) != settings.broker_url:
        raise Misconfigured("CELERY_BROKER_URL names another broker than the one used here; unset it")
    named = list(dict.fromkeys(modules or settings.models))
    if not named:
        raise click.UsageError(
            "no model to serve: name a file, such as `foreseen up shout.py`, or set FORESEEN_MODELS. "
            "`foreseen up workers.models.file_type` serves the bundled example, if magika is installed."
        )
    flower = None
    if not no_flower:
        check_free(flower_port)
        flower = Flower(flower_port, login_from(os.environ))
    where = {"FORESEEN_BROKER_URL": settings.broker_url, "FORESEEN_CACHE_URL": settings.cache_url}
    variables = [name for name in (*where, "FORESEEN_NAMESPACE") if name in os.environ]
    if "FORESEEN_NAMESPACE" in variables:
        where["FORESEEN_NAMESPACE"] = settings.namespace
    options = Options(
        named=named,
        watched=watch,
        concurrency=concurrency or min(os.cpu_count() or 1, _MAX_PROCESSES),
        flower=flower,
        reload=reload,
        verbose=verbose,
        stop_timeout_s=stop_timeout,
        exports=[f"export {name}={value}" for name, value in where.items()] if port is not None else [],
        variables=variables,
    )
    with interruptible():
        run(options, settings, Report())
