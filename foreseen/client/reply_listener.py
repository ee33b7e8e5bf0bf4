"""The thread that hears a producer's replies, once something was sent that is answered by the broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from foreseen.client.listening import FIRST_RETRY_S, LAST_RETRY_S, TICK_S
from foreseen.errors import BrokerUnavailable, ForeseenError, MalformedMessage
from foreseen.settings import Settings

__all__ = ["ReplyListener"]

log = logging.getLogger("foreseen.client")


class ReplyListener:
    """Consumes a queue of replies from the first `open` until `close`.

    Args:
        settings: of the deployment.
        queue: the producer's own.
        on_push: called with each push, on the listener's thread.
    """

    def __init__(self, settings: Settings, queue: str, on_push: Callable[[bytes], object]) -> None:
        self._settings = settings
        self._queue = queue
        self._on_push = on_push
        self._opening = threading.Lock()
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._stopping = threading.Event()

    def open(self) -> None:
        """Start, unless that was done; returns once the queue is there, so that no reply can miss it.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        with self._opening:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="foreseen-replies", daemon=True)
                self._thread.start()
        if not self._listening.wait(self._settings.connect_timeout_s + self._settings.reply_timeout_s):
            raise BrokerUnavailable("The broker does not answer, through which outcomes are to come without a cache.")

    def close(self) -> None:
        """Stop; the queue goes by itself."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self._settings.reply_timeout_s)

    def _run(self) -> None:
        from foreseen import replies  # with kombu's consumer, which a producer whose cache answers never needs

        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                with replies.hearing(self._settings, self._queue, self._take) as hear:
                    self._listening.set()
                    retry_s = FIRST_RETRY_S
                    while not self._stopping.is_set():
                        hear(TICK_S)
            except ForeseenError as error:
                log.debug("replies cannot be heard, trying again in %.2f s: %s", retry_s, error)
            except Exception:  # a defect here must not leave everybody waiting for ever
                log.exception("the listener for replies failed, starting over")
            self._listening.clear()
            self._stopping.wait(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _take(self, message: Any) -> None:
        from foreseen import replies

        try:
            push = replies.read(self._settings, message)
        except MalformedMessage as error:
            log.warning("dropped what came as a reply: %s", error)
            return
        self._on_push(push)
