"""What a worker knows of the models that its processes load: told through a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.serving import Serving, State, tell


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    return tmp_path / "loaded"


@pytest.fixture
def serving(pipe: Path) -> Iterator[Serving]:
    serving = Serving(pipe, ["a@1", "b@1"])
    yield serving
    serving.close()


def tell_from_a_process(pipe: Path, model_id: str, error: str = "") -> int:
    """Tell from a forked process, which ends then; return its id. It stays a zombie, so that it counts as alive."""
    child = os.fork()
    if child == 0:
        tell(pipe, model_id, time.monotonic(), error)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child


def test_a_model_is_served_once_a_process_has_loaded_it(serving: Serving, pipe: Path) -> None:
    changes: list[str] = []
    serving.follow(changes.append)
    assert serving.lives["a@1"].state is State.LOADING
    tell(pipe, "a@1", time.monotonic() - 2)
    serving.look()
    assert serving.is_served("a@1")
    assert not serving.is_served("b@1")
    assert changes == ["a@1"]
    assert (serving.lives["a@1"].processes, round(serving.lives["a@1"].load_s)) == (1, 2)


def test_what_was_told_before_anybody_followed_is_told_then(serving: Serving, pipe: Path) -> None:
    tell(pipe, "a@1", time.monotonic())
    tell(pipe, "b@1", time.monotonic(), "no weights")
    serving.look()
    changes: list[str] = []
    serving.follow(changes.append)
    assert changes == ["a@1", "b@1"]


def test_one_process_that_could_not_load_it_ends_it_until_another_has_taken_its_place(
    serving: Serving, pipe: Path
) -> None:
    tell(pipe, "a@1", time.monotonic())
    failed = tell_from_a_process(pipe, "a@1", "out of memory")
    serving.look()
    assert serving.lives["a@1"].state is State.FAILED
    assert serving.lives["a@1"].error == "out of memory"
    os.waitpid(failed, 0)  # gone
    serving.look()
    assert serving.is_served("a@1")
    assert serving.lives["a@1"].error == ""


def test_a_model_that_nobody_could_load_is_loading_again_when_they_are_gone(serving: Serving, pipe: Path) -> None:
    os.waitpid(tell_from_a_process(pipe, "a@1", "no weights"), 0)
    serving.look()
    assert serving.lives["a@1"].state is State.LOADING


def test_the_death_of_who_had_loaded_it_changes_nothing(serving: Serving, pipe: Path) -> None:
    gone = tell_from_a_process(pipe, "a@1")
    serving.look()
    os.waitpid(gone, 0)
    serving.look()
    assert serving.is_served("a@1")
    assert serving.lives["a@1"].processes == 0


@pytest.mark.parametrize("error", ["x" * 5000, "\N{SNOWMAN}" * 5000, "\n\x00" * 3000])
def test_a_long_error_is_told_in_part(serving: Serving, pipe: Path, error: str) -> None:
    tell(pipe, "a@1", time.monotonic(), error)
    tell(pipe, "b@1", time.monotonic())
    serving.look()
    assert serving.lives["a@1"].state is State.FAILED
    assert serving.lives["a@1"].error.startswith(error[:10])
    assert serving.is_served("b@1")


def test_what_is_no_line_of_ours_is_passed_over(serving: Serving, pipe: Path) -> None:
    pipe.write_text("garbage\n{}\n" + '{"pid": 1, "model": "none@1", "load_s": 0, "error": ""}\n')
    tell(pipe, "a@1", time.monotonic())
    serving.look()
    assert serving.is_served("a@1")


def test_who_tells_a_worker_that_has_ended_goes_on(tmp_path: Path) -> None:
    tell(tmp_path / "nobody", "a@1", time.monotonic())
