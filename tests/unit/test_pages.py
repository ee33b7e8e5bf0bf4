"""What can be said of every page without running it: links lead somewhere, what is named exists, commands are commands.

What they show is run by tests/acceptance/test_docs.py, and by what `RUN_BY` names.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import click
import pytest

from foreseen.cli.root import root
from foreseen.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
INDEX: Final = DOCS / "README.md"
PAGES: Final = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
#: Pages whose commands test_docs.py does not run; that of containers needs an engine.
RUN_BY: Final = {
    "docs/compose.md": "tests/compose/run.py",
    "docs/deploy.md": "tests/acceptance/test_deploy_page.py",
    "docs/monitoring.md": "tests/acceptance/test_monitoring_page.py",
}
#: Commands that no test runs as they stand: they install, run for minutes, need a host of one's own, or OpenSSL.
NOT_RUN: Final = ("pip install ", "make ", "python3 -m venv ", "/srv/foreseen/", "ln -sfn ", "systemctl ", "openssl ")
#: Beside what `Settings` reads.
OTHER_VARIABLES: Final = {"FORESEEN_FLOWER_LOGIN", "FORESEEN_IMAGE", "FORESEEN_TEST_BURST"}

_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND: Final = re.compile(r"^\$ (.+)$", re.MULTILINE)
_CODE: Final = re.compile(r"`([^`\n]+)`")
#: What stands before a command that is run in a container.
_IN_CONTAINER: Final = re.compile(r"^docker compose run (?:--rm |-T )*producer ")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def prose(page: Path) -> str:
    """Return a page without what stands in fences."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Return what a page links to on this side of the network: a path, and an anchor in it."""
    for match in _LINK.finditer(_CODE.sub("", prose(page)) if name_of(page) == "CHANGELOG.md" else prose(page)):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if "://" not in target:
            yield (page.parent / target).resolve() if target else page, anchor


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = sum(each == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", each) is not None for each in found)
        found.append(f"{anchor}-{count}" if count else anchor)
    return frozenset(found)


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [
        f"{os.path.relpath(target, page.parent)}{'#' if anchor else ''}{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target)))
    ]
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    assert INDEX in {target for target, _ in links(ROOT / "README.md")}
    listed = {target for target, _ in links(INDEX)}
    assert [name_of(page) for page in DOCS.rglob("*.md") if page not in listed | {INDEX}] == [], f"list it in {INDEX}"
    examples = ROOT / "examples" / "README.md"
    folders = {target for page in (examples, ROOT / "examples/adapters/README.md") for target, _ in links(page)}
    missing = [name_of(page) for page in (ROOT / "examples").rglob("README.md") if page.parent not in folders]
    assert missing == ["examples/README.md"]


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[str]:
    """Return the commands that a page shows: after a prompt, and in the text."""
    text = page.read_text(encoding="utf-8")
    shown = [match[1].partition("  #")[0] for fence in _FENCE.findall(text) for match in _COMMAND.finditer(fence)]
    for command in [*shown, *_CODE.findall(prose(page))]:
        yield _IN_CONTAINER.sub("", command.strip())


def words_after(program: str, page: Path) -> Iterator[list[str]]:
    """Return the arguments of a program wherever a page shows it."""
    for command in commands(page):
        words = [word for word in shlex.split(command, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[: len(program.split())] == program.split():
            yield words[len(program.split()) :]


def check(
    command: click.Command,
    words: list[str],
    further: frozenset[str] = frozenset(),
    parent: click.Context | None = None,
) -> None:
    """Raise if words begin with a subcommand, or hold an option, that there is not."""
    # With its parent's settings: a command remembers what its help option is called when that is first asked for.
    context = click.Context(command, parent, resilient_parsing=True, **command.context_settings)
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{command.name} has no {words[0]}"
        check(found, words[1:], further, context)
    elif not context.ignore_unknown_options:
        options = (name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts))
        known = {*options, *further, "--help"}
        wrong = [word for word in words if re.match("--?[a-z]", word) and word.partition("=")[0] not in known]
        assert wrong == [], f"{command.name} has no {wrong}"


@each_page
def test_commands_of_foreseen_are_commands_with_such_options(page: Path) -> None:
    for words in words_after("foreseen", page):
        check(root, words)


@each_page
def test_commands_of_celery_are_commands_with_such_options(page: Path) -> None:
    import flower.options  # noqa: F401 - defines Flower's
    from celery.bin.celery import celery
    from tornado.options import options

    further = {"--serve", *(f"--{name}" for name in options.as_dict())}
    for words in words_after("celery -A", page):
        check(celery, words[1:], frozenset(further))


@each_page
def test_targets_of_make_are_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in words_after("make", page):
        assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= targets, words


@pytest.mark.parametrize("page", [each for each in PAGES if "examples" in each.parts], ids=name_of)
def test_examples_run_files_that_there_are(page: Path) -> None:
    for program in ("python", "foreseen up", "jupyter lab"):
        files = [word for words in words_after(program, page) for word in words if re.search(r"\w\.(py|ipynb)$", word)]
        assert [file for file in files if not (page.parent / file).exists()] == []


# --- names ------------------------------------------------------------------------------------------------------------


@each_page
def test_variables_exist(page: Path) -> None:
    if name_of(page) == "CHANGELOG.md":
        return  # tells of what was
    known = {f"FORESEEN_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    named = set(re.findall(r"\bFORESEEN_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= known, named - known


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    rooms = ("foreseen", "producer", "workers", "tests", "benchmarks", "docs", "examples", "monitoring")
    inside = {"unit", "integration", "acceptance", "chaos"}  # of tests
    for code in _CODE.findall(prose(page)):
        path = code.partition("::")[0].rstrip("/")
        head = path.partition("/")[0]
        if "/" not in path or not re.fullmatch(r"[\w./-]+", path) or head not in {*rooms, *inside}:
            continue
        assert any((base / path).exists() for base in (ROOT, ROOT / "tests", page.parent)), path


# --- what is run ------------------------------------------------------------------------------------------------------


def test_every_page_with_commands_is_run_by_a_test() -> None:
    test = (ROOT / "tests/acceptance/test_docs.py").read_text(encoding="utf-8")
    followed = {*re.findall(r'^ +\("([\w/-]+\.md)", \d+\),$', test, re.MULTILINE), *RUN_BY}
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        fences = re.findall(r"^```console\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        shown = [match[1] for fence in fences for match in _COMMAND.finditer(fence)]
        if any(not command.startswith(NOT_RUN) for command in shown):
            assert name_of(page) in followed, f"no test runs what {name_of(page)} shows"
    assert [runner for runner in RUN_BY.values() if not (ROOT / runner).exists()] == []
