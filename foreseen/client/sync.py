"""The engine on the caller's thread, and the one thread that listens.

Calls run where they are made. The listener hears the inbox, looks again for those who have waited for as long as they
were told, and keeps the catalog fresh; however many wait, there is one.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

from foreseen.broker import Publisher
from foreseen.cache import Cache
from foreseen.client.effects import Ask, Effect, Pause, Read, Send, Steps
from foreseen.client.engine import CHUNK, Engine
from foreseen.errors import ForeseenError
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.client import PubSub

__all__ = ["SyncClient"]

T = TypeVar("T")
log = logging.getLogger("foreseen.client")

#: The listener wakes at least this often to see what is due; nobody is told to look again sooner than that matters.
_TICK_S: Final = 0.25
#: Pause before the inbox is opened again, doubled up to the cap.
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0


class SyncClient:
    """Runs an engine's steps on the calling thread.

    Args:
        settings: of the deployment.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self._cache = Cache(settings)
        self._publisher = Publisher(settings)
        self._listener = _Listener(self, settings)

    def open(self) -> None:
        """Start to listen; returns once pushes can arrive, or raises `CacheUnavailable`."""
        self._cache.commands([("PING",)])
        self._listener.start()

    def run(self, steps: Steps[T]) -> T:
        """Run steps to their end and return what they return."""
        try:
            effect = next(steps)
            while True:
                try:
                    result = self._do(effect)
                except BaseException as error:  # noqa: BLE001 - the steps decide what an error means
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def pubsub(self) -> PubSub:
        """Return a connection for the inbox."""
        return self._cache.pubsub(health_check_s=self.engine.settings.lease_s / 2)

    def close(self) -> None:
        """Flush marks, end what is open, stop listening, close connections."""
        with suppress(ForeseenError):  # a server that is gone cannot be told, and everybody here is
            self.run(self.engine.close())
        self._listener.stop()
        self._publisher.close()
        self._cache.close()

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Ask(calls):
                return self._cache.run(calls)
            case Read(commands):
                return self._cache.commands(commands)
            case Send(messages):
                return self._publisher.publish(messages)
            case Pause(seconds):
                return time.sleep(seconds)


class _Listener:
    """The thread that hears the inbox."""

    def __init__(self, client: SyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._engine = client.engine
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshed_at = self._ticked_at = time.monotonic()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="foreseen-listener", daemon=True)
        self._thread.start()
        # Not needed for an answer, which a look would find too; it spares the first submission that look's wait.
        self._listening.wait(self._settings.connect_timeout_s)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._settings.reply_timeout_s)

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._stopping.is_set():
            pubsub = self._client.pubsub()
            try:
                pubsub.subscribe(self._engine.inbox)
                self._confirm(pubsub)
                self._listening.set()
                self._engine.table.everybody_looks_now()  # what was pushed meanwhile is lost
                retry_s = _FIRST_RETRY_S
                self._listen(pubsub)
            except (RedisError, OSError) as error:
                log.warning("inbox lost, opening it again in %.2f s: %s", retry_s, error)
                self._stopping.wait(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            except Exception:  # a defect here must not leave everybody waiting for ever
                log.exception("listener failed, starting over")
                self._stopping.wait(_LAST_RETRY_S)
            finally:
                with suppress(RedisError, OSError):
                    pubsub.connection_pool.disconnect()
                    pubsub.close()

    def _confirm(self, pubsub: PubSub) -> None:
        """Wait until the server has confirmed the subscription: from then on no push passes unheard."""
        deadline = time.monotonic() + self._settings.reply_timeout_s
        pubsub.ignore_subscribe_messages = False
        while True:
            message = pubsub.get_message(timeout=self._settings.reply_timeout_s)
            if message is not None and message["type"] == "subscribe":
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not confirm the subscription")
        pubsub.ignore_subscribe_messages = True

    def _listen(self, pubsub: PubSub) -> None:
        while not self._stopping.is_set():
            due = self._engine.table.next_due()
            wait_s = _TICK_S if due is None else min(_TICK_S, max(0.0, due - time.monotonic()))
            message = pubsub.get_message(timeout=wait_s)
            while message is not None:
                data = message["data"]
                if message["type"] == "message" and isinstance(data, bytes):
                    self._engine.on_push(data)
                message = pubsub.get_message(timeout=0)
            self._look_and_refresh()

    def _look_and_refresh(self) -> None:
        engine = self._engine
        try:
            if submissions := engine.table.due(time.monotonic(), CHUNK):  # one chunk, then what was pushed meanwhile
                self._client.run(engine.look(submissions))
            if time.monotonic() - self._ticked_at >= _TICK_S:  # not on the way of an answer
                self._ticked_at = time.monotonic()
                self._client.run(engine.tick())
            if time.monotonic() - self._refreshed_at > self._settings.card_refresh_s:
                self._refreshed_at = time.monotonic()
                self._client.run(engine.catalog.refresh())
        except ForeseenError as error:
            log.warning("looking again failed, trying soon: %s", error)
            self._stopping.wait(_FIRST_RETRY_S)
