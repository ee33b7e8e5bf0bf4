"""The near cache in producers of both kinds: hits without a round trip, and never an answer that it must not give."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

import pytest
import redis
from acceptance.cache_troubles import SERVICE, OnALoop, answered_again, sentinel
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.probes import in_threads
from chaos.proxy import Proxy

from foreseen.embedded import EmbeddedServer
from foreseen.keys import Key
from producer import CacheUnavailable, ModelFailed, NearCache, Source

pytestmark = pytest.mark.acceptance

NEAR_BYTES: Final = 10**6
values = itertools.count(1)


class Face:
    """A producer of either kind with a near cache, called from threads."""

    def __init__(self, name: str, producer: Any, call: Callable[[Any], Any]) -> None:
        self.name = name
        self.producer = producer
        self._call = call
        self.is_on()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.producer, name)
        return lambda *arguments, **options: self._call(method(*arguments, **options))

    @property
    def told(self) -> NearCache:
        told: NearCache = self.near_cache()
        return told

    def is_on(self) -> None:
        """Wait until it is."""
        wait_until(lambda: self.told.is_on, f"the near cache of {self.name} is on")

    def holder(self, request: dict[str, Any], **options: Any) -> str:
        """Predict; return what names the computation that the answer is of."""
        holder: str = self.predict("slow", request, timeout=DEADLINE_S, **options)["holder"]
        return holder

    def keep(self, request: dict[str, Any]) -> str:
        """Have an answer computed, and kept near; return what names its computation."""
        hits = self.told.hits
        holder = self.holder(request)
        wait_until(lambda: self.holder(request) == holder and self.told.hits > hits, "it is kept near")
        return holder


@contextlib.contextmanager
def face_of(name: str, deployment: Deployment, **settings: Any) -> Iterator[Face]:
    settings = {"near_cache_bytes": NEAR_BYTES, **settings}
    if name == "threads":
        with deployment.producer(**settings) as producer:
            yield Face(name, producer, lambda value: value)
    else:
        with OnALoop(deployment, **settings) as loop:
            yield Face(name, loop.producer, loop.call)


kinds = pytest.mark.parametrize("kind", ["threads", "loop"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests that break nothing: each asks for values of its own."""
    with Deployment(tmp_path_factory.mktemp("near"), models=["served.slow", "served.policies"]) as deployment:
        deployment.start_worker("threads", 8)
        yield deployment


@pytest.fixture(params=["threads", "loop"])
def face(request: pytest.FixtureRequest, served: Deployment) -> Iterator[Face]:
    with face_of(request.param, served) as face:
        yield face


@pytest.fixture
def request_() -> dict[str, Any]:
    return {"value": f"near {next(values)}", "nonce": True}


def round_trips(deployment: Deployment) -> int:
    """Return how many scripts the cache server has run."""
    with deployment.redis(1) as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


# --- hits -------------------------------------------------------------------------------------------------------------


def test_a_hit_takes_no_round_trip(face: Face, served: Deployment, request_: dict[str, Any]) -> None:
    holder = face.keep(request_)
    before, told = round_trips(served), face.told
    assert [face.holder(request_) for _ in range(100)] == [holder] * 100
    assert round_trips(served) - before < 50, "those of heartbeats and the like"
    assert face.told.hits == told.hits + 100
    assert face.told.misses == told.misses
    assert face.told.entries == told.entries >= 1
    assert 0 < face.told.bytes <= NEAR_BYTES


def test_each_way_of_asking_is_answered(face: Face, request_: dict[str, Any]) -> None:
    holder = face.keep(request_)
    key = face.submit("slow", request_).key
    told = face.told
    pending = face.submit("slow", request_)
    assert (pending.source, pending.task_id, pending.done()) == (Source.HIT, None, True)
    assert [each.source for each in face.submit_many("slow", [request_, request_])] == [Source.HIT, Source.HIT]
    assert face.pending(key).source is Source.HIT
    assert face.holder(request_, priority=9, deadline_s=1) == holder
    assert face.told.hits == told.hits + 4, "a repeat in one call is answered with the first"
    assert face.told.misses == told.misses
    assert face.peek("slow", request_)["holder"] == holder


