"""The engine on the caller's thread, and the one thread that listens.

Calls run where they are made. The listener hears the inbox, unless a lone caller who waits does, looks again for those
who have waited for as long as they were told, and keeps the catalog fresh; however many wait, there is one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError

from foreseen.broker import Publisher
from foreseen.cache import Cache
from foreseen.client.asking import CHUNK
from foreseen.client.effects import Ask, Effect, HearReplies, Pause, Read, Send, Steps
from foreseen.client.engine import Engine
from foreseen.client.listening import FIRST_RETRY_S, LAST_RETRY_S, TICK_S
from foreseen.client.reading import NOTHING
from foreseen.client.reply_listener import ReplyListener
from foreseen.client.shipping import Shipped, Shipping, outcome_of
from foreseen.client.submission import Answer, Submission
from foreseen.errors import BrokerUnavailable, CacheUnavailable, ForeseenError
from foreseen.gathering import Gathering
from foreseen.outage import Outage
from foreseen.settings import Settings

if TYPE_CHECKING:
    from redis.client import PubSub

    from foreseen.client.events import Sender
    from foreseen.client.tracking import NodesTracking, Tracking

__all__ = ["SyncClient"]

T = TypeVar("T")
log = logging.getLogger("foreseen.client")


class SyncClient:
    """Runs an engine's steps on the calling thread.

    Args:
        settings: of the deployment.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self._cache = Cache(settings, breaks=True)
        self._publisher = Publisher(settings)
        self._shipping = Shipping(settings, self._publisher)
        #: One publish in the air at a time: with two, 64 threads send almost twice the messages, in no less time.
        self._sends: Gathering[None, Send, Shipped] = Gathering(
            [None],
            lambda: None,
            self._ship,
            most=CHUNK,
            patience_s=2 * (settings.connect_timeout_s + settings.reply_timeout_s),
        )
        self._listener = _Listener(self, settings)
        self._replies = ReplyListener(settings, self.engine.direct.queue, self.engine.on_push)
        self._tracking: NodesTracking | Tracking | None = None
        if self.engine.near is not None:
            from foreseen.client.tracking import NodesTracking, Tracked, Tracking

            near, space = self.engine.near, self.engine.space
            is_one = self._cache.nodes() == (None,)
            self._tracking = (
                Tracking(Tracked(near, space), self._cache) if is_one else NodesTracking(near, space, self._cache)
            )
        self._events: Sender | None = None
        if self.engine.watch is not None and self.engine.watch.events is not None:
            from foreseen.client.events import Sender

            self._events = Sender(settings, self.engine.watch.events)

    def open(self) -> None:
        """Start to listen; returns once pushes can arrive, or raises `CacheUnavailable`."""
        self._cache.commands([("PING",)])
        if self._tracking is not None:
            self._tracking.start()
        self._listener.start()
        if self._events is not None:
            self._events.start()

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

    def submit(self, submission: Submission) -> None:
        """Run `Engine.submit_one`; a hit, without a near cache, goes without steps."""
        engine = self.engine
        command = engine.reads(submission) if engine.near is None else None
        if command is None:
            self.run(engine.submit_one(submission))
            return
        try:
            (reply,) = self._cache.commands((command,))
        except CacheUnavailable:  # which the look-up will find out, too
            reply = NOTHING
        if not engine.is_read(submission, reply):
            self.run(engine.submit_unread(submission))

    @property
    def outage(self) -> Outage:
        """What is known of the cache server's troubles."""
        return self._cache.outage

    @property
    def moves(self) -> int:
        """Grows when another server has taken the cache's place."""
        return self._cache.moves

    def leave(self, submission: Submission, answer: Answer) -> bool:
        """Take a submission out of its flight and give it `answer`; False if it was answered before."""
        return self.run(self.engine.leave(submission, answer))

    def leave_soon(self, submissions: Iterable[Submission], answer: Answer) -> None:
        """Take submissions out of their flights; the listener's thread tells the cache, and nobody waits for that."""
        self.engine.leave_soon(submissions, answer)
        self._listener.tick_now()

    def listen(self) -> None:
        """Have outcomes heard by the listener's thread: somebody waits who does not wait in `hear`."""
        self._listener.listen()

    def hear(self, submission: Submission, timeout: float | None) -> None:
        """Hear pushes on the calling thread, if nobody does, until this is answered; returns within a moment anyway."""
        self._listener.hear(submission, timeout)

    def pubsub(self) -> PubSub:
        """Return a connection for the inbox."""
        return self._cache.pubsub(health_check_s=self.engine.settings.lease_s / 2)

    def close(self) -> None:
        """Flush marks, end what is open, stop listening, close connections."""
        with suppress(ForeseenError):  # a server that is gone cannot be told, and everybody here is
            self.run(self.engine.close())
        if self._tracking is not None:
            self._tracking.stop()
        self._listener.stop()
        if self._events is not None:
            self._events.close()
        self._replies.close()
        self._publisher.close()
        self._cache.close()

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Ask(calls):
                return self._cache.run(calls)
            case Read(commands):
                return self._cache.commands(commands)
            case Send():
                return outcome_of(self._sends.send(effect, len(effect.items)))
            case HearReplies():
                return self._replies.open()
            case Pause(seconds):
                return time.sleep(seconds)

    def _ship(self, _: None, sends: Sequence[Send]) -> list[Shipped]:
        shipped = self._shipping.ship(sends)
        for each in shipped:
            if isinstance(each, BrokerUnavailable):  # who waits behind it is spared the same wait
                self._sends.tell_all(each)
                break
        return shipped


