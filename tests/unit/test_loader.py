"""The Lua scripts as texts: what is put together, and what a server would refuse only when it comes to that line."""

from __future__ import annotations

import hashlib
import itertools
import re
from importlib.resources import files
from pathlib import Path

import pytest

from foreseen import scripts
from foreseen.scripts import load

FOLDER = Path(str(files(scripts)))
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua"))
LIBRARIES = sorted(path.stem for path in (FOLDER / "lib").glob("*.lua"))
MAX_LINES = 100  # of a script's own: one that is longer does more than one step
INCLUDE = "-- include: "

#: Lua's own words, and the globals that Redis gives a script. It raises on any other, when it comes to it.
KNOWN = frozenset(
    "and break do else elseif end false for function if in local nil not or repeat return then true until while "  # noqa: SIM905 - reads better than a list
    "KEYS ARGV redis math string table struct tonumber tostring pairs ipairs type error unpack setmetatable".split()
)

each_script = pytest.mark.parametrize("name", NAMES)


def own_text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("utf-8")


def includes_of(name: str) -> list[str]:
    lines = [line for line in own_text(name).splitlines() if line.startswith(INCLUDE)]
    return [library for line in lines for library in line.removeprefix(INCLUDE).split()]


def undeclared(text: str) -> list[str]:
    """Return the names that a Lua text uses without declaring them local before. Knows no scope but the whole text."""
    code = re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", re.sub(r"--.*", "", text))
    declared: dict[str, int] = {}
    for pattern in (r"\blocal function (\w+)", r"\blocal (?!function)([\w, ]+)", r"\bfunction\b[ \w]*\(([^)]*)\)",
                    r"\bfor ([\w, ]+?) (?:in\b|=)"):  # fmt: skip
        for match in re.finditer(pattern, code):
            for name in re.findall(r"[A-Za-z_]\w*", match[1]):
                declared[name] = min(match.start(), declared.get(name, len(code)))
    found: list[str] = []
    for match in re.finditer(r"(?<![\w.])[A-Za-z_]\w*", code):
        name, before, after = match[0], code[: match.start()].rstrip()[-1:], code[match.end() :].lstrip()
        is_member = before in {"{", ","} and re.match(r"=[^=]", after)  # of a table that is being written down
        if not is_member and name not in KNOWN and declared.get(name, len(code)) > match.start():
            found.append(name)
    return found


@each_script
def test_a_script_has_its_libraries_where_it_names_them(name: str) -> None:
    """What stands before that line, a fast path, does not pay for them."""
    expected: list[str] = []
    for line in own_text(name).split("\n"):
        if line.startswith(INCLUDE):
            expected += [
                (FOLDER / "lib" / f"{library}.lua").read_text("utf-8") for library in line.removeprefix(INCLUDE).split()
            ]
        else:
            expected.append(line)
    assert load(name).text == "\n".join(expected)
    assert INCLUDE not in load(name).text


@each_script
def test_every_library_that_it_names_is_there_and_is_named_once(name: str) -> None:
    assert set(includes_of(name)) <= set(LIBRARIES)
    assert len(includes_of(name)) == len(set(includes_of(name)))


def test_every_library_is_in_use() -> None:
    assert {library for name in NAMES for library in includes_of(name)} == set(LIBRARIES)


@each_script
def test_it_is_addressed_by_its_content(name: str) -> None:
    script = load(name)
    assert script.name == name
    assert script.sha == hashlib.sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    assert load(name) is script  # read once


def test_no_two_have_one_address() -> None:
    assert len({load(name).sha for name in NAMES}) == len(NAMES)


@each_script
def test_its_head_says_what_it_does_and_what_it_returns(name: str) -> None:
    lines = own_text(name).splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("--"), lines))
    assert re.match(r"-- [A-Z].*", head[0])
    assert any(line.startswith("-- Returns ") for line in head)
    assert len(lines) <= MAX_LINES


@each_script
def test_it_uses_no_global(name: str) -> None:
    """A server refuses one, but only when it comes to it."""
    assert undeclared(load(name).text) == []


@each_script
def test_it_has_no_clock_but_the_server_s_and_draws_no_numbers(name: str) -> None:
    """What a script does must follow from its keys and arguments, so that it may be sent twice."""
    assert not re.search(r"\bos\.|math\.random|RANDOMKEY|\bloadstring\b", load(name).text)


@each_script
def test_every_place_of_keys_and_arguments_is_read_before_the_first_write(name: str) -> None:
    """Bound at the top, so that a reader sees what a step is given."""
    code = re.sub(r"--.*", "", own_text(name))
    write = re.search(r"'(?:SET|HSET|DEL|HDEL|PUBLISH|INCR|HINCRBY|PEXPIRE)'", code)
    last = max(match.end() for match in re.finditer(r"(?:KEYS|ARGV)\[\d+\]", code))
    assert write is None or last < write.start()


def test_a_hit_comes_before_all_definitions() -> None:
    text = load("join").text
    assert text.index("return entry end") < text.index("local function")


def test_every_script_is_in_the_protocol() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_a_script_that_there_is_not() -> None:
    with pytest.raises(FileNotFoundError):
        load("no_such_step")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("local a = 1 return a", []),
        ("b = 1", ["b"]),
        ("return c", ["c"]),
        ("early() local function early() end", ["early"]),
        ("local function f(x, y) return x + y + z end", ["z"]),
        ("for i, v in pairs(KEYS) do redis.call('GET', v, i, w) end", ["w"]),
        ("for i = 1, n do end", ["n"]),
        ("local t = {name = 1, other = 2} return t.name == t.other", []),
        ("local t = {name = value}", ["value"]),
        ("return x.y, redis.z", ["x"]),
        ("-- no code\nreturn 'no code'", []),
    ],
)
def test_the_search_for_globals_finds_them(text: str, found: list[str]) -> None:
    assert undeclared(text) == found
