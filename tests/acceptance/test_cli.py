"""The command line as a user runs it, against a real server and a real worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from acceptance.harness import Deployment, wait_until

from foreseen.cards import HEARTBEATS
from foreseen.keys import KeySpace
from producer import Producer

pytestmark = [pytest.mark.acceptance]

#: Far beyond what any command here takes, and less than what it would take one that hangs.
LIMIT_S: Final = 20.0
FORESEEN: Final = str(Path(sys.executable).with_name("foreseen"))
UNKNOWN_KEY: Final = f"slow@1:{'0' * 40}"

MODELS: Final = '''\
from collections.abc import Sequence

import numpy as np

from served.slow import Slow
from workers import Model


class Shout(Model[str, str]):
    """Takes a text; there are two versions of it."""

    name = "shout"
    version = "1"
    mark = "!"

    def predict(self, batch: Sequence[str]) -> list[str]:
        return [text.upper() + self.mark for text in batch]


class LouderShout(Shout):
    version = "2"
    mark = "!!"


class Double(Model[np.ndarray, np.ndarray]):
    """Takes an array."""

    name = "double"
    version = "1"

    def predict(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [2 * array for array in batch]


class Counted(Slow):
    """For counting: no other test asks it."""

    name = "counted"


class Added(Slow):
    """Likewise."""

    name = "added"
'''


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One for all tests here: each keeps to inputs of its own."""
    directory = tmp_path_factory.mktemp("cli")
    (directory / "cli_models.py").write_text(MODELS)
    models = ("served.slow", "served.policies", "cli_models")
    with Deployment(directory, models=models, heartbeat_s=0.3, card_refresh_s=0.3, model_wait_s=0.5) as running:
        running.start_worker("threads", 4)
        yield running


