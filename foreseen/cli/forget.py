"""`foreseen invalidate` and `foreseen purge`: forget one entry, those of a tag, or all of a model."""

from __future__ import annotations

import click

from foreseen.cli.completion import complete_model
from foreseen.cli.inputs import RULES, Form, read, shown
from foreseen.cli.show import write
from foreseen.errors import InvalidInput

__all__ = ["invalidate", "purge"]

INVALIDATE = f"""\
Forget what is cached for one input, or for all inputs that were submitted with a tag. Who asks next has it computed
anew; a computation that had begun before cannot bring the old entry back.

{RULES}
\b
Examples:
  foreseen invalidate file-type README.md
  foreseen invalidate my-model '{{"width": 3}}'
  foreseen invalidate --tag customer:42
"""
#: Of a single input, so not one on each line.
_FORMS = [each.value for each in Form if each is not Form.JSONL]


@click.command(help=INVALIDATE, short_help="Forget what is cached for one input, or for a tag.")
@click.argument("model", required=False, shell_complete=complete_model)
@click.argument("argument", metavar="[INPUT]", required=False, type=click.Path())
@click.option("--as", "form", type=click.Choice(_FORMS), help="What the input is; see above.")
@click.option("--tag", help="Forget all that was submitted with this tag, of every model, instead of one input.")
def invalidate(model: str | None, argument: str | None, form: str | None, tag: str | None) -> None:
    """Do what `INVALIDATE` says."""
    from foreseen.cli.deployment import find, open_producer, read_settings

    if tag is not None:
        if model is not None or form is not None:
            raise click.UsageError("--tag stands alone: what it forgets is of every model.")
        with open_producer(read_settings()) as producer:
            count = producer.invalidate_tag(tag)
        write(f"{count} {'entry' if count == 1 else 'entries'} forgotten.")
        return
    if model is None or argument is None:
        raise click.UsageError("Give a MODEL and an INPUT, or --tag TAG.")
    settings = read_settings()
    model_id, its_form = find(settings, model, Form(form) if form else None)
    (given,) = read([argument], its_form)
    if given.error is not None:
        raise InvalidInput(f"{shown(given.name)}: {given.error}")
    with open_producer(settings) as producer:
        was_there = producer.invalidate(model_id, given.value)
    write("Forgotten." if was_there else "There was no entry.")


@click.command(short_help="Forget everything that is cached for a model.")
@click.argument("model", shell_complete=complete_model)
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(model: str, *, yes: bool) -> None:
    """Forget every entry of NAME@VERSION, or of every version of NAME.

    When it ends, every look-up anywhere misses what was computed before. Computations under way answer those who wait
    for them, and are not kept.

    A name that no worker has published is waited for, as for a prediction, up to FORESEEN_MODEL_WAIT_S.

    \b
    Examples:
      foreseen purge file-type@standard_v3_3
      foreseen purge file-type --yes
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.cli.deployment import open_cache, open_producer, read_settings, read_versions
    from foreseen.keys import KeySpace, split_model

    name, version = split_model(model)
    settings = read_settings()
    if not yes:
        with open_cache(settings) as cache:
            versions = read_versions(cache, KeySpace(settings.namespace))
        meant = [each.model_id for each in versions if each.name == name and version in {None, each.version}]
        what = ", ".join(meant) if meant else f"{model}, which no worker has served of late"
        click.confirm(f"Forget every entry of {what}?", abort=True, err=True)
    with open_producer(settings) as producer:
        count = producer.purge(model)
    write(f"Purged {count} version{'' if count == 1 else 's'} of {name}.")
