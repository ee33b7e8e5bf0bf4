"""What the processes of one worker share: a directory, and the channel by which others see that it lives.

Made by the process that starts, and known to its children from their memory, or, where they are started anew instead of
being forked, from their environment.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from foreseen.flights import nonce
from foreseen.keys import KeySpace

__all__ = ["Home"]

_VARIABLE: Final = "_FORESEEN_WORKER"


class Home(NamedTuple):
    """Of one worker.

    Attributes:
        directory: for files that tell its processes of each other.
        name: a nonce.
        channel: that it listens to, in the process that starts, for as long as it lives.
    """

    directory: Path
    name: str
    channel: str

    @classmethod
    def make(cls, space: KeySpace) -> Home:
        """Make one, for the process that starts."""
        name = nonce()
        return cls(Path(tempfile.mkdtemp(prefix="foreseen-worker-")), name, space.worker(name))

    @classmethod
    def inherited(cls, space: KeySpace) -> Home:
        """Return the one that this process was started in.

        Raises:
            KeyError: it was started by no worker.
        """
        directory, name = os.environ[_VARIABLE].rsplit(":", 1)
        return cls(Path(directory), name, space.worker(name))

    def leave_word(self) -> None:
        """Let children know it that are started anew."""
        os.environ[_VARIABLE] = f"{self.directory}:{self.name}"

    @property
    def pipe(self) -> Path:
        """Through which processes tell of the models that they load."""
        return self.directory / "loaded"

    def remove(self) -> None:
        """Remove the directory; for when the worker ends."""
        shutil.rmtree(self.directory, ignore_errors=True)