class Cli:
    """Runs `foreseen`, as it is installed, in a folder of its own."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.folder = folder

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start it; `settings` without their `FORESEEN_`."""
        return subprocess.Popen(
            [FORESEEN, *arguments],
            cwd=self.folder,
            env=self.deployment.environment | {f"FORESEEN_{name}": value for name, value in settings.items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return self.finish(self.start(*arguments, **settings), given)

    def run_all(self, every: Sequence[Sequence[str]], **settings: str) -> list[subprocess.CompletedProcess[str]]:
        """Run several at the same time."""
        started = [self.start(*arguments, **settings) for arguments in every]
        return [self.finish(each) for each in started]

    @staticmethod
    def finish(process: subprocess.Popen[str], given: str = "") -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        with process:
            try:
                out, err = process.communicate(given, timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert "Traceback" not in err, err
        assert len(err.splitlines()) <= 5, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def out(self, *arguments: str, given: str = "", **settings: str) -> str:
        """Run what must go well; return what it printed."""
        ended = self.run(*arguments, given=given, **settings)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    def json(self, *arguments: str, **settings: str) -> Any:
        """Run what must go well and prints one JSON document."""
        return json.loads(self.out(*arguments, "--json", **settings))

    def fails(self, status: int, *arguments: str, given: str = "", **settings: str) -> str:
        """Run what must end with that status and print nothing; return the error, which is a line or two."""
        ended = self.run(*arguments, given=given, **settings)
        assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
        assert 1 <= len(ended.stderr.splitlines()) <= 4, ended.stderr
        return ended.stderr


@pytest.fixture
def cli(deployment: Deployment, tmp_path: Path) -> Cli:
    return Cli(deployment, tmp_path)


def request(value: object, **options: object) -> str:
    """An input of the model `slow`."""
    return json.dumps({"value": value, **options})


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/1"


class TestPredict:
    def test_an_output_is_a_line_of_json_and_is_computed_once(self, cli: Cli) -> None:
        first = cli.out("predict", "slow", request("once"))
        assert json.loads(first)["value"] == "once"
        assert first.count("\n") == 1
        assert cli.out("predict", "slow@1", request("once")) == first
        assert len(cli.deployment.computations("once")) == 1
        cli.out("predict", "slow", request("once"), "--refresh")
        assert len(cli.deployment.computations("once")) == 2

    def test_many_are_answered_in_order_whatever_each_takes(self, cli: Cli) -> None:
        for number in range(12):
            (cli.folder / f"{number}.json").write_text(request(f"many {number}", sleep_s=0.2 if number == 0 else 0))
        names = [f"{number}.json" for number in range(12)]
        lines = cli.out("predict", "slow", *names).splitlines()
        assert [line.partition(": ")[0] for line in lines] == names
        assert [json.loads(line.partition(": ")[2])["value"] for line in lines] == [f"many {n}" for n in range(12)]

    def test_one_that_fails_is_told_and_the_others_go_on(self, cli: Cli) -> None:
        good, bad = request("good"), request("bad", **{"raise": "it broke"})
        ended = cli.run("predict", "slow", bad, "{", good)
        assert ended.returncode == 1  # of the first failure
        assert [json.loads(line.partition("}: ")[2])["value"] for line in ended.stdout.splitlines()] == ["good"]
        first, second = ended.stderr.splitlines()
        assert first == f"Error: {bad}: ValueError: it broke"
        assert second.startswith("Error: {: neither a file nor JSON: ")
        assert cli.run("predict", "slow", "{", bad).returncode == 2

    def test_as_json_there_is_a_line_for_each_input(self, cli: Cli) -> None:
        bad = request("bad as json", **{"raise": "it broke"})
        ended = cli.run("predict", "slow", request(1), bad, "{", "--json")
        assert (ended.returncode, ended.stderr) == (1, "")
        first, second, third = map(json.loads, ended.stdout.splitlines())
        assert (first["input"], first["output"]["value"]) == (request(1), 1)
        assert first["key"] == cli.deployment.producer().submit("slow", {"value": 1}).key
        details = {"type": "ValueError"}
        assert second["error"] == {"name": "ModelFailed", "message": "ValueError: it broke", "details": details}
        assert (third["key"], third["error"]["name"]) == (None, "InvalidInput")
        assert {*first, *second} == {"input", "key", "output", "error"}

    def test_each_line_of_standard_input_is_an_input(self, cli: Cli) -> None:
        given = "\n".join(request(f"line {number}") for number in range(30))
        lines = cli.out("predict", "slow", "-", "--as", "jsonl", "--json", given=given).splitlines()
        assert [json.loads(line)["output"]["value"] for line in lines] == [f"line {number}" for number in range(30)]
        assert json.loads(lines[7])["input"] == "-:8"

    def test_bytes_texts_and_arrays_are_taken_as_the_model_s_card_says(self, cli: Cli) -> None:
        (cli.folder / "raw").write_bytes(b'\xff{"a"')
        assert json.loads(cli.out("predict", "echo", "raw")) == {"$bytes": "/3siYSI="}
        assert json.loads(cli.out("predict", "echo", "-", given="stdin")) == {"$bytes": "c3RkaW4="}
        assert cli.out("predict", "shout@1", "né") == '"NÉ!"\n'
        assert cli.out("predict", "shout@1", '"né"', "--as", "json") == '"NÉ!"\n'
        np.save(cli.folder / "array.npy", np.array([[1.5, 2]]))
        assert json.loads(cli.out("predict", "double", "array.npy")) == [[3, 4]]

    def test_a_slip_in_a_path_is_never_computed(self, cli: Cli) -> None:
        assert cli.fails(2, "predict", "echo", "raww").startswith("Error: raww: no such file")

    def test_who_stops_waiting_leaves(self, cli: Cli) -> None:
        hold = cli.deployment.gate("timeout")
        asked = {"value": "timeout", "wait_for": str(hold)}
        assert "No outcome within 0.3 s" in cli.fails(5, "predict", "slow", json.dumps(asked), "--timeout", "0.3")
        wait_until(lambda: cli.deployment.joiners(asked, "w") == 0, "nobody waits for it any more")
        cli.deployment.open_gate("timeout")

    def test_a_deadline_that_has_passed_is_a_failure(self, cli: Cli) -> None:
        assert "deadline" in cli.fails(1, "predict", "slow", request("late"), "--deadline", "0").lower()

    @pytest.mark.parametrize(
        ("arguments", "status", "told"),
        [
            (["slow", "1.5e999"], 2, "infinite"),
            (["typed", '{"width": 0, "label": "a"}'], 2, "$.width"),
            (["slwo", "1"], 3, "did you mean 'slow'?"),
            (["slow@7", "1", "--as", "json"], 3, "slow@7"),
            (["slow", request("fails", **{"raise": "it broke"})], 1, "ValueError: it broke"),
        ],
    )
    def test_what_goes_wrong_is_told_with_a_status(
        self, cli: Cli, arguments: Sequence[str], status: int, told: str
    ) -> None:
        assert told in cli.fails(status, "predict", *arguments)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_stopped_it_leaves(self, cli: Cli, number: signal.Signals, status: int) -> None:
        asked = {"value": number.name, "wait_for": str(cli.deployment.gate(number.name))}
        with cli.start("predict", "slow", json.dumps(asked)) as process:
            cli.deployment.wait_for_computations(number.name)
            process.send_signal(number)
            _, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, err) == (status, "\nStopped.\n")
        assert cli.deployment.joiners(asked, "w") == 0
        cli.deployment.open_gate(number.name)

    def test_a_bar_is_drawn_on_a_terminal_and_stays_out_of_the_output(self, cli: Cli) -> None:
        ours, theirs = os.openpty()
        inputs = [request("bar 1"), "{", request("bar 2")]
        with subprocess.Popen(
            [FORESEEN, "predict", "slow", *inputs], env=cli.deployment.environment | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, text=True,
        ) as process:  # fmt: skip
            os.close(theirs)
            out, _ = process.communicate(timeout=LIMIT_S)
        drawn = os.read(ours, 2**16).decode()
        os.close(ours)
        assert [json.loads(line.partition("}: ")[2])["value"] for line in out.splitlines()] == ["bar 1", "bar 2"]
        assert "3/3" in drawn
        assert "\x1b[2KError: {: neither a file nor JSON" in drawn  # on a line of its own

    def test_it_needs_no_celery(self, cli: Cli) -> None:
        code = "import sys; sys.modules['celery'] = None\nfrom foreseen.cli import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", code, "predict", "shout@1", "no celery"],
            env=cli.deployment.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.stdout, ended.stderr) == ('"NO CELERY!"\n', "")


