"""`foreseen result`: the outcome of a prediction by its key."""

from __future__ import annotations

import click

from foreseen.cli.show import as_json, write
from foreseen.errors import PredictionTimeout

__all__ = ["result"]


@click.command(short_help="Print the outcome of a prediction by its key.")
@click.argument("key")
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait if it is still being computed.",
)  # fmt: skip
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object: key, source, output.")
def result(key: str, timeout: float, *, as_object: bool) -> None:
    """Print the output of a prediction by its key, from wherever it was asked for; wait if it is under way.

    Nothing is computed that nobody asked for: a key that nothing is known of ends with status 3.

    \b
    Examples:
      foreseen predict file-type README.md --json        (shows the key)
      foreseen result file-type@standard_v3_3:427867be3590a572fbfa008d6b6c38a2eb2da6d2
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.cli.deployment import open_producer, read_settings
    from foreseen.cli.interrupt import interruptible

    with interruptible(), open_producer(read_settings()) as producer:
        pending = producer.pending(key)
        try:
            output = pending.result(timeout)
        except PredictionTimeout:
            raise PredictionTimeout(f"No outcome within {timeout:g} s; it is still under way.") from None
    write(as_json({"key": key, "source": pending.source, "output": output} if as_object else output))