class _Listener:
    """Hears the inbox: a thread of its own, or the caller who waits, whoever is there first.

    A lone caller hears his outcome himself, which spares waking him; one at a time reads the connection. Looks and
    refreshes are always the thread's.
    """

    def __init__(self, client: SyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._engine = client.engine
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._wanted = threading.Event()  # somebody waits who does not hear himself
        self._hearing = threading.Lock()  # held by whoever reads the connection
        self._hearer: int | None = None  # the thread that does
        self._claimed = False  # the thread waits for that lock: callers do not take it again and again before it
        self._pubsub: PubSub | None = None
        self._thread: threading.Thread | None = None
        self._refreshed_at = self._ticked_at = time.monotonic()
        self._moves = 0  # of the cache, when the connection was opened

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="foreseen-listener", daemon=True)
        self._thread.start()
        # Not needed for an answer, which a look would find too; it spares the first submission that look's wait.
        self._listening.wait(self._settings.connect_timeout_s)

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._settings.reply_timeout_s)

    def listen(self) -> None:
        """Hear on the listener's thread as long as anything is open."""
        if not self._wanted.is_set():
            self._wanted.set()

    def tick_now(self) -> None:
        """Send what waits for a round trip as soon as the thread is free."""
        self._ticked_at = 0.0
        self._wanted.set()

    def hear(self, submission: Submission, timeout: float | None) -> None:
        """Hear on the calling thread until the submission is answered, for a moment; leave the rest to the thread."""
        if self._hearer == threading.get_ident():  # a callback of an outcome that this very thread is handing out
            self._hear_within(submission, timeout)
            return
        if self._claimed or not self._hearing.acquire(blocking=False):
            self.listen()
            return
        self._hearer = threading.get_ident()
        try:
            until = time.monotonic() + (TICK_S if timeout is None else min(TICK_S, timeout))
            while self._pubsub is not None and submission.answer is None and (left_s := until - time.monotonic()) > 0:
                self._take(self._pubsub.get_message(timeout=left_s))
        except (RedisError, OSError):
            self._pubsub = None  # the thread opens it again, and has everybody look
        except BaseException:  # interrupted between two bytes, perhaps
            self._pubsub = None
            raise
        finally:
            self._hearer = None
            self._hearing.release()
            if self._engine.table:
                self.listen()

    def _hear_within(self, submission: Submission, timeout: float | None) -> None:
        """Hear, and look, until the submission is answered: nobody else can while this thread waits in a callback."""
        until = None if timeout is None else time.monotonic() + timeout
        while submission.answer is None and not self._stopping.is_set():
            wait_s = self._wait_s() if until is None else min(self._wait_s(), until - time.monotonic())
            if wait_s < 0:
                return
            try:
                if self._pubsub is None:
                    self._stopping.wait(wait_s)  # who cannot hear can still look
                else:
                    self._take(self._pubsub.get_message(timeout=wait_s))
            except (RedisError, OSError):
                self._pubsub = None
            self._look_and_refresh()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            pubsub = self._client.pubsub()
            try:
                self._look_and_refresh()  # who cannot hear, while it is lost again and again, can still look
                self._moves = self._client.moves
                pubsub.subscribe(self._engine.inbox)
                self._confirm(pubsub)
                self._pubsub = pubsub
                self._listening.set()
                self._engine.table.everybody_looks_now()  # what was pushed meanwhile is lost
                retry_s = FIRST_RETRY_S
                self._listen()
            except (RedisError, OSError) as error:
                # Nobody loses an outcome by it, and that the cache is away is said by who asks it something.
                log.debug("inbox lost, opening it again in %.2f s: %s", retry_s, error)
                self._stopping.wait(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            except Exception:  # a defect here must not leave everybody waiting for ever
                log.exception("listener failed, starting over")
                self._stopping.wait(LAST_RETRY_S)
            finally:
                with self._hearing:
                    self._pubsub = None
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

    def _listen(self) -> None:
        while not self._stopping.is_set():
            if self._wanted.is_set():
                self._claimed = True
                with self._hearing:
                    self._claimed = False
                    self._hear_for(self._wait_s() if self._engine.table else 0)
                if not self._engine.table:
                    self._wanted.clear()
                    if self._engine.table:  # somebody came before it was cleared
                        self._wanted.set()
            elif not self._wanted.wait(self._wait_s()) and self._hearing.acquire(blocking=False):
                try:  # so that a connection that was lost is opened again before somebody needs it
                    self._hear_for(0)
                finally:
                    self._hearing.release()
            self._look_and_refresh()
            if self._moves != self._client.moves:
                raise ConnectionError("another server has taken the cache's place")

    def _wait_s(self) -> float:
        due = self._engine.table.next_due()
        return TICK_S if due is None else min(TICK_S, max(0.0, due - time.monotonic()))

    def _hear_for(self, wait_s: float) -> None:
        """Take what is pushed; the caller holds the lock."""
        self._hearer = threading.get_ident()
        try:
            while self._pubsub is not None:
                message = self._pubsub.get_message(timeout=wait_s)
                if message is None:
                    return
                self._take(message)
                wait_s = 0
        finally:
            self._hearer = None
        raise ConnectionError("a caller who heard found it broken")

    def _take(self, message: Any) -> None:
        if message is not None and message["type"] == "message" and isinstance(message["data"], bytes):
            self._engine.on_push(message["data"])

    def _look_and_refresh(self) -> None:
        engine = self._engine
        try:
            if submissions := engine.table.due(time.monotonic(), CHUNK):  # one chunk, then what was pushed meanwhile
                self._client.run(engine.look(submissions))
            if time.monotonic() - self._ticked_at >= TICK_S:  # not on the way of an answer
                self._ticked_at = time.monotonic()
                self._client.run(engine.tick())
            if time.monotonic() - self._refreshed_at > self._settings.card_refresh_s:
                self._refreshed_at = time.monotonic()
                self._client.run(engine.refresh())
        except CacheUnavailable:  # which is said once, and not at each look
            self._stopping.wait(FIRST_RETRY_S)
        except ForeseenError as error:
            log.warning("looking again failed, trying soon: %s", error)
            self._stopping.wait(FIRST_RETRY_S)