def test_map_is_answered(served: Deployment) -> None:
    with face_of("threads", served) as face:
        requests = [{"value": f"map {number}"} for number in range(20)]

        def mapped() -> int:
            before = face.told.hits
            outputs = [each["value"] for each in face.producer.map("slow", requests)]
            assert outputs == [each["value"] for each in requests]
            return face.told.hits - before

        wait_until(lambda: mapped() == 20, "all are kept near")


def test_failures_that_are_kept_are_hits(face: Face, served: Deployment, request_: dict[str, Any]) -> None:
    request_["raise"] = "no"
    errors: list[ModelFailed] = []

    def ask() -> int:
        with pytest.raises(ModelFailed, match="no") as raised:
            face.predict("slow", request_, timeout=DEADLINE_S)
        errors.append(raised.value)
        return face.told.hits

    wait_until(lambda: ask() >= 3, "it is kept near")
    assert len(set(map(id, errors))) == len(errors)
    assert len(served.computations(request_["value"])) == 1


def test_mutation_of_an_output_does_not_leak(face: Face, request_: dict[str, Any]) -> None:
    face.keep(request_)
    for _ in range(3):
        output = face.predict("slow", request_)
        assert output["value"] == request_["value"]
        output["value"] = "spoiled"


def test_bytes_are_kept(face: Face) -> None:
    content = b"near" + bytes([next(values)])
    wait_until(
        lambda: face.predict("echo", content, timeout=DEADLINE_S) == content and face.told.hits, "it is kept near"
    )


def test_an_option_that_is_wrong_is_refused_whether_or_not_it_is_kept(face: Face, request_: dict[str, Any]) -> None:
    face.keep(request_)
    with pytest.raises(Exception, match="priority 10"):
        face.predict("slow", request_, priority=10)


def test_it_is_off_unless_there_is_room_for_it(served: Deployment, request_: dict[str, Any]) -> None:
    producer = served.producer()
    for _ in range(3):
        producer.predict("slow", request_)
    assert producer.near_cache() == NearCache(0, 0, 0, 0, is_on=False, emptied=0)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "foreseen-near"]


def test_a_model_may_opt_out(face: Face, request_: dict[str, Any]) -> None:
    for _ in range(4):
        face.predict("private", request_, timeout=DEADLINE_S)
    assert (face.told.hits, face.told.misses, face.told.entries) == (0, 4, 0)


@kinds
def test_bound_in_bytes_held_under_load(served: Deployment, kind: str) -> None:
    with face_of(kind, served, near_cache_bytes=50_000) as face:
        most: list[int] = []

        def ask(n: int) -> None:
            for step in range(60):
                request = {"value": (n * 7 + step) % 80, "pad": 400}
                assert face.predict("slow", request, timeout=DEADLINE_S)["value"] == request["value"]
                most.append(face.told.bytes)

        assert in_threads(6, ask, 2 * DEADLINE_S) == [None] * 6
        assert 25_000 < max(most) <= 50_000


# --- what has changed -------------------------------------------------------------------------------------------------


@kinds
def test_what_this_very_producer_does_is_seen_at_once(served: Deployment, request_: dict[str, Any], kind: str) -> None:
    """Before the server tells of it, which here it cannot."""
    with through_a_proxy(served, kind) as (face, proxy):
        steps: list[Callable[[], object]] = [
            lambda: face.invalidate("slow", request_),
            lambda: face.purge("slow"),
            lambda: face.holder(request_, refresh=True),
        ]
        for step in steps * 3:
            old = face.keep(request_)
            proxy.hold(b"invalidate")
            done = step()
            new = face.holder(request_)
            assert new != old
            assert done in (True, 1, new)
            proxy.let_go()
            face.is_on()


@pytest.mark.parametrize("forget", ["purge", "invalidate"])
def test_a_purge_is_seen_by_another_processs_near_cache(
    served: Deployment, request_: dict[str, Any], forget: str
) -> None:
    other = served.start_producer(
        """
producer = Producer(Settings(near_cache_bytes=10**6))
request = arguments["request"]
while not producer.near_cache().hits:
    holder = producer.predict("slow", request)["holder"]
say(holder)
hear()
began = time.monotonic()
while producer.predict("slow", request)["holder"] == holder:
    pass
say(time.monotonic() - began)
""",
        request=request_,
    )
    holder = other.hear()
    producer = served.producer()
    assert producer.predict("slow", request_)["holder"] == holder
    assert producer.purge("slow") if forget == "purge" else producer.invalidate("slow", request_)
    other.say()
    assert other.hear() < 1.0
    other.finish()
    assert other.tail() == ""


