"""A quarter of a million messages, inputs, entries, pushes, cards that nobody of ours wrote: read rightly or refused.

Each reader may raise its own typed errors and nothing else. What it accepts must be what it says it is.
"""

from __future__ import annotations

import json
import math
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgpack
import numpy as np
import pytest
from hostile.mutate import Mutator

from foreseen import cards, statistics
from foreseen.canonical import CanonicalInput, canonicalize, restore
from foreseen.cards import Card
from foreseen.client.engine import Engine
from foreseen.client.submission import Submission
from foreseen.dead_letters import DeadLetter
from foreseen.entry import HEADER_BYTES, Entry, Kind
from foreseen.errors import (
    Malformed,
    MalformedEntry,
    MalformedMessage,
    ModelFailed,
    PredictionFailed,
    TooManyAttempts,
)
from foreseen.flights import Kind as Who
from foreseen.keys import digest_of, key_of
from foreseen.message import MAX_ITEMS, Item, Message
from foreseen.outcome import Failure, Result
from foreseen.payload import pack
from foreseen.settings import Settings
from foreseen.skim import skim

SEED: Final = 20_260_101
#: A quarter of a million in all, which take some seconds.
MESSAGES, INPUTS, ENTRIES, PUSHES, CARDS, NAMES = 80_000, 60_000, 60_000, 30_000, 20_000, 10_000
TOKEN: Final = "0123456789abcdef"

VALUES: Final[tuple[Any, ...]] = (
    {"value": 1, "text": "Grüße", "nested": [[1.5, None, True], {"$escaped": "x"}]},
    b"%PDF-1.7 some bytes",
    {"pixels": np.arange(12, dtype=np.float32).reshape(3, 4), "raw": b"\0\1\2"},
    "a text",
    [1, 2, 3],
)
OUTPUTS: Final[tuple[Any, ...]] = (
    {"label": "cat", "score": 0.75, "box": [1, 2, 3, 4]},
    np.arange(6, dtype=np.int16).reshape(2, 3),
    {"raw": b"\0\1", "none": None, "array": np.ones((2, 2, 2))},
    "a text",
)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self._path,)


def message_of(value: Any) -> Message:
    canonical = canonicalize(value)
    item = Item(key_of("slow", "1", canonical), TOKEN, 7, 0, canonical)
    return Message("slow@1", (item, item), sent_ms=1_700_000_000_000, priority=4)


def entries() -> list[bytes]:
    failure = ModelFailed("ValueError: no", {"type": "ValueError"}).to_wire()
    packed = [(Kind.RESULT, pack(output)) for output in OUTPUTS] + [(Kind.FAILURE, pack(failure))]
    return [
        Entry(kind, b"generatn", 7, 1_700_000_000_000, 1_700_000_600_000, 5, each).encode() for kind, each in packed
    ]


def with_right_checksum(entry: bytes) -> bytes:
    """Return an entry as somebody writes it who knows how; else nearly none would be looked into."""
    if len(entry) < HEADER_BYTES:
        return entry
    return entry[: HEADER_BYTES - 4] + crc32(entry[HEADER_BYTES:]).to_bytes(4) + entry[HEADER_BYTES:]


