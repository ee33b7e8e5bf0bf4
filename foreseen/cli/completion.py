"""`foreseen completion`: what makes a shell complete commands, options and the names of models."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

__all__ = ["complete_model", "complete_version", "completion"]

_VARIABLE: Final = "_FORESEEN_COMPLETE"
#: A person who pressed Tab notices a pause much longer than this.
_PATIENCE_S: Final = 0.3


@click.command(short_help="Print what makes your shell complete foreseen's commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes your shell complete commands, options and the names of the models that are served.

    \b
    For good, once:
      bash  foreseen completion bash > ~/.foreseen-complete.bash
            echo '. ~/.foreseen-complete.bash' >> ~/.bashrc
      zsh   foreseen completion zsh > ~/.foreseen-complete.zsh
            echo '. ~/.foreseen-complete.zsh' >> ~/.zshrc     (after compinit)
      fish  foreseen completion fish > ~/.config/fish/completions/foreseen.fish

    \b
    To try it in this shell:
      . <(foreseen completion bash)

    Names of models come from the cache at FORESEEN_CACHE_URL, if it answers at once.
    """  # noqa: D301 - click reads the character that \b stands for
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - for the type checker: click has all three
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "foreseen", _VARIABLE).source())


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a bare name, or after an `@` a version."""
    del context, parameter
    model_ids = _served_in_time()
    names = model_ids if "@" in incomplete else sorted({model_id.partition("@")[0] for model_id in model_ids})
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_version(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a `model@version`."""
    del context, parameter
    return [CompletionItem(model_id) for model_id in _served_in_time() if model_id.startswith(incomplete)]


def _served_in_time() -> list[str]:
    """Return every `model@version` that is served; nothing if that is not known quickly."""
    # Imported before the clock runs: it takes its time, but never stalls.
    from foreseen.cli.deployment import open_cache, read_settings, read_versions
    from foreseen.keys import KeySpace

    found: list[str] = []

    def look() -> None:
        with suppress(Exception):  # somebody is typing: whatever is wrong, the command itself will tell
            settings = read_settings()
            with open_cache(settings) as cache:
                versions = read_versions(cache, KeySpace(settings.namespace))
            found.extend(each.model_id for each in versions if each.card is not None)

    # On a thread that is left behind if need be: to look up a host's name has no timeout of its own.
    looking = threading.Thread(target=look, name="foreseen-completion", daemon=True)
    looking.start()
    looking.join(_PATIENCE_S)
    return list(found)
