"""Where the calling thread's time goes: `python -m benchmarks.profile hit`, or `miss`.

The profiler makes Python's calls look dearer than they are, and system calls not; compare lines with each other only.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats

from benchmarks.harness import Size
from benchmarks.stage import ECHO, MODEL, fresh_text, stage
from foreseen.cli.interrupt import interruptible

__all__: list[str] = []

_CALLS = {"hit": 5000, "miss": 500}
_LINES = 30


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("what", choices=_CALLS)
    what = parser.parse_args().what
    with interruptible(), stage(Size.SHORT) as on:
        on.have(ECHO)
        known = on.known()
        with cProfile.Profile() as profile:
            for _ in range(_CALLS[what]):
                on.producer.predict(MODEL, known if what == "hit" else fresh_text())
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(_LINES)


if __name__ == "__main__":
    _main()