class TestResult:
    def test_an_outcome_is_found_by_its_key(self, cli: Cli) -> None:
        pending = cli.deployment.producer().submit("slow", {"value": "by key"})
        assert pending.result(LIMIT_S)["value"] == "by key"
        assert json.loads(cli.out("result", pending.key))["value"] == "by key"
        told = cli.json("result", pending.key)
        assert told == {"key": pending.key, "source": "hit", "output": pending.result()}

    def test_one_under_way_is_waited_for(self, cli: Cli) -> None:
        asked = {"value": "under way", "wait_for": str(cli.deployment.gate("under way"))}
        pending = cli.deployment.producer().submit("slow", asked)
        assert "still under way" in cli.fails(5, "result", pending.key, "--timeout", "0.2")
        assert cli.deployment.joiners(asked, "w") == 0
        with cli.start("result", pending.key) as process:
            wait_until(lambda: cli.deployment.joiners(asked, "w") == 1, "the command waits")
            cli.deployment.open_gate("under way")
            out, err = process.communicate(timeout=LIMIT_S)
        assert (json.loads(out)["value"], err) == ("under way", "")
        assert pending.result(LIMIT_S)["value"] == "under way"  # who gave up took it from nobody

    def test_what_goes_wrong_is_told_with_a_status(self, cli: Cli) -> None:
        pending = cli.deployment.producer().submit("slow", {"value": "failed", "raise": "it broke"})
        assert pending.exception(LIMIT_S) is not None
        assert "it broke" in cli.fails(1, "result", pending.key)
        assert "not a key" in cli.fails(2, "result", "no key")
        assert "Nothing is known" in cli.fails(3, "result", UNKNOWN_KEY)