@kinds
@pytest.mark.parametrize("is_invalidated", [True, False])
def test_invalidation_in_the_air_race(
    served: Deployment, request_: dict[str, Any], kind: str, is_invalidated: bool
) -> None:
    """The old answer to a look-up is on its way while its key is invalidated: whoever asked gets it, nobody else."""
    others = served.producer()
    old = others.predict("slow", request_, timeout=DEADLINE_S)["holder"]
    with through_a_proxy(served, kind) as (face, proxy), ThreadPoolExecutor(1) as threads:
        near = face.producer._client.engine.near
        name = near._space.entry(Key.parse(others.submit("slow", request_).key))
        proxy.hold(old.encode())
        asking = threads.submit(face.holder, request_)
        assert proxy.held.wait(DEADLINE_S)
        if is_invalidated:
            assert others.invalidate("slow", request_)
            wait_until(lambda: name in near._changed, "the invalidation is heard")
        proxy.let_go()
        assert asking.result(DEADLINE_S) == old
        assert (face.holder(request_) == old) is not is_invalidated
        assert face.told.hits == (0 if is_invalidated else 1)


def test_flushall_empties(deploy: Callable[..., Deployment], request_: dict[str, Any]) -> None:
    deployment = deploy()
    deployment.start_worker("threads", 2)
    with face_of("threads", deployment) as threads, face_of("loop", deployment) as loop:
        old = [face.keep(request_) for face in (threads, loop)]
        with deployment.redis(1) as client:
            client.flushdb()
        for face in (threads, loop):
            wait_until(lambda each=face: each.told.emptied == 1, "it is empty")
            assert face.holder(request_) not in old


def test_expiry(face: Face, served: Deployment, request_: dict[str, Any]) -> None:
    first = face.predict("brief", request_, timeout=DEADLINE_S)["holder"]
    wait_until(lambda: face.predict("brief", request_)["holder"] != first, "it is computed again")
    assert face.told.hits > 0
    with served.redis(1) as client:
        assert client.info("stats")["expired_keys"] > 0


# --- the connection ---------------------------------------------------------------------------------------------------


def trackers(client: redis.Redis) -> list[int]:
    """Return the ids of connections on which the server tells of changes."""
    listed: Any = client.client_list()
    return [int(each["id"]) for each in listed if "t" in each["flags"] and "B" in each["flags"]]


@kinds
def test_connection_lost_empties_and_turns_off_and_back_turns_on(
    deploy: Callable[..., Deployment], request_: dict[str, Any], kind: str
) -> None:
    deployment = deploy()
    deployment.start_worker("threads", 2)
    with face_of(kind, deployment) as face, deployment.redis(1) as client:
        face.keep(request_)
        (number,) = trackers(client)
        client.client_kill_filter(_id=number)
        wait_until(lambda: face.told.emptied == 1, "it is noticed")
        face.is_on()
        assert number not in trackers(client)
        holder = face.keep(request_)
        deployment.producer().purge("slow")
        wait_until(lambda: face.holder(request_) != holder, "it is honest again")


@kinds
def test_a_half_open_connection_answers_for_no_longer_than_a_second(
    deploy: Callable[..., Deployment], request_: dict[str, Any], kind: str
) -> None:
    deployment = deploy(reply_timeout_s=1.5, connect_timeout_s=1.0)
    deployment.start_worker("threads", 2)
    with Proxy(deployment.server.port, seed=1) as proxy:
        url = deployment.settings.cache_url.replace(str(deployment.server.port), str(proxy.port))
        with face_of(kind, deployment, cache_url=url) as face:
            holder = face.keep(request_)
            proxy.swallow(for_s=4.0, also_new=True)
            deployment.producer().purge("slow")  # of which nothing can be heard
            wait_until(lambda: not face.told.is_on, "it is off", 2.0)
            with pytest.raises(CacheUnavailable):
                face.holder(request_)
            face.is_on()
            assert face.told.emptied == 1
            assert answered_again(face, request_) == request_["value"]  # type: ignore[arg-type]
            assert face.holder(request_) != holder


