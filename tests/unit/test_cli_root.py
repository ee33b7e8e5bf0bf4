from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from foreseen import errors
from foreseen.cli.ending import STATUSES, status_of
from foreseen.cli.root import root
from foreseen.errors import ForeseenError

OWN = ("predict", "result", "models", "stats", "invalidate", "purge", "completion")


def commands(group: click.Group = root, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


@pytest.mark.parametrize("name", [name for name, _ in commands() if name.split()[0] in OWN])
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    ended = CliRunner().invoke(root, [*name.split(), "--help"])
    assert ended.exit_code == 0
    assert f"  foreseen {name}" in ended.output
    assert max(map(len, ended.output.splitlines())) <= 85


def test_the_commands_are_listed_in_the_order_in_which_somebody_needs_them() -> None:
    names = root.list_commands(click.Context(root))
    assert [name for name in names if name in {"demo", *OWN}] == ["demo", *OWN]


def test_the_help_ends_with_what_every_status_means() -> None:
    shown = CliRunner().invoke(root, ["--help"]).output
    assert all(line in shown for line in STATUSES.splitlines() if not line.startswith("\b"))


@pytest.mark.parametrize(
    "kind", [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ForeseenError)]
)
def test_every_error_ends_with_the_status_that_the_help_tells(kind: type[ForeseenError]) -> None:
    expected = {
        "InvalidInput": 2, "InvalidKey": 2, "Misconfigured": 2, "ModelNotServed": 3, "UnknownKey": 3,
        "CacheUnavailable": 4, "BrokerUnavailable": 4, "QueueFull": 4,
        "PredictionTimeout": 5,
    }  # fmt: skip
    assert status_of(kind("why")) == expected.get(kind.__name__, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict", "slow"], "Missing argument 'INPUT...'"),
        (["predict", "slow", "1", "--priority", "10"], "0<=x<=9"),
        (["predict", "slow", "-", "-"], "only once"),
        (["predict", "slow", "1", "--as", "xml"], "'bytes', 'text', 'npy', 'json', 'jsonl'"),
        (["stats", "--watch", "slow"], "'slow' is not a valid float"),
        (["models", "promote", "slow", "--force"], "has no version"),
        (["models", "promote", "slow@", "--force"], "not a version"),
        (["models", "promote", "Slow@1", "--force"], "not a model name"),
        (["purge", "Slow"], "not a model name"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
        (["predikt"], "No such command"),
    ],
)
def test_a_command_that_cannot_be_ends_with_2_before_any_server_is_asked(arguments: list[str], told: str) -> None:
    ended = CliRunner().invoke(root, arguments, env={"FORESEEN_CACHE_URL": "redis://127.0.0.1:1/1"})
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert told in ended.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_is_to_run_is_printed(shell: str) -> None:
    ended = CliRunner().invoke(root, ["completion", shell])
    assert ended.exit_code == 0
    assert f"_FORESEEN_COMPLETE={shell}_complete" in ended.stdout


def loaded(*arguments: str) -> set[str]:
    """The modules that a command loads."""
    code = (
        "import json, sys, contextlib, io\n"
        "from foreseen.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    modules: Any = json.loads(ended.stdout)
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["completion", "zsh"]])
def test_help_needs_click_alone(arguments: list[str]) -> None:
    heavy = {"celery", "jsonschema_rs", "kombu", "msgpack", "numpy", "producer", "pydantic", "redis", "rich", "workers"}
    assert not loaded(*arguments) & heavy


@pytest.mark.parametrize(("command", "extra"), [("predict", "cli"), ("--help", "cli"), ("demo", "demo"), ("up", "up")])
@pytest.mark.parametrize("package", ["click"])
def test_without_click_it_tells_what_to_install(command: str, extra: str, package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nfrom foreseen.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"foreseen: the command line needs {package}: pip install 'foreseen[{extra}]'\n"