class TestModels:
    def test_every_version_is_listed(self, cli: Cli) -> None:
        by_id = {f"{each['name']}@{each['version']}": each for each in cli.json("models")}
        (worker,) = by_id["slow@1"].pop("workers")
        assert worker.pop("load_s") >= 0
        assert worker.pop("host").endswith("@localhost")
        pool = {"pool": "thread", "concurrency": 4, "processes": 1}
        assert worker == {"state": "served", "error": "", **pool}
        assert by_id["slow@1"] == {
            "name": "slow", "version": "1", "current": True, "previous": False, "served": True,
            "queue": "foreseen.slow@1", "waiting": 0,
            "max_batch_size": 8, "policy": {
                "expiry_s": 600.0, "failure_expiry_s": {"permanent_s": 5.0, "transient_s": 1.0, "poison_s": 60.0},
                "compress_above_bytes": None, "near": True, "audit": True,
            },
        }  # fmt: skip
        assert sorted(by_id["shout@1"]) == sorted(by_id["shout@2"])
        assert by_id["shout@1"]["current"] is not by_id["shout@2"]["current"]
        heading, _, *rows = cli.out("models").splitlines()
        assert heading.split() == ["model", "current", "served", "workers", "waiting", "batch", "expiry", "failures"]
        listed = [" ".join(row.split()) for row in rows]
        assert "slow@1 yes yes 1 0 8 600 s 5 s / 1 s / 60 s" in listed

    def test_messages_are_counted_whatever_their_priority(self, cli: Cli) -> None:
        """Of a version that nobody serves, so that nobody takes them. The names of the lists are kombu's."""
        space = KeySpace(cli.deployment.settings.namespace)
        with cli.deployment.redis() as cache, cli.deployment.redis(0) as broker:
            cache.sadd(space.models(), "ghost@1")
            for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
                broker.lpush(space.queue("ghost@1") + step, "a message")
            try:
                ghost = next(each for each in cli.json("models") if each["name"] == "ghost")
                assert (ghost["served"], ghost["waiting"], ghost["max_batch_size"]) == (False, 4, None)
                assert cli.json("stats", "ghost")["models"]["ghost@1"]["waiting"] == 4
            finally:
                cache.srem(space.models(), "ghost@1")
                broker.delete(*broker.keys("*ghost*"))

    def test_a_promotion_stands_and_producers_follow(self, cli: Cli) -> None:
        space = KeySpace(cli.deployment.settings.namespace)
        producer = cli.deployment.producer()
        cli.out("models", "promote", "shout@1")
        wait_until(lambda: producer.predict("shout", "promoted") == "PROMOTED!", "the producer follows")
        assert cli.out("models", "promote", "shout@2") == "shout@2 is the current version now; it was shout@1.\n"
        began = time.monotonic()
        wait_until(lambda: producer.predict("shout", "promoted") == "PROMOTED!!", "the producer follows")
        assert time.monotonic() - began < cli.deployment.settings.card_refresh_s + 1  # a busy machine's second
        with cli.deployment.redis() as cache:
            for _ in range(HEARTBEATS + 2):  # of the worker that serves both versions
                _wait_for_heartbeat(cache, space.card("shout@1"))
            assert cache.get(space.current("shout")) == b"2"
        assert producer.predict("shout", "promoted") == "PROMOTED!!"
        assert cli.out("predict", "shout", "promoted") == '"PROMOTED!!"\n'
        assert cli.out("models", "promote", "shout@2") == "shout@2 is the current version already.\n"
        assert cli.out("models", "rollback", "shout") == "shout@1 is the current version now; it was shout@2.\n"
        (before,) = (each for each in cli.json("models") if each["previous"])
        assert (before["name"], before["version"]) == ("shout", "2")
        assert cli.out("models", "rollback", "shout") == "shout@2 is the current version now; it was shout@1.\n"
        assert "takes a bare NAME" in cli.fails(2, "models", "rollback", "shout@1")
        assert "No version of 'echo' was current before" in cli.fails(3, "models", "rollback", "echo")

    def test_a_version_that_nobody_serves_is_promoted_only_by_force(self, cli: Cli) -> None:
        told = cli.fails(3, "models", "promote", "double@9")
        assert "Served of late: double@1" in told
        assert "--force" in told
        assert next(each for each in cli.json("models") if each["name"] == "double")["current"]
        cli.out("models", "promote", "double@9", "--force")
        try:
            listed = [each for each in cli.json("models") if each["name"] == "double"]
            assert [(each["version"], each["current"], each["served"]) for each in listed] == [
                ("1", False, True),
                ("9", True, False),
            ]
        finally:
            cli.out("models", "promote", "double@1")


