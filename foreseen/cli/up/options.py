"""What `foreseen up` was asked for, as one frozen object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foreseen.cli.up.flower import Flower
from foreseen.modules import Given

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        modules: to serve.
        concurrency: processes of the worker.
        flower: None for none.
        reload: restart the worker when code changes.
        verbose: show every line of every log.
        stop_timeout_s: how long the worker may take to finish what it computes.
        exports: what another terminal needs to be told, as shell commands.
        variables: names of environment variables that say where producers look, if some are set here.
    """

    modules: Sequence[Given]
    concurrency: int
    flower: Flower | None
    reload: bool
    verbose: bool
    stop_timeout_s: float
    exports: Sequence[str]
    variables: Sequence[str]