def test_fork_child_begins_anew(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    deployment.start_worker("threads", 2)
    process = deployment.start_producer(
        """
producer = Producer(Settings(near_cache_bytes=10**6))

def keep(value):
    hits = producer.near_cache().hits
    while producer.near_cache().hits == hits:
        assert producer.predict("slow", {"value": value})["value"] == value
    told = producer.near_cache()
    return [told.entries, told.hits, told.is_on]

parents = keep("before")
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        new = producer.near_cache()
        own = keep("before")
        producer.invalidate("slow", {"value": "before"})
        os.write(writer, json.dumps([new.entries, new.hits, own]).encode())
    finally:
        os._exit(0)
os.close(writer)
with os.fdopen(reader) as pipe:
    say(json.loads(pipe.read() or "null"))
os.waitpid(pid, 0)
while producer.near_cache().entries:
    pass
say([parents, keep("before")[2]])
"""
    )
    assert process.hear(60) == [0, 0, [1, 1, True]]
    assert process.hear(60) == [[1, 1, True], True]
    process.finish()
    assert process.tail() == ""


def test_it_follows_the_master(deploy: Callable[..., Deployment], request_: dict[str, Any]) -> None:
    deployment = deploy(lease_s=1.0, card_refresh_s=0.5)
    at_once = {"repl-diskless-sync-delay": "0"}
    with (
        EmbeddedServer(config=at_once) as master,
        EmbeddedServer(config={"replicaof": f"127.0.0.1 {master.port}", **at_once}) as replica,
        sentinel(deployment, master) as port,
    ):
        deployment.use_cache(f"sentinel://127.0.0.1:{port}/{SERVICE}/1")
        deployment.start_worker("threads", 4)
        with face_of("threads", deployment) as threads, face_of("loop", deployment) as loop:
            for face in (threads, loop):
                face.keep(request_)
            with redis.Redis(port=port) as asked:
                asked.execute_command("SENTINEL", "FAILOVER", SERVICE)
            with redis.Redis(port=replica.port) as client:
                wait_until(lambda: client.role()[0] in {b"master", "master"}, "the replica is master")
                for face in (threads, loop):
                    wait_until(lambda each=face: each.told.emptied, f"{face.name} has lost the old one")
                    face.is_on()
                wait_until(lambda: len(trackers(client)) == 2, "both are with the new one")
            for face in (threads, loop):
                assert answered_again(face, request_) == request_["value"]  # type: ignore[arg-type]
            holder = threads.keep(request_)
            loop.purge("slow")
            wait_until(lambda: threads.holder(request_) != holder, "what is changed there is heard")


def test_entries_that_are_signed_are_kept(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(signing_keys=f"one:{'x' * 40}")
    deployment.start_worker("threads", 2)
    with face_of("threads", deployment) as face:
        face.keep({"value": "signed", "nonce": True})
        assert len(deployment.computations("signed")) == 1


@contextlib.contextmanager
def through_a_proxy(deployment: Deployment, kind: str) -> Iterator[tuple[Face, Holding]]:
    """Yield a producer, and what stands between it and the cache server."""
    with Holding(deployment.server.port) as proxy:
        url = deployment.settings.cache_url.replace(str(deployment.server.port), str(proxy.port))
        with face_of(kind, deployment, cache_url=url) as face:
            yield face, proxy


class Holding:
    """A proxy that holds back what the server sends once it holds certain bytes, on that connection alone.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._marker: bytes | None = None
        self._free = threading.Event()
        #: Something is held back.
        self.held = threading.Event()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def hold(self, marker: bytes) -> None:
        """Hold back what has these bytes in it, and what follows."""
        self.held.clear()
        self._free.clear()
        self._marker = marker

    def let_go(self) -> None:
        """Let it pass, and everything from now on."""
        self._marker = None
        self._free.set()

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            outside = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [inside, outside]
            for source, sink, is_server in ((inside, outside, False), (outside, inside, True)):
                thread = threading.Thread(
                    target=self._carry, args=(source, sink), kwargs={"is_server": is_server}, daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, *, is_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_server and self._marker is not None and self._marker in data:
                    self.held.set()
                    self._free.wait(DEADLINE_S)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