class TestStats:
    def test_what_happened_is_counted(self, cli: Cli) -> None:
        cli.out("predict", "counted", request(1), request(2), request(2))
        cli.run("predict", "counted", request(3, **{"raise": "it broke"}))
        cli.out("predict", "counted", request(1))  # a hit
        told = cli.json("stats", "counted")
        assert list(told["models"]) == ["counted@1"]
        spent_us, saved_us = (told["models"]["counted@1"][name] for name in ("spent_us", "saved_us"))
        assert told["models"]["counted@1"] == {
            "opened": 3, "joined": 0, "begun": 3, "computed": 2, "failed": 1, "lapsed": 0, "unwanted": 0, "refused": 0,
            "unkept": 0, "stale": 0, "refreshed": 0, "rejected": 0, "unreadable": 0, "audited": 0, "differed": 0,
            "hit": 1, "near": 0, "hit_share": 1 / 4, "coalesced_share": 0.0,
            "failed_share": 1 / 3, "waiting": 0, "spent_us": spent_us, "saved_us": saved_us,
        }  # fmt: skip
        assert 0 < saved_us < spent_us < LIMIT_S * 1e6
        assert told["cache"]["used_bytes"] > 0
        assert told["cache"]["policy"] == "noeviction"
        shown = cli.out("stats", "counted@1")
        assert "counted@1: 25.0% hits; of the misses 0.0% joined; of the outcomes 33.3% failed" in shown
        assert "        1        0        0        3        0         0 " in shown
        assert "        3        2        1 " in shown

    def test_hits_of_all_producers_are_counted_and_those_of_one_that_is_closed_at_once(self, cli: Cli) -> None:
        def told() -> dict[str, Any]:
            counts: dict[str, Any] = cli.json("stats", "added", "--hot")["models"]["added@1"]
            return counts

        first = cli.deployment.producer()
        first.predict("added", {"value": "often"})
        cost_us = told()["spent_us"]
        for _ in range(500):
            first.predict("added", {"value": "often"})
        with Producer(cli.deployment.settings) as second:
            second.predict("added", {"value": "often"})
        wait_until(lambda: told()["hit"] == 501, "the first has told its hits while it is open")
        counts = told()
        assert counts["saved_us"] == 501 * cost_us
        assert counts["hit_share"] == 501 / 502
        ((digits, hits),) = counts["hottest"].items()
        assert len(digits) == 8
        assert 250 < hits < 1000  # one in 16 is noted: that half or twice as many are is less likely than 1 in 10,000
        assert f"  added@1:{digits}  about {hits} hits" in cli.out("stats", "added", "--hot")
        assert "hottest" not in cli.json("stats", "added")["models"]["added@1"]

    def test_all_models_are_shown_unless_one_is_named(self, cli: Cli) -> None:
        assert {"slow@1", "shout@1", "shout@2", "echo@1"} <= set(cli.json("stats")["models"])
        assert list(cli.json("stats", "shout")["models"]) == ["shout@1", "shout@2"]
        assert "served of late" in cli.fails(3, "stats", "zzz")

    def test_watched_it_tells_rates_until_ctrl_c(self, cli: Cli) -> None:
        with cli.start("stats", "slow", "--watch=0.2", "--json") as process:
            assert process.stdout is not None
            assert "per_second" not in json.loads(process.stdout.readline())["models"]["slow@1"]
            cli.deployment.producer().predict("slow", {"value": "watched"})
            lines = (json.loads(line)["models"]["slow@1"]["per_second"]["opened"] for line in process.stdout)
            assert next(rate for rate in lines if rate) > 0
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, err) == (0, "")


