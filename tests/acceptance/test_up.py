"""`foreseen up`: what it starts works as it says, what dies comes back, and nothing of it stays."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from foreseen import cards
from foreseen.cards import Card
from foreseen.embedded import EmbeddedServer
from foreseen.keys import KeySpace

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

Start = Callable[..., "Up"]

#: Beyond what anything waited for here takes on a busy machine; reached only when the test fails.
DEADLINE_S = 40.0
#: A shell starts its background jobs with Ctrl-C ignored; somebody who sits at a terminal does not.
RUN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom foreseen.cli import main; main()"
IS_UP = "Ctrl-C ends all of it."
SHOUT = """\
from workers import Model


class Shout(Model[str, str]):
    name = "shout"

    def predict(self, batch):
        return [text.upper() + "!" for text in batch]
"""
SLOW = """\
import pathlib, time
from workers import Model


class Slow(Model[str, str]):
    name = "slow"

    def predict(self, batch):
        pathlib.Path("computing").touch()
        time.sleep(float(batch[0]))
        pathlib.Path("computed").touch()
        return list(batch)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait until a condition holds; fail with what `what` says after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {DEADLINE_S:g} s:\n{what()}")
        time.sleep(0.02)


class Up:
    """A `foreseen up` in a session of its own, with its own folder, ports, and folder for everything temporary."""

    def __init__(self, folder: Path, *arguments: str, flower_port: int | None = None, **variables: str) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.output = folder / "output"
        self.port = free_port()
        self.family: set[psutil.Process] = set()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FORESEEN_", "CELERY_"))}
        urls = {
            "FORESEEN_BROKER_URL": f"redis://127.0.0.1:{self.port}/0",
            "FORESEEN_CACHE_URL": f"redis://127.0.0.1:{self.port}/1",
        }
        self.environment = clean | urls | {"TMPDIR": str(self.temporary), "FORESEEN_MODEL_WAIT_S": "30"} | variables
        arguments += (f"--flower-port={flower_port}",) if flower_port else ("--no-flower",)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", RUN, "up", "--concurrency=1", *arguments],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def told(self) -> str:
        """Return what it wrote."""
        return self.output.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said that."""
        until(
            lambda: self.told().count(text) >= times or (self.process.poll() is not None and not self._fail(text)),
            self.told,
        )

    def wait_until_up(self) -> None:
        """Wait until everything is ready, and note the processes that it consists of."""
        self.wait_for(IS_UP)
        self.see_family()

    def see_family(self) -> None:
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def worker(self) -> psutil.Process:
        """Return the worker's first process."""
        children = psutil.Process(self.process.pid).children()
        (found,) = (each for each in children if "worker" in each.cmdline())
        return found

    def ask(self, code: str, **variables: str) -> str:
        """Run Python code in another process that knows the same servers; return what it prints."""
        command = [sys.executable, "-c", code]
        environment = self.environment | variables
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr + self.told()
        return done.stdout.strip()

    def predict(self, text: str, model: str = "shout") -> str:
        return self.ask(f"from producer import Producer; print(Producer().predict({model!r}, {text!r}))")

    def end_by(self, number: signal.Signals) -> int:
        """Send a signal, as a terminal does it if it is Ctrl-C; return the exit status."""
        self.see_family()
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        before = self.told()
        status = self.process.wait(DEADLINE_S)
        assert "Traceback" not in self.told().removeprefix(before)
        return status

    def ended(self) -> int:
        """Wait until it has ended by itself; return the exit status."""
        return self.process.wait(DEADLINE_S)

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 5.0  # who sees that another has ended needs a moment, more on a busy machine
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for each in self.family:
            if each.is_running():
                each.kill()

    def _left(self) -> list[str]:
        alive = [each for each in self.family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        return [str(each) for each in alive] + [path.name for path in self.temporary.iterdir()]

    def _fail(self, text: str) -> bool:
        pytest.fail(f"it ended with status {self.process.returncode} and never said {text!r}:\n{self.told()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `foreseen up` in an empty folder with a model file; it is gone after the test."""
    (tmp_path / "shout.py").write_text(SHOUT)
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, **options: Any) -> Up:
            up = Up(tmp_path, *(arguments or ("shout.py",)), **options)
            stack.callback(up.close)
            return up

        yield begin


def test_what_it_says_to_do_works_and_ctrl_c_ends_all_of_it(start: Start, tmp_path: Path) -> None:
    """The lines are run as they are shown; beside the model lies what must not hide Python's own module."""
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    port = free_port()
    up = start("shout.py", f"--port={port}", flower_port=free_port())
    up.wait_until_up()
    told = up.told()
    assert f"Valkey, started on port {port}" in told
    assert "its data is in memory alone" in told
    assert re.search(r"shout@[0-9a-f]{12} +str -> str", told)
    exports = dict(re.findall(r"export (\w+)=(\S+)", told))
    assert set(exports) == {"FORESEEN_BROKER_URL", "FORESEEN_CACHE_URL"}
    code = "\n".join(
        line.strip() for line in told.partition(f"Ask, there, with {sys.executable}:")[2].splitlines()[2:5]
    )
    assert up.ask(code, **exports) == "HELLO!"
    assert len(up.family) >= 5  # a watcher and its server; a worker and one in its pool; Flower
    assert up.end_by(signal.SIGINT) == 130
    assert "nothing is left running" in up.told()
    up.assert_nothing_is_left()
    with pytest.raises(redis.ConnectionError), redis.Redis(port=port) as client:
        client.ping()


@pytest.mark.parametrize("login", [None, "ann:open sesame"], ids=["made", "given"])
def test_flower_demands_the_login_that_is_shown_and_keeps_it_out_of_sight(start: Start, login: str | None) -> None:
    port = free_port()
    up = start("shout.py", flower_port=port, **({"FORESEEN_FLOWER_LOGIN": login} if login else {}))
    up.wait_until_up()
    shown = re.search(r"flower +http://127.0.0.1:(\d+)  user: (\S+)  password: (.+?) *\n", up.told())
    assert shown is not None
    assert int(shown[1]) == port
    assert login in {None, f"{shown[2]}:{shown[3]}"}
    token = base64.b64encode(f"{shown[2]}:{shown[3]}".encode()).decode()
    assert status(port) == 401
    assert status(port, "Basic " + base64.b64encode(b"foreseen:wrong").decode()) == 401
    assert status(port, f"Basic {token}") == 200
    assert not any(shown[3] in argument for each in up.family for argument in each.cmdline())
    assert up.told().count(shown[3]) == 1
    listening = [
        each.laddr.ip for process in up.family for each in process.net_connections("tcp") if each.status == "LISTEN"
    ]
    assert set(listening) == {"127.0.0.1"}


def status(port: int, authorization: str | None = None) -> int:
    """Return the status of the answer to a request for Flower's first page's data."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/api/workers", headers={"Authorization": authorization} if authorization else {})
        return connection.getresponse().status


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_however_it_ends_it_leaves_nothing(start: Start, number: signal.Signals, expected: int) -> None:
    up = start("shout.py", flower_port=free_port() if number == signal.SIGKILL else None)
    up.wait_until_up()
    assert up.predict("hello") == "HELLO!"  # with the settings that a producer has there anyway
    assert up.end_by(number) == expected
    up.assert_nothing_is_left()


def test_ended_while_it_starts_it_leaves_nothing(start: Start) -> None:
    up = start("shout.py", flower_port=free_port())
    until(lambda: len(psutil.Process(up.process.pid).children()) >= 2, up.told)
    assert up.end_by(signal.SIGINT) == 130
    up.assert_nothing_is_left()


def test_the_worker_finishes_what_it_computes(start: Start, tmp_path: Path) -> None:
    up = computing(start, tmp_path, "0.7")
    assert up.end_by(signal.SIGINT) == 130
    assert (tmp_path / "computed").exists()
    up.assert_nothing_is_left()


def test_a_second_ctrl_c_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    up = computing(start, tmp_path, "60")
    up.see_family()
    os.killpg(up.process.pid, signal.SIGINT)
    up.wait_for("Ending:")
    began = time.monotonic()
    assert up.end_by(signal.SIGINT) == 130
    assert time.monotonic() - began < 5
    assert "was killed" in up.told()
    up.assert_nothing_is_left()


def computing(start: Start, folder: Path, value: str) -> Up:
    """Start with a model that computes for that many seconds, and have it compute."""
    (folder / "slow.py").write_text(SLOW)
    up = start("slow.py", "--stop-timeout=30")
    up.wait_until_up()
    up.ask(f"from producer import Producer; p = Producer(); p.submit('slow', {value!r}); p.close()")
    until((folder / "computing").exists, up.told)
    return up


def test_a_server_that_runs_already_is_used_and_stays(start: Start, server: EmbeddedServer, namespace: str) -> None:
    urls = {"FORESEEN_BROKER_URL": server.url(0), "FORESEEN_CACHE_URL": server.url(1)}
    up = start("shout.py", **urls, FORESEEN_NAMESPACE=namespace)
    up.wait_until_up()
    assert re.search(rf"Valkey [0-9.]+, which runs already: {re.escape(server.url(0))}", up.told())
    assert "valkey" not in " ".join(each.name() for each in up.family)
    assert up.predict("hello") == "HELLO!"
    assert up.end_by(signal.SIGINT) == 130
    up.assert_nothing_is_left()
    with redis.Redis.from_url(server.url(0)) as client:
        assert client.ping()


def test_a_worker_that_is_killed_is_told_and_started_again(start: Start) -> None:
    up = start()
    up.wait_until_up()
    up.worker().kill()
    up.wait_for("the worker ended with status -9 (SIGKILL); its log ends:")
    up.wait_for("up again, with shout@")
    assert up.predict("again") == "AGAIN!"
    assert up.end_by(signal.SIGKILL) == -9
    up.assert_nothing_is_left()


def test_a_server_that_was_started_and_dies_ends_it(start: Start) -> None:
    up = start()
    up.wait_until_up()
    (server,) = (each for each in up.family if "valkey" in each.name())
    server.kill()
    assert up.ended() == 4
    assert "the embedded server ended" in up.told()
    up.assert_nothing_is_left()


@pytest.mark.parametrize("is_served", [True, False])
def test_a_name_means_what_is_served_here_unless_others_serve_what_it_means(
    start: Start, server: EmbeddedServer, namespace: str, is_served: bool
) -> None:
    """Such as the version of a file before it was edited, on a server that has stayed."""
    space, other = KeySpace(namespace), Card(name="shout", version="other", queue="none", max_batch_size=1)
    urls = {"FORESEEN_BROKER_URL": server.url(0), "FORESEEN_CACHE_URL": server.url(1)}
    with redis.Redis.from_url(server.url(1)) as client:
        for command in cards.publish(space, [other], {}, heartbeat_s=60.0):
            client.execute_command(*command)
        if not is_served:
            client.delete(space.card(other.model_id))
        up = start("shout.py", **urls, FORESEEN_NAMESPACE=namespace)
        up.wait_until_up()
        if is_served:
            up.wait_for("shout means shout@other, which another worker serves: ask for shout@")
            assert client.get(space.current("shout")) == b"other"
            client.delete(space.card(other.model_id))
            up.wait_for(" now\n")
    assert up.predict("hello") == "HELLO!"


def test_a_worker_that_does_not_come_up_ends_it(start: Start, tmp_path: Path) -> None:
    load = "    def load(self):\n        import os, signal\n        os.kill(os.getppid(), signal.SIGKILL)\n"
    (tmp_path / "shout.py").write_text(SHOUT + load)
    up = start()
    until(lambda: psutil.Process(up.process.pid).children(), up.told)
    up.see_family()
    assert up.ended() == 1
    assert up.told().count("the worker ended with status -9") == 2
    assert "the worker does not come up" in up.told()
    up.assert_nothing_is_left()


def test_code_that_changes_is_served_and_code_that_breaks_is_waited_for(start: Start, tmp_path: Path) -> None:
    model = tmp_path / "shout.py"
    up = start("--reload", "shout.py")
    up.wait_until_up()
    assert up.predict("hello") == "HELLO!"
    model.write_text(SHOUT.replace('"!"', '"?"'))
    up.wait_for("up again, with shout@")
    assert "shout.py changed" in up.told()
    assert up.predict("hello") == "HELLO?"
    model.write_text("class Shout(:\n")
    up.wait_for("waiting for a change")
    assert re.search(r'shout\.py", line 1', up.told())
    (tmp_path / "notes.txt").write_text("of no concern")
    model.write_text(SHOUT.replace('"!"', '"."'))
    up.wait_for("up again, with shout@", times=2)
    assert up.predict("hello") == "HELLO."
    assert "notes.txt" not in up.told()
    assert up.end_by(signal.SIGKILL) == -9
    up.assert_nothing_is_left()


def test_what_comes_into_a_directory_is_served_and_what_changes_below_a_watched_one_is_taken_up(
    start: Start, tmp_path: Path
) -> None:
    models, library = tmp_path / "models", tmp_path / "library"
    models.mkdir()
    (library / "deep").mkdir(parents=True)
    cry = SHOUT.replace("Shout", "Cry").replace("shout", "cry")
    (models / "cry.py").write_text(cry)
    up = start("--watch=library", "models/")
    up.wait_until_up()
    (models / "hush.py").write_text(SHOUT.replace("Shout", "Hush").replace("shout", "hush").replace("upper", "lower"))
    up.wait_for("up again, with cry@")
    assert (up.predict("Hello", model="hush"), up.predict("Hello", model="cry")) == ("hello!", "HELLO!")
    (library / "deep" / "voice.py").write_text("LOUD = True\n")
    up.wait_for("voice.py changed")
    up.wait_for("up again, with cry@", times=2)
    for file in models.glob("*.py"):
        file.unlink()
    up.wait_for("is a directory without a .py file")
    (models / "cry.py").write_text(cry.replace('"!"', '"?"'))
    up.wait_for("up again, with cry@", times=3)
    assert up.predict("Hello", model="cry") == "HELLO?"


def test_models_in_a_package_and_by_name_are_served_together(start: Start, tmp_path: Path) -> None:
    package = tmp_path / "elsewhere" / "models"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "mark.py").write_text("MARK = '#'\n")
    (package / "hush.py").write_text(
        SHOUT.replace("Shout", "Hush").replace("shout", "hush").replace("upper", "lower").replace('"!"', "MARK")
        + "\n\nfrom .mark import MARK\n"
    )
    up = start("elsewhere/models/hush.py", "shout")
    up.wait_until_up()
    assert up.predict("Hello", model="hush") == "hello#"
    assert up.predict("Hello") == "HELLO!"


BAD = {
    "syntax": ("class Shout(:\n", [r'shout\.py", line 1', "SyntaxError"]),
    "import": ("import json\nimport no_such_module\n", [r'shout\.py", line 2', "No module named 'no_such_module'"]),
    "no model": ("x = 1\n", ["shout defines no model"]),
    "crash": ("import os\nos._exit(7)\n", ["importing shout ended the process with status 7"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_module_that_cannot_be_served_is_told_before_anything_starts(start: Start, tmp_path: Path, case: str) -> None:
    code, expected = BAD[case]
    (tmp_path / "shout.py").write_text(code)
    up = start()
    assert up.ended() == 2
    for each in expected:
        assert re.search(each, up.told()), up.told()
    assert "Valkey" not in up.told()
    up.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere.py",), "there is no such file"),
        (("empty/",), "is a directory without a .py file"),
        (("nowhere",), "No module named 'nowhere'"),
        (("elsewhere/shout.py",), "is hidden by another module shout"),
    ],
)
def test_an_argument_that_is_no_module_is_told(
    start: Start, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere" / "shout.py").write_text(SHOUT)
    up = start(*arguments)
    assert up.ended() == 2
    assert expected in up.told()


def test_without_a_module_it_says_how(tmp_path: Path) -> None:
    up = Up(tmp_path)
    try:
        assert up.ended() == 2
        assert "foreseen up shout.py" in up.told()
        assert "FORESEEN_MODELS" in up.told()
        assert "workers.models.file_type" in up.told()
    finally:
        up.close()


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Listen on a port and answer the same to everybody; nothing if it is empty."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            kept = []
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    connection.sendall(answer)
            for each in kept:
                each.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["http", "silence"])
def test_a_port_taken_by_something_else_is_told(start: Start, answer: bytes) -> None:
    with listening(answer) as port:
        up = start("shout.py", f"--port={port}")
        assert up.ended() == 2
    assert f"What listens at 127.0.0.1:{port} is not a Redis or Valkey" in up.told()
    assert "--port" in up.told()
    up.assert_nothing_is_left()


def test_a_server_that_wants_a_password_is_told(start: Start) -> None:
    with EmbeddedServer(config={"requirepass": "sesame"}) as locked:
        up = start("shout.py", f"--port={locked.port}")
        assert up.ended() == 2
        assert f"The server at 127.0.0.1:{locked.port} wants another login" in up.told()
    assert "FORESEEN_BROKER_URL" in up.told()
    up.assert_nothing_is_left()


def test_a_server_elsewhere_that_does_not_answer_is_told(start: Start) -> None:
    """127.0.0.2 is not an address where one would be started, and nobody listens there."""
    urls = {"FORESEEN_BROKER_URL": "redis://:secret@127.0.0.2:1/0", "FORESEEN_CACHE_URL": "redis://127.0.0.2:1/1"}
    up = start("shout.py", **urls)
    assert up.ended() == 4
    assert "No server answers at redis://127.0.0.2:1/0 (FORESEEN_BROKER_URL)" in up.told()
    assert "secret" not in up.told()


def test_a_port_that_flower_cannot_have_is_told_before_anything_starts(start: Start) -> None:
    with listening(b"") as port:
        up = start("shout.py", flower_port=port)
        assert up.ended() == 2
    assert f"Flower cannot listen on port {port}" in up.told()
    assert "--flower-port" in up.told()
    up.assert_nothing_is_left()
