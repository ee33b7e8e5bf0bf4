"""Ctrl-C, SIGTERM and a closed terminal, as one exception that ends a command cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

__all__ = ["Interrupted", "impatience", "interruptible", "out_of_reach"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Somebody wants the command to end.

    Attributes:
        status: to exit with, as shells tell of signals: 130 for Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextmanager
def interruptible() -> Generator[None]:
    """Raise `Interrupted` at the first signal and ignore all further ones, so that nothing cuts the clean-up short."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    # What is ignored on purpose stays so: `nohup` wants a closed terminal to change nothing.
    mine = [each for each in _SIGNALS if each is signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, interrupt) for each in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def impatience() -> Generator[threading.Event]:
    """Yield what is set by a Ctrl-C or SIGTERM from now on, while something ends in good order.

    A further SIGHUP is no impatience: a terminal that closes sends it, and its shell sends it once more.
    """
    impatient = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        impatient.set()

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield impatient
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def out_of_reach() -> Generator[None]:
    """Start processes that Ctrl-C does not reach: a terminal sends it to all, and only the command is to end them.

    They inherit a blocked SIGINT, from before their first instruction; one that arrives here waits for the end.
    """
    resource_tracker.ensure_running()  # multiprocessing would start it now, and lift the block by that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
