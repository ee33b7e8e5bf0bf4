"""Who may compute beside whom, in threads and in forked processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from workers.isolation import Isolation

#: Long enough that a thread which may go on has gone on; what is asserted after it is that one has not.
SETTLED_S = 0.2
DEADLINE_S = 10.0


@pytest.fixture
def isolation(tmp_path: Path) -> Isolation:
    return Isolation(tmp_path)


class Someone(threading.Thread):
    """Enters, and stays until told to leave."""

    def __init__(self, isolation: Isolation, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._enter = isolation.alone if alone else isolation.in_company
        self._leave = threading.Event()
        self.inside = threading.Event()
        self.start()

    def run(self) -> None:
        with self._enter():
            self.inside.set()
            self._leave.wait(DEADLINE_S)

    def leave(self) -> None:
        self._leave.set()
        self.join(DEADLINE_S)


def test_many_compute_beside_each_other(isolation: Isolation) -> None:
    everybody = [Someone(isolation, alone=False) for _ in range(4)]
    assert all(one.inside.wait(DEADLINE_S) for one in everybody)
    for one in everybody:
        one.leave()


def test_who_is_alone_waits_for_all_others_and_keeps_more_from_coming_in(isolation: Isolation) -> None:
    first = Someone(isolation, alone=False)
    assert first.inside.wait(DEADLINE_S)
    lone = Someone(isolation, alone=True)
    assert not lone.inside.wait(SETTLED_S)
    late = Someone(isolation, alone=False)
    assert not late.inside.wait(SETTLED_S)
    first.leave()
    assert lone.inside.wait(DEADLINE_S)
    assert not late.inside.is_set()
    lone.leave()
    assert late.inside.wait(DEADLINE_S)
    late.leave()


def test_a_process_that_is_killed_leaves(isolation: Isolation) -> None:
    with isolation.in_company():  # a descriptor that the child must not share
        pass
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        with isolation.alone():
            os.write(say, b"!")
            time.sleep(DEADLINE_S)
        os._exit(0)
    assert os.read(ready, 1) == b"!"
    other = Someone(isolation, alone=False)
    assert not other.inside.wait(SETTLED_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert other.inside.wait(DEADLINE_S)
    other.leave()
