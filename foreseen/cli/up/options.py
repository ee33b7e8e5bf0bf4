"""What `foreseen up` was asked for, as one frozen object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foreseen.cli.up.flower import Flower

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        named: what to serve, as it was named: files, directories, modules.
        watched: directories in which, and below which, code changes that concerns the worker.
        concurrency: processes of the worker.
        flower: None for none.
        reload: restart the worker when code changes.
        verbose: show every line of every log.
        stop_timeout_s: how long the worker may take to finish what it computes.
        exports: what another terminal needs to be told, as shell commands.
        variables: names of environment variables that say where producers look, if some are set here.
    """

    named: Sequence[str]
    watched: Sequence[Path]
    concurrency: int
    flower: Flower | None
    reload: bool
    verbose: bool
    stop_timeout_s: float
    exports: Sequence[str]
    variables: Sequence[str]
