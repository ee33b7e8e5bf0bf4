"""Python imports this by itself where a clock is shifted: libfaketime, told to leave the monotonic clock alone, refuses
the one call that `time.sleep` is made of (`clock_nanosleep` until a monotonic time, EINVAL)."""  # fmt: skip

import select
import time


def _sleep(seconds: float) -> None:
    select.select((), (), (), seconds)


time.sleep = _sleep
