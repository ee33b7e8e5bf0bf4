"""Mend `time.sleep` where a clock is shifted; Python imports a module of this name by itself.

libfaketime, told to leave the monotonic clock alone, refuses the call that it is made of: `clock_nanosleep` until a
monotonic time fails with EINVAL.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select((), (), (), seconds)


time.sleep = _sleep