def same(one: Any, other: Any) -> bool:
    """Tell whether two outputs are equal, NaN included."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def unpacked(body: bytes) -> Any:
    """Decode a body as a worker does, which refuses what raises there."""
    skim(body, MAX_ITEMS)
    return msgpack.unpackb(body, raw=False)


def test_mutated_messages_are_read_rightly_or_refused() -> None:
    mutate = Mutator(SEED)
    bodies = tuple(message_of(value).body() for value in VALUES)
    read = refused = 0
    for turn in range(MESSAGES):
        body = mutate.choice(bodies)
        try:
            decoded = unpacked(mutate.raw(body)) if turn % 3 == 0 else mutate.value(unpacked(body))
            arguments = decoded[0]
        except Exception:  # noqa: BLE001 - decoders raise anything
            refused += 1
            continue
        try:
            message = Message.read("task", arguments)
        except Malformed:
            refused += 1
            continue
        read += 1
        for item in message.items:
            assert item.key.digest == digest_of(item.key.model, item.key.version, item.canonical.text)
            assert f"{item.key.model}@{item.key.version}" == message.model_id
        assert msgpack.unpackb(message.body())[0][:2] == [1, message.model_id], "it can be sent again"
    assert read > 100, "some are changed where it does not matter"
    assert refused > MESSAGES / 2


def test_a_body_is_skimmed_before_it_is_built() -> None:
    """What is a byte in a message may be sixty in memory: only the form of a message passes."""
    for value in (*VALUES, [b"%d" % number for number in range(300)]):
        skim(message_of(value).body(), MAX_ITEMS)
    empty, much = b"\x90", 2**20
    many = b"\xdd" + much.to_bytes(4) + empty * much
    item_with_many = b"\x96" + b"\xa0" * 5 + many
    for body in (
        many,
        b"\x93" + many + b"\x80\x80",
        b"\x93\x96\x01\xa0\x01\x01" + many + b"\x00\x80\x80",
        b"\x93\x96\x01\xa0\x01\x01\x91" + item_with_many + b"\x00\x80\x80",
        b"\x93\x90\x80\x81\xa1x" + many,
        b"\x93\x90" + b"\xdf" + much.to_bytes(4) + b"\xa0\xc0" * much + b"\x80",
        message_of(1).body() + b"\xc0",
        b"",
    ):
        tracemalloc.start()
        with pytest.raises(MalformedMessage):
            skim(body, MAX_ITEMS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 2**20, "a copy or two of the body, and nothing of what it stands for"


def test_mutated_dead_letters_are_read_rightly_or_refused() -> None:
    mutate = Mutator(SEED)
    items = [item for value in VALUES for item in message_of(value).items]
    bodies = tuple(DeadLetter(item.key, TooManyAttempts("why"), 1, item.canonical).body() for item in items)
    read = refused = 0
    for turn in range(MESSAGES // 4):
        body = mutate.raw(mutate.choice(bodies))
        if turn % 3 == 0:
            body = msgpack.packb(mutate.value(msgpack.unpackb(mutate.choice(bodies))), default=str)
        try:
            letter = DeadLetter.read(body)
        except MalformedMessage:
            refused += 1
            continue
        read += 1
        if letter.canonical is not None:
            assert letter.key.digest == digest_of(letter.key.model, letter.key.version, letter.canonical.text)
        assert isinstance(letter.failure, PredictionFailed)
    assert read > 100, "some are changed where it does not matter"
    assert refused > MESSAGES / 8


def test_mutated_inputs_are_restored_rightly_or_refused() -> None:
    mutate = Mutator(SEED + 1)
    canonicals = tuple(map(canonicalize, VALUES))
    restored = refused = 0
    for turn in range(INPUTS):
        canonical: CanonicalInput = mutate.choice(canonicals)
        text, blobs = canonical.text, list(canonical.blobs)
        if turn % 3 == 0 and blobs:
            blobs = [mutate.raw(blob) for blob in blobs]
        elif turn % 3 == 1:
            text = json.dumps(mutate.value(json.loads(text)), default=str).encode()
        else:
            text = mutate.raw(text)
        try:
            value = restore(text, blobs)
        except MalformedMessage:
            refused += 1
            continue
        restored += 1
        again = canonicalize(value)
        assert canonicalize(restore(again.text, again.blobs)) == again, "what it gives is an input"
    assert restored > 100
    assert refused > INPUTS / 2


def test_mutated_entries_are_read_rightly_or_refused() -> None:
    mutate = Mutator(SEED + 2)
    good = tuple(entries())
    read = refused = 0
    for turn in range(ENTRIES):
        data = mutate.raw(mutate.choice(good))
        data = data if turn % 3 == 0 else with_right_checksum(data)
        try:
            entry = Entry.decode(data)
            outcome = entry.outcome()
        except MalformedEntry:
            refused += 1
            continue
        read += 1
        assert crc32(entry.payload) == int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES])
        if isinstance(outcome, Result):
            assert same(Entry.decode(entry.encode()).outcome().value, outcome.value)  # type: ignore[union-attr]
        else:
            assert isinstance(outcome, Failure)
            assert isinstance(str(outcome.error), str)
    assert read > 100
    assert refused > ENTRIES / 4


def test_mutated_pushes_answer_rightly_or_not_at_all() -> None:
    mutate = Mutator(SEED + 3)
    good = tuple(entries())
    outcomes = [Entry.decode(entry).outcome() for entry in good]
    engine = Engine(Settings())
    canonical = canonicalize(VALUES[0])
    key = key_of("slow", "1", canonical)
    answered = 0
    for _ in range(PUSHES):
        submission = Submission(key, canonical, Who.WAITER)
        engine.table.add(submission)
        submission.tokens, submission.joining = (TOKEN,), False
        entry = mutate.choice(good)
        engine.on_push(mutate.raw(f"{key} {TOKEN}\n".encode() + entry))
        if submission.answer is not None:
            answered += 1
            answer = submission.answer
            assert isinstance(answer, (Result, Failure))
            if isinstance(answer, Result):
                assert any(isinstance(each, Result) and same(each.value, answer.value) for each in outcomes)
        engine.table.settle(submission, Result(None))
    assert answered > 100
    assert not engine.table


def test_mutated_cards_are_read_or_missing() -> None:
    mutate = Mutator(SEED + 4)
    card = Card(name="slow", version="1", queue="foreseen.slow@1", max_batch_size=8, input_schema={"type": "object"})
    text = card.model_dump_json().encode()
    read = missing = 0
    for turn in range(CARDS):
        data = json.dumps(mutate.value(json.loads(text)), default=str).encode() if turn % 2 else mutate.raw(text)
        parsed = cards.parse(data)
        if parsed is None:
            missing += 1
        else:
            read += 1
            assert parsed.max_batch_size >= 1
    assert read > 100
    assert missing > 100


def test_mutated_names_and_counts_are_read_or_missing() -> None:
    mutate = Mutator(SEED + 5)
    for _ in range(NAMES):
        name = mutate.raw(b"slow@1")
        error = cards.not_served("slaw", [name, b"slow@1"], 0)
        assert "slow" in str(error)
        version = cards.version_in(mutate.raw(b"1.2.3"))
        assert version is None or digest_of("slow", version, b"")
        replies = [[mutate.raw(b"12"), None, b"7"] + [None] * (len(statistics.EVENTS) - 3)]
        assert statistics.parse(replies).opened >= 0


def bomb_in(pickled: bytes, path: Path) -> list[Callable[[], Any]]:
    """Return a reading of a pickle at each place where bytes are read; each may refuse, and none may run it."""
    engine = Engine(Settings())
    head = Entry(Kind.RESULT, b"generatn", 7, 1, 2, 5, pickled).encode()
    within = Entry(Kind.RESULT, b"generatn", 7, 1, 2, 5, msgpack.packb(msgpack.ExtType(1, pickled))).encode()
    return [
        lambda: Message.read("task", unpacked(pickled)),
        lambda: Message.read("task", [1, "slow@1", 1, 4, [["0" * 40, TOKEN, 1, 0, pickled, [pickled]]], 0]),
        lambda: restore(pickled, [pickled]),
        lambda: Entry.decode(pickled),
        lambda: Entry.decode(head).outcome(),
        lambda: Entry.decode(within).outcome(),
        lambda: engine.on_push(pickled),
        lambda: engine.on_push(b"slow@1:" + b"0" * 40 + b" " + TOKEN.encode() + b"\n" + head),
        lambda: cards.parse(pickled),
        lambda: cards.parse(json.dumps({"py/reduce": [str(path)], "__reduce__": pickled.hex()}).encode()),
        lambda: cards.version_in(pickled),
        lambda: cards.not_served("slow", [pickled], 0),
    ]


def test_no_reader_runs_a_pickle(tmp_path: Path) -> None:
    boom = tmp_path / "boom"
    pickled = pickle.dumps(Bomb(boom))
    for reading in bomb_in(pickled, boom):
        try:
            reading()
        except (Malformed, ValueError, TypeError, msgpack.UnpackException):
            continue
    assert not boom.exists()
    pickle.loads(pickled)  # noqa: S301 - the test's own
    assert boom.exists(), "it does make a folder where it is run"


@pytest.mark.parametrize("package", ["foreseen", "producer", "workers"])
def test_nothing_evaluates_or_unpickles(package: str) -> None:
    """No module of ours calls what could run what it reads."""
    import ast

    forbidden = {
        "eval",
        "exec",
        "__import__",
        "compile",
        "marshal",
        "shelve",
        "pickle",
        "dill",
        "cloudpickle",
        "joblib",
    }
    found: list[str] = []
    for path in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id}
            elif isinstance(node, ast.Import):
                names = {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            found += [f"{path.name}:{node.lineno}: {name}" for name in sorted(names & forbidden)]  # type: ignore[attr-defined]
    assert found == []
