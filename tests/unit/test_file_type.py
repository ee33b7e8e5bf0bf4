from __future__ import annotations

import sysconfig
from pathlib import Path

import onnxruntime
import pytest
from magika import Magika

from foreseen.payload import pack, unpack
from workers.compute import compute
from workers.models.file_type import FileType, Label

FILES = 240
LIBRARY = Path(sysconfig.get_path("stdlib"))


def files_of_the_standard_library() -> list[bytes]:
    """Return real files, as many kinds of them as the library has."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(LIBRARY.rglob("*")):
        if path.is_file() and not {"site-packages", "__pycache__"} & {*path.parts}:
            by_suffix.setdefault(path.suffix, []).append(path)
    rounds = max(map(len, by_suffix.values()))
    mixed = [paths[number] for number in range(rounds) for paths in by_suffix.values() if number < len(paths)]
    return [path.read_bytes() for path in mixed[:FILES]]


@pytest.fixture(scope="module")
def file_type() -> FileType:
    model = FileType()
    model.load()
    return model


def test_the_version_is_the_one_that_magika_reports() -> None:
    assert FileType.version == Magika().get_model_name()


def test_labels_and_scores_are_those_of_magika_itself(file_type: FileType) -> None:
    files = files_of_the_standard_library()
    assert len(files) == FILES
    magika = Magika()
    size = FileType.batching.max_batch_size
    ours = [label for start in range(0, FILES, size) for label in compute(file_type, files[start : start + size])]
    theirs = [magika.identify_bytes(content).prediction for content in files]
    assert [one["label"] for one in ours] == [str(one.output.label) for one in theirs]
    assert [one["mime_type"] for one in ours] == [one.output.mime_type for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-5)
    assert len({one["label"] for one in ours}) >= 3


def test_an_answer_does_not_depend_on_who_else_asked(file_type: FileType) -> None:
    files = files_of_the_standard_library()[: FileType.batching.max_batch_size]
    assert compute(file_type, files) == [compute(file_type, [content])[0] for content in files]


def test_an_empty_file_and_a_tiny_one_are_answered(file_type: FileType) -> None:
    empty, tiny = compute(file_type, [b"", b"a"])
    assert empty["label"] == "empty"
    assert tiny["label"] == "txt"


def test_a_prediction_travels_and_comes_back_as_its_type(file_type: FileType) -> None:
    [output] = compute(file_type, [b"import os\nprint(os.getcwd())\n" * 4])
    assert type(output["label"]) is str
    label = Label.model_validate(unpack(pack(output)))
    assert (label.label, label.mime_type, label.group) == ("python", "text/x-python", "code")
    assert 0.9 < label.score <= 1


def test_the_network_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of a worker would else start a thread per core."""
    threads: list[int] = []
    session = onnxruntime.InferenceSession

    def spy(path: Path, options: onnxruntime.SessionOptions, **rest: object) -> object:
        threads.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    FileType().load()
    assert threads == [1]