class TestForgetting:
    def test_an_input_that_is_invalidated_is_computed_anew(self, cli: Cli) -> None:
        producer = cli.deployment.producer()
        producer.predict("slow", {"value": "invalid"})
        assert cli.out("invalidate", "slow", request("invalid")) == "Forgotten.\n"
        assert cli.out("invalidate", "slow", request("invalid")) == "There was no entry.\n"
        producer.predict("slow", {"value": "invalid"})
        assert len(cli.deployment.computations("invalid")) == 2
        assert "neither a file nor JSON" in cli.fails(2, "invalidate", "slow", "{")

    def test_a_tag_is_invalidated(self, cli: Cli) -> None:
        producer = cli.deployment.producer()
        for value in (1, 2):
            producer.predict("slow", {"value": f"tagged {value}"}, tags=["customer:42", f"document:{value}"])
        assert cli.out("invalidate", "--tag", "document:1") == "1 entry forgotten.\n"
        assert cli.out("invalidate", "--tag", "customer:42") == "1 entry forgotten.\n"
        assert cli.out("invalidate", "--tag", "customer:42") == "0 entries forgotten.\n"
        producer.predict("slow", {"value": "tagged 2"})
        assert len(cli.deployment.computations("tagged 2")) == 2
        assert "--tag stands alone" in cli.fails(2, "invalidate", "slow", "--tag", "a")
        assert "Give a MODEL and an INPUT, or --tag TAG." in cli.fails(2, "invalidate", "slow")
        assert "is not a tag" in cli.fails(2, "invalidate", "--tag", "")

    def test_a_purge_asks_first(self, cli: Cli) -> None:
        def computed() -> int:
            cli.deployment.producer().predict("short-failure", {"value": "purged"})
            return len(cli.deployment.computations("purged"))

        assert computed() == 1
        for given in ("n\n", ""):  # the latter: there is nobody to answer
            ended = cli.run("purge", "short-failure", given=given)
            assert (ended.returncode, ended.stdout) == (1, "")
            assert "Forget every entry of short-failure@1? [y/N]" in ended.stderr
        assert computed() == 1
        assert cli.run("purge", "short-failure", given="y\n").stdout == "Purged 1 version of short-failure.\n"
        assert computed() == 2
        assert cli.out("purge", "short-failure@1", "--yes") == "Purged 1 version of short-failure.\n"
        assert computed() == 3

    def test_a_purge_tells_how_many_versions_there_were(self, cli: Cli) -> None:
        assert "of shout@1, shout@2?" in cli.run("purge", "shout", given="n\n").stderr
        assert cli.out("purge", "shout", "--yes") == "Purged 2 versions of shout.\n"
        assert "No worker serves 'zzz'" in cli.fails(3, "purge", "zzz", "--yes")


COMMANDS: Final = (
    ["predict", "slow", "1"],
    ["result", UNKNOWN_KEY],
    ["models"],
    ["models", "promote", "slow@1"],
    ["stats"],
    ["stats", "--watch"],
    ["invalidate", "slow", "1"],
    ["invalidate", "--tag", "customer:42"],
    ["purge", "slow", "--yes"],
)


