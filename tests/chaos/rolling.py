"""Two releases side by side: workers and producers are replaced one by one, under traffic, over one broker and cache.

An upgrade replaces workers before producers, and a way back producers before workers: a worker reads what every
producer of its release and of those before has written, and not what those after may write.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from acceptance.harness import Deployment, Pool, Worker

from chaos.checker import Verdict, check

__all__ = ["BEFORE", "HERE", "Release", "Role", "Rolling", "release_of"]

#: The last commit whose flights are of layout 1 alone.
BEFORE: Final = "e8c273f"
LEASE_S: Final = 2.0
VISIBILITY_S: Final = 8.0
#: After the last request, at most, until the broker has nothing left.
QUIET_S: Final = 3 * VISIBILITY_S
WORKERS: Final = 2
FACES: Final = ("sync", "async", "sync", "async")
#: What a producer may be told by the older release while the newer opens flights: a retry helps, once it has ended.
REFUSED: Final = frozenset({"UnsupportedLayout"})
_ROOT: Final = Path(__file__).resolve().parents[2]
_END_S: Final = 120.0

Role: TypeAlias = Literal["workers", "producers"]


class Release(NamedTuple):
    """A tree of the code.

    Attributes:
        name: for the report.
        root: where it is.
    """

    name: str
    root: Path

    @property
    def path(self) -> str:
        """Of modules, for a process of this release."""
        return os.pathsep.join([str(self.root), str(self.root / "tests")])


HERE: Final = Release("this tree", _ROOT)


def release_of(commit: str, directory: Path) -> Release:
    """Unpack a commit into a folder.

    Raises:
        LookupError: this is no repository, or has no such commit.
    """
    command = ["git", "-C", str(_ROOT), "archive", "--format=tar", commit]
    packed = subprocess.run(command, capture_output=True, check=False)
    if packed.returncode:
        raise LookupError(packed.stderr.decode(errors="replace").strip())
    root = directory / f"release-{commit}"
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tree:
        tree.extractall(root, filter="data")
    return Release(commit, root)


class _Producer(NamedTuple):
    process: subprocess.Popen[bytes]
    history: Path

    def finish(self) -> None:
        """Ask no more, and wait for what was asked."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(_END_S)


class Rolling:
    """A deployment whose processes are replaced.

    Args:
        directory: for histories and logs.
        dwell_s: how long each state lasts.
        seed: draws requests.

    Attributes:
        steps: what was done, and when, in seconds since the beginning.
    """

    def __init__(self, directory: Path, *, dwell_s: float, seed: int) -> None:
        self._directory = directory
        self._dwell_s = dwell_s
        self._seed = seed
        self._began = time.monotonic()
        self._deployment = Deployment(
            directory,
            models=("served.stamped",),
            lease_s=LEASE_S,
            visibility_timeout_s=VISIBILITY_S,
            card_refresh_s=1.0,
        )
        self._workers: list[Worker] = []
        self._producers: list[_Producer] = []
        self._every: list[_Producer] = []
        self.steps: list[tuple[str, float]] = []

    def run(self, before: Release, after: Release, order: Sequence[Role]) -> Verdict:
        """Replace every process of one release by one of another, under traffic; judge what was asked and told.

        Args:
            before: what runs first.
            after: what runs in the end.
            order: in which roles are replaced.
        """
        with self._deployment:
            try:
                for _ in range(WORKERS):
                    self._start_worker(before)
                for _ in FACES:
                    self._start_producer(before)
                self._step(f"all is {before.name}")
                for role in order:
                    self._replace(role, after)
                for producer in self._producers:
                    producer.finish()
                end = time.monotonic() + QUIET_S
                while self._deployment.unsettled_messages() and time.monotonic() < end:
                    time.sleep(0.2)
            finally:
                for producer in self._every:
                    producer.process.kill()
                    producer.process.wait()
            histories = [each.history for each in self._every]
            return check(histories, self._deployment.record, [], set(), LEASE_S, retried=REFUSED)

    def _replace(self, role: Role, after: Release) -> None:
        """Replace one after the other: the new one serves before the old one goes."""
        for number in range(WORKERS if role == "workers" else len(FACES)):
            if role == "workers":
                self._start_worker(after)
                worker = self._workers.pop(0)
                worker.terminate()
                worker.wait(_END_S)
            else:
                self._start_producer(after)
                self._producers.pop(0).finish()
            self._step(f"{role.removesuffix('s')} {number + 1} is {after.name}")

    def _step(self, what: str) -> None:
        self.steps.append((what, time.monotonic() - self._began))
        time.sleep(self._dwell_s)

    def _start_worker(self, release: Release) -> None:
        pool: Pool = "prefork" if len(self._deployment.workers) % 2 else "threads"
        self._workers.append(self._deployment.start_worker(pool, 2, PYTHONPATH=release.path))

    def _start_producer(self, release: Release) -> None:
        place = len(self._every)
        history = self._directory / f"history{place}"
        history.touch()
        with (self._directory / f"traffic{place}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "chaos.traffic",
                    f"{self._seed}{place}",
                    FACES[place % len(FACES)],
                    str(history),
                ],
                env=self._deployment.environment | {"PYTHONPATH": release.path},
                cwd=self._directory,  # else this tree would be found first
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=log,
            )
        self._producers.append(_Producer(process, history))
        self._every.append(self._producers[-1])
