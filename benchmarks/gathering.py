"""What waiting for a batch gives and costs, by what a call of the model does: `python -m benchmarks.gathering`.

Threads in this process stand for messages of one item each, and ask again as soon as they are answered. Shown are
items a second, the median time of one, and how many a call had, for each `max_wait_s`; 0 puts nothing together.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from workers.gathering import Answered, Gathering
from workers.policies import Batching

_WAITS_S: Final = (0.0, 0.001, 0.005, 0.02)
_THREADS: Final = (1, 4, 16)
_SECONDS: Final = 1.5

_device = threading.Lock()


class _Item:
    priority = 4
    deadline_at = float("inf")


def _take_turns(count: int) -> None:
    with _device:
        time.sleep(0.004 + 0.0002 * count)


def _side_by_side(count: int) -> None:
    del count
    time.sleep(0.02)


def _one_by_one(count: int) -> None:
    for _ in range(count):
        time.sleep(0.005)


def _hold_the_interpreter(count: int) -> None:
    end = time.thread_time() + 0.0005 + 0.0005 * count
    while time.thread_time() < end:
        pass


_MODELS: Final[dict[str, Callable[[int], None]]] = {
    "takes turns on one device, 4 ms + 0.2 ms each": _take_turns,
    "20 ms, however many run beside it": _side_by_side,
    "holds the interpreter, 0.5 ms + 0.5 ms each": _hold_the_interpreter,
    "waits 5 ms in each, one by one": _one_by_one,
}


class _Caller:
    def __init__(self, model: Callable[[int], None]) -> None:
        self._model = model
        self.sizes: list[int] = []

    def call(self, batch: Sequence[_Item], answered: Answered) -> None:
        del answered
        self.sizes.append(len(batch))
        self._model(len(batch))

    def tell(self, batch: Sequence[_Item]) -> None:
        pass


def _measure(model: Callable[[int], None], max_wait_s: float, n_threads: int) -> str:
    gathering: Gathering[_Item] = Gathering(Batching(max_wait_s=max_wait_s))
    caller = _Caller(model)
    took_s: list[float] = []
    end = time.monotonic() + _SECONDS

    def ask() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            gathering.compute([_Item()], caller)
            took_s.append(time.perf_counter() - began)

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    median_ms = statistics.median(took_s) * 1000
    return f"{len(took_s) / _SECONDS:7.0f}/s {median_ms:6.1f} ms {statistics.mean(caller.sizes):4.1f}"


def main() -> None:
    """Print the table."""
    print(" " * 12 + "".join(f"{f'max_wait_s={wait_s:g}':>26}" for wait_s in _WAITS_S))
    for name, model in _MODELS.items():
        print(f"a call {name}")
        for n_threads in _THREADS:
            cells = [_measure(model, wait_s, n_threads) for wait_s in _WAITS_S]
            print(f"{n_threads:3} threads " + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