class TestServersThatAreAway:
    def test_every_command_says_so_soon(self, cli: Cli, silent: str) -> None:
        began = time.monotonic()
        bounds = {"CONNECT_TIMEOUT_S": "0.2", "REPLY_TIMEOUT_S": "0.2"}
        for ended in cli.run_all(COMMANDS, CACHE_URL=silent, **bounds):
            assert (ended.returncode, ended.stdout) == (4, ""), ended
            assert ended.stderr.startswith(f"Error: The cache server at {silent} does not answer: ")
            assert ended.stderr.count("\n") == 1
        assert time.monotonic() - began < LIMIT_S / 2  # the starts, and a few tries of a fifth of a second

    def test_a_server_that_is_not_there_is_named_without_its_password(self, cli: Cli) -> None:
        told = cli.fails(4, "models", CACHE_URL="redis://:secret@127.0.0.1:1/1")
        assert told.startswith("Error: The cache server at redis://127.0.0.1:1/1 does not answer")

    def test_without_the_broker_what_the_cache_knows_is_shown(self, cli: Cli) -> None:
        for ended in cli.run_all([["models"], ["stats"]], BROKER_URL="redis://:secret@127.0.0.1:1/0"):
            assert ended.returncode == 4
            assert "slow@1" in ended.stdout
            assert "?" in ended.stdout
            assert ended.stderr.startswith("Error: The broker at redis://")
            assert "secret" not in ended.stderr

    def test_without_the_broker_a_miss_is_not_queued_and_a_hit_is_answered(self, cli: Cli) -> None:
        cli.deployment.producer().predict("slow", {"value": "a hit"})
        assert json.loads(cli.out("predict", "slow", request("a hit"), BROKER_URL="redis://127.0.0.1:1/0"))
        assert "broker" in cli.fails(4, "predict", "slow", request("a miss"), BROKER_URL="redis://127.0.0.1:1/0")

    def test_a_setting_that_cannot_be_is_named(self, cli: Cli) -> None:
        wrong = {
            "LEASE_S": "soon", "CACHE_URL": "nowhere", "BROKER_URL": "gopher://there", "NAMESPACE": "A B",
            "VISIBILITY_TIMEOUT_S": "1",
        }  # fmt: skip
        started = {name: cli.start("models", **{name: value}) for name, value in wrong.items()}
        for name, each in started.items():
            ended = cli.finish(each)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert f"FORESEEN_{name}" in ended.stderr


def test_a_reader_that_has_enough_ends_it_quietly(cli: Cli) -> None:
    every = (
        ["models"],
        ["stats", "--watch=0.1"],
        ["stats", "--json"],
        ["predict", "slow", request("big", pad=300_000)],
    )
    started = [cli.start(*arguments) for arguments in every]
    for process in started:
        assert process.stdout is not None
        process.stdout.close()  # long before it has something to say
    for process in started:
        with process:
            assert process.stderr is not None
            assert (process.stderr.read(), process.wait(LIMIT_S)) == ("", 141)


class TestCompletion:
    @staticmethod
    def completed(cli: Cli, *words: str, **environment: str) -> list[str]:
        """What bash is told for the last word."""
        told = {"_FORESEEN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        ended = subprocess.run(
            [FORESEEN], env=cli.deployment.environment | told | environment, capture_output=True, text=True, check=True
        )
        assert ended.stderr == ""
        return [line.partition(",")[2] for line in ended.stdout.splitlines() if line]

    def test_models_that_are_served_are_completed(self, cli: Cli) -> None:
        assert self.completed(cli, "foreseen", "predict", "s") == ["short-failure", "shout", "slow", "stale"]
        assert self.completed(cli, "foreseen", "stats", "shout@") == ["shout@1", "shout@2"]
        assert self.completed(cli, "foreseen", "models", "promote", "sh") == ["short-failure@1", "shout@1", "shout@2"]
        assert self.completed(cli, "foreseen", "pu") == ["purge"]

    @pytest.mark.parametrize("where", ["silent", "wrong"])
    def test_a_server_that_does_not_answer_at_once_is_not_waited_for(self, cli: Cli, silent: str, where: str) -> None:
        began = time.monotonic()
        url = silent if where == "silent" else "nowhere"
        assert self.completed(cli, "foreseen", "predict", "s", FORESEEN_CACHE_URL=url) == []
        assert time.monotonic() - began < 2.5  # half of FORESEEN_REPLY_TIMEOUT_S


def _wait_for_heartbeat(cache: Any, key: str) -> None:
    """Wait until a card is published once more: the time it has left rises then."""
    left: list[int] = [cache.pttl(key)]

    def rose() -> bool:
        left.append(cache.pttl(key))
        return left[-1] > left[-2]

    wait_until(rose, f"a heartbeat publishes {key}")
