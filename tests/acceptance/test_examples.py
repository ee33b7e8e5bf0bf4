"""The examples do what their pages say, run as a reader runs them: real servers, real workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from acceptance.harness import DEADLINE_S, Deployment, wait_until
from acceptance.test_docs import blocks_of, runs_of

from foreseen.keys import KeySpace

pytestmark = pytest.mark.acceptance

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"

#: Stands for the bundled model where a test needs one that fails, refuses or takes its time.
UNWELL: Final = """
import time
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from workers import Model


def fitting(data: bytes) -> bytes:
    if data.startswith(b"unfit"):
        raise ValueError("unfit")
    return data


class FileType(Model[Annotated[bytes, AfterValidator(fitting)], dict[str, str | float]]):
    name = "file-type"
    version = "unwell"

    def predict(self, batch):
        for data in batch:
            if data.startswith(b"fail"):
                raise RuntimeError("out of order")
            while data.startswith(b"/") and not Path(data.decode()).exists():
                time.sleep(0.01)
        return [{"label": "shell", "mime_type": "text/x-shellscript", "group": "code", "score": 1.0}] * len(batch)
"""


class Readers:
    """What somebody does who follows a page: run commands in an example's folder, with a deployment up."""

    def __init__(self, deployment: Deployment, home: Path) -> None:
        self.deployment = deployment
        self.home = home

    def environment(self, **further: str) -> dict[str, str]:
        """Return a shell's environment: foreseen is installed, and where the servers are is set."""
        inherited = {name: value for name, value in self.deployment.environment.items() if name != "PYTHONPATH"}
        return inherited | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.home),
            "COLUMNS": "120",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MAILROOM_BROKER_URL": self.deployment.server.url(2),
            "MAILROOM_RESULTS_URL": self.deployment.server.url(3),
            **further,
        }

    def run(self, example: str, *command: str, timeout_s: float = 2 * DEADLINE_S, **environment: str) -> str:
        """Run a command, which has to succeed; return what it printed."""
        done = subprocess.run(
            command,
            cwd=EXAMPLES / example,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def start(self, example: str, *command: str, pass_fds: tuple[int, ...] = (), **environment: str) -> Iterator[Path]:
        """Keep a command running for a while; yields its log."""
        log = self.home / f"{example}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=EXAMPLES / example,
                env=self.environment(**environment),
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self.deployment._tell_keeper(process.pid)
        try:
            yield log
        except BaseException:
            print(log.read_text(errors="replace"))
            raise
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def app(self, **environment: str) -> Iterator[httpx.Client]:
        """Run the FastAPI application on a free port; yields a client of it."""
        with contextlib.ExitStack() as stack:
            with socket.create_server(("127.0.0.1", 0)) as listening:  # connections wait here until it has started
                port = listening.getsockname()[1]
                command = ("uvicorn", "app:app", "--fd", str(listening.fileno()))
                stack.enter_context(self.start("fastapi_app", *command, pass_fds=(listening.fileno(),), **environment))
            yield stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readers]:
    """Serve the bundled model and the example's own, for all tests of this module."""
    home = tmp_path_factory.mktemp("examples")
    with Deployment(home, models=("workers.models.file_type", "keywords")) as deployment:
        # As `cd examples/own_model` does it: Celery looks for modules where it is started.
        path = os.pathsep.join([str(EXAMPLES / "own_model"), deployment.environment["PYTHONPATH"]])
        deployment.start_worker(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
        yield Readers(deployment, home)


@pytest.fixture
def unwell(deploy: Callable[..., Deployment], tmp_path: Path) -> Readers:
    """Serve a model of the bundled one's name that can fail."""
    (tmp_path / "unwell.py").write_text(UNWELL)
    deployment = deploy(models=("unwell",))
    path = os.pathsep.join([str(tmp_path), deployment.environment["PYTHONPATH"]])
    deployment.start_worker("threads", PYTHONPATH=path)
    return Readers(deployment, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three files that nobody has asked for before."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in {
        "page.html": "<!DOCTYPE html>\n<html><head><title>{}</title></head><body><p>Hello</p></body></html>\n",
        "run.sh": "#!/bin/sh\n# {}\nset -e\nfor each in *; do echo $each; done\n",
        "tool.py": "import sys\n\n# {}\nif __name__ == '__main__':\n    print(len(sys.argv))\n",
    }.items():
        (folder / name).write_text(content.format(os.urandom(8).hex()))
    return folder


def shown(example: str) -> str:
    """Return the output that an example's page shows: its first plain block."""
    return next(block.text for block in blocks_of(EXAMPLES / example / "README.md") if block.kind == "")


def without_figures(text: str) -> str:
    """Return a text in which other scores or times are no difference."""
    return re.sub(r"\d+\.\d+", "#", text)


def new_script() -> bytes:
    """Return a file that nobody has asked for before."""
    return b"#!/bin/sh\n# " + os.urandom(8).hex().encode() + b"\necho hello\n"


def test_the_script_tells_the_types_of_a_folder_and_where_each_answer_came_from(served: Readers, folder: Path) -> None:
    printed = served.run("script", "python", "classify.py", str(folder)).splitlines()
    assert printed[:3] == ["page.html: computed", "run.sh: computed", "tool.py: computed"]
    assert "100%" in printed[3]
    rows = [re.split(r"\s*│\s*", line)[1:4] for line in printed if line.startswith("│")]
    assert rows == [
        ["page.html", "html", "text/html"],
        ["run.sh", "shell", "text/x-shellscript"],
        ["tool.py", "python", "text/x-python"],
    ]
    assert printed[-3:] == ["page.html: hit", "run.sh: hit", "tool.py: hit"]


def test_the_script_prints_what_its_page_shows(served: Readers) -> None:
    printed = served.run("script", "python", "classify.py", "../own_model")
    page = (EXAMPLES / "script" / "README.md").read_text(encoding="utf-8")
    assert "python classify.py ../own_model\n" in page
    assert without_figures(printed) == without_figures(shown("script")), printed


def test_a_model_of_ones_own_answers_and_is_cached(served: Readers) -> None:
    """What its page shows, the key included, which is the digest of the model's file and of the input."""
    assert served.run("own_model", "python", "ask.py") == shown("own_model")


def test_the_app_predicts_and_lets_a_key_be_polled(served: Readers) -> None:
    with served.app() as client:
        submitted = client.post("/predictions", content=new_script())
        assert submitted.status_code == 202
        key = submitted.json()["key"]
        assert submitted.json()["status"] in {"pending", "done"}
        assert submitted.json() | {"status": ""} == {"key": key, "source": "computed", "status": "", "result": None}
        polled = wait_until(
            lambda: done if (done := client.get(f"/predictions/{key}")).status_code != 202 else None, "it is done"
        )
        assert polled.status_code == 200
        assert polled.json()["status"] == "done"
        assert polled.json()["result"]["mime_type"] == "text/x-shellscript"

        script = new_script()
        predictions = [client.post("/predict", content=script) for _ in range(2)]
        assert [each.status_code for each in predictions] == [200, 200]
        first, second = (each.json() for each in predictions)
        assert (first.pop("source"), second.pop("source")) == ("computed", "hit")
        assert first == second
        assert first["result"]["label"] == "shell"

        measured = client.get("/latency").json()
        assert {source: each["count"] for source, each in measured.items()} == {"computed": 1, "hit": 1}
        assert all(0 < each["p50_ms"] <= each["p99_ms"] for each in measured.values())


def test_the_app_answers_what_its_page_shows(served: Readers) -> None:
    runs = [run for run in runs_of(blocks_of(EXAMPLES / "fastapi_app" / "README.md")) if run.command.startswith("curl")]
    assert len(runs) == 3
    with served.app() as client:
        for run in runs:
            *options, url = run.command.removeprefix("curl ").split()
            path = "/" + url.removeprefix("localhost:8000/")
            content = [(EXAMPLES / "fastapi_app" / each[1:]).read_bytes() for each in options if each.startswith("@")]

            def told(path: str = path, content: list[bytes] = content) -> str:
                answer = client.post(path, content=content[0]) if content else client.get(path)
                text = without_figures(answer.text)
                # Of what was only submitted: it may be done by then.
                return text.replace('"done"', '"pending"') if answer.status_code == httpx.codes.ACCEPTED else text

            assert run.expected is not None
            expected = without_figures(run.expected.strip())
            if content:
                assert told() == expected
            else:
                wait_until(lambda: told() == expected, f"{path} tells what the page shows")  # noqa: B023 - it ends here


def test_polling_and_equal_requests_join_the_computation_under_way(unwell: Readers, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def ask(url: httpx.URL) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
            key = (await client.post("/predictions", content=str(gate))).json()["key"]
            polls = [await client.get(f"/predictions/{key}") for _ in range(3)]
            requests = [asyncio.create_task(client.post("/predict", content=str(gate))) for _ in range(5)]
            await asyncio.wait(requests, timeout=0.3)  # they wait: the gate is shut
            gate.touch()
            return [*polls, *(await asyncio.gather(*requests)), await client.get(f"/predictions/{key}")]

    with unwell.app() as client:
        *answers, last = asyncio.run(ask(client.base_url))
    assert [each.status_code for each in answers] == [202] * 3 + [200] * 5
    assert {each.json()["source"] for each in answers} == {"coalesced"}
    assert (last.status_code, last.json()["source"]) == (200, "hit")


def test_the_app_answers_each_error_with_its_status(unwell: Readers, tmp_path: Path) -> None:
    with unwell.app() as client:

        def told(response: httpx.Response) -> tuple[int, str, bool]:
            return response.status_code, response.json()["error"], "Retry-After" in response.headers

        assert told(client.post("/predict", content=b"fail")) == (502, "ModelFailed", False)
        assert told(client.post("/predict", content=b"unfit")) == (422, "InputRefused", False)
        assert told(client.post("/predict", content=bytes(17 * 2**20))) == (422, "InvalidInput", False)
        shut = str(tmp_path / "gate").encode()
        assert told(client.post("/predict?timeout_s=0.2", content=shut)) == (504, "PredictionTimeout", True)
        assert told(client.get("/predictions/no-key")) == (422, "InvalidKey", False)
        unknown = f"/predictions/file-type@unwell:{'0' * 40}"
        assert told(client.get(unknown)) == (404, "UnknownKey", False)
        failed = client.post("/predictions", content=b"fail later").json()["key"]
        wait_until(lambda: client.get(f"/predictions/{failed}").status_code != 202, "it has failed")
        assert told(client.get(f"/predictions/{failed}")) == (502, "ModelFailed", False)

        with unwell.app(FORESEEN_NAMESPACE="elsewhere", FORESEEN_MODEL_WAIT_S="0.1") as empty:
            assert told(empty.post("/predict", content=b"x")) == (503, "ModelNotServed", True)
        with unwell.app(FORESEEN_BROKER_URL="redis://127.0.0.1:1/0") as brokerless:
            assert told(brokerless.post("/predict", content=b"new")) == (503, "BrokerUnavailable", True)
        unwell.deployment.server.stop()
        assert told(client.post("/predict", content=b"x")) == (503, "CacheUnavailable", True)


def test_the_app_under_load_makes_no_error(served: Readers) -> None:
    """64 connections at once; every request is answered, and counted under the source of its answer."""
    with served.app() as client:
        summary, *by_source = served.run("fastapi_app", "python", "load.py", str(client.base_url)).splitlines()
    print(summary, *by_source, sep="\n")
    assert re.fullmatch(r"1,920 requests in [\d.]+ s, by status: \{200: 1920\}", summary)
    counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in by_source}
    assert counts.keys() == {"hit", "computed", "coalesced"}
    assert sum(counts.values()) == 1920
    assert counts["computed"] < 300  # about one in twenty, and ten that all ask for


def test_the_django_command_tells_files_types(served: Readers, folder: Path) -> None:
    files = sorted(map(str, folder.iterdir()))
    printed = served.run("django_app", "python", "manage.py", "classify", *files)
    assert re.sub(r" \([\d.]+\)", "", printed).splitlines() == [
        "page.html: text/html",
        "run.sh: text/x-shellscript",
        "tool.py: text/x-python",
    ]


def test_the_django_command_prints_what_its_page_shows(served: Readers) -> None:
    runs = runs_of(blocks_of(EXAMPLES / "django_app" / "README.md"))
    (run,) = [run for run in runs if run.command.startswith("python manage.py classify")]
    assert without_figures(served.run("django_app", *run.command.split())) == without_figures(run.expected or "")


#: As `gunicorn --preload` does it: the application is imported and used, then forked, and used on both sides.
DJANGO: Final = """
import json, os
from filetypes.wsgi import application
from django.test import Client

client = Client()

def ask(content):
    response = client.post("/classify", content, content_type="application/octet-stream")
    return response.status_code, response.json(), response.get("Retry-After")

def say(value):
    print(json.dumps(value), flush=True)

script = b"#!/bin/sh\\n# " + os.urandom(8).hex().encode() + b"\\necho hello\\n"
say([ask(script), ask(script)])
if os.fork() == 0:
    say([ask(script + b"# child"), ask(script)])
    os._exit(0)
status = os.wait()[1]
say([status, ask(script + b"# parent")])
"""


def test_the_django_view_predicts_before_and_after_a_fork(served: Readers) -> None:
    said = [json.loads(line) for line in served.run("django_app", "python", "-c", DJANGO).splitlines()]
    (before, again), (child, hit), (status, parent) = said
    assert status == 0
    answers = [before, again, child, hit, parent]
    assert [code for code, _, _ in answers] == [200] * 5
    assert [body["source"] for _, body, _ in answers] == ["computed", "hit", "computed", "hit", "computed"]
    assert {body["label"] for _, body, _ in answers} == {"shell"}


def test_the_django_view_says_when_to_ask_again(served: Readers) -> None:
    nobody = {"FORESEEN_NAMESPACE": "elsewhere", "FORESEEN_MODEL_WAIT_S": "0.1"}
    script = DJANGO.partition("script =")[0] + "say(ask(b'x'))"
    status, body, retry_after = json.loads(served.run("django_app", "python", "-c", script, **nobody))
    assert (status, body["error"], retry_after) == (503, "ModelNotServed", "5")


def test_tasks_of_another_celery_application_ask_from_each_of_its_processes(served: Readers, tmp_path: Path) -> None:
    letters = [tmp_path / f"letter{number}.sh" for number in range(20)]
    for letter in letters:
        letter.write_bytes(new_script())
    arguments = ("-A", "mailroom", "worker", "--concurrency", "2", "--without-mingle", "--loglevel", "INFO")
    with served.start("celery_app", "celery", *arguments) as log:
        wait_until(lambda: b" ready." in log.read_bytes(), "the mailroom is open")
        printed = served.run("celery_app", "python", "send.py", *map(str, letters)).splitlines()
        (run,) = [run for run in runs_of(blocks_of(EXAMPLES / "celery_app" / "README.md")) if "send.py" in run.command]
        _, *arguments = run.command.partition(' "$(which')[0].split()  # whatever this Python's file may be
        answers = served.run("celery_app", "python", *arguments).splitlines()
    assert len(answers) == 2
    for answer, line in zip(answers, shown("celery_app").splitlines(), strict=False):
        assert re.sub(r"\d+", "#", answer) == re.sub(r"\d+", "#", line)
    told = [re.fullmatch(r"(.*) \(sorted by process (\d+)\)", line) for line in printed]
    assert [each and each[1] for each in told] == [f"{each.name}: text/x-shellscript, to review" for each in letters]
    assert len({each and each[2] for each in told}) == 2


#: Runs a notebook and prints its cells' outputs, as text.
NOTEBOOK: Final = """
import json, sys
import nbformat
from nbclient import NotebookClient

def texts(notebook):
    return [
        "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)
        for cell in notebook.cells if cell.cell_type == "code"
    ]

notebook = nbformat.read("predictions.ipynb", as_version=4)
stored = texts(notebook)
NotebookClient(notebook, timeout=60).execute()
print(json.dumps([stored, texts(notebook)]))
"""


def test_the_notebook_runs_and_its_stored_outputs_are_what_it_says(served: Readers) -> None:
    stored, now = json.loads(served.run("notebook", "python", "-c", NOTEBOOK))

    def without_figures(outputs: list[str]) -> list[str]:
        return [re.sub(r" *\d+(\.\d+)?", " #", output) for output in outputs]

    *outputs, statistics, end = without_figures(now)
    *stored_outputs, stored_statistics, _ = without_figures(stored)
    assert outputs == stored_outputs
    assert outputs[1] == " # ms  text/x-shellscript\n # ms  text/x-shellscript\n"
    assert outputs[2] == "[('hit', 'shell'), ('computed', 'txt'), ('coalesced', 'txt')]"
    assert outputs[4] == "('shell', 'hit')"
    miss_ms, hit_ms = (float(figure) for figure in re.findall(r"[\d.]+(?= ms)", now[5]))
    assert hit_ms < miss_ms
    assert "misses" in statistics
    assert "misses" in stored_statistics
    assert end == ""


def _current(deployment: Deployment, model: str) -> bytes | None:
    with deployment.redis() as cache:
        found: bytes | None = cache.get(KeySpace(deployment.settings.namespace).current(model))  # type: ignore[assignment]
    return found


def _computed(readers: Readers) -> dict[str, int]:
    """Return how often each model of the digits was computed, in all its versions; by its name."""
    told = json.loads(readers.run("digits_ensemble", "foreseen", "stats", "--json"))["models"]
    counts: dict[str, int] = {}
    for model_id, each in told.items():
        name = model_id.partition("@")[0]
        counts[name] = counts.get(name, 0) + each["computed"]
    return counts


@pytest.mark.timeout(400)
def test_the_digits_are_computed_once_by_stage_and_member_and_the_cascade_spares_the_dear_one(
    deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: make frameworks")
    images = 1797
    deployment = deploy(models=("digits",), lease_s=10.0)
    readers = Readers(deployment, tmp_path)
    path = os.pathsep.join([str(EXAMPLES / "digits_ensemble"), deployment.environment["PYTHONPATH"]])
    start = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    worker = deployment.start_worker(**start)

    cold = readers.run("digits_ensemble", "python", "ask_digits.py", timeout_s=150).splitlines()
    assert [line.split()[0] for line in cold] == [
        "digit", "digit-linear", "digit-forest", "digit-neighbours", "digit,",
    ]  # fmt: skip
    assert [re.findall(r"{.*}", line)[0] for line in cold] == ["{'computed'}", *["{'hit'}"] * 4]
    share = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in cold[:4]}
    assert share["digit"] > share["digit-linear"]
    assert all(each > 90 for each in share.values())
    members = ("digit-linear", "digit-forest", "digit-neighbours")
    assert _computed(readers) == {
        "stage.digit-pixels": images, **dict.fromkeys(members, images), "digit": images, "digit-cascade": 0,
    }  # fmt: skip

    worker.terminate()
    worker.wait()
    before = _current(deployment, "digit")
    worker = deployment.start_worker(**start, DIGITS_TREES="50", FORESEEN_PROMOTE="true")
    wait_until(lambda: _current(deployment, "digit") != before, "the new vote is the current one")
    again = readers.run("digits_ensemble", "python", "ask_digits.py", timeout_s=150).splitlines()
    assert [re.findall(r"{.*}", line)[0] for line in again] == ["{'computed'}", *["{'hit'}"] * 4]
    assert _computed(readers) == {
        "stage.digit-pixels": images, **dict.fromkeys(members, images), "digit-forest": 2 * images,
        "digit": 2 * images, "digit-cascade": 0,
    }  # fmt: skip

    told = readers.run("digits_ensemble", "python", "ask_digits.py", "cascade", timeout_s=150)
    alone, cascade, spared = told.splitlines()
    assert float(cascade.split()[1].rstrip("%")) >= float(alone.split()[1].rstrip("%")) - 0.5
    cheap = int(re.match(r"(\d+)% answered by digit-linear", spared)[1])  # type: ignore[index]
    assert cheap > 70
    dear = _computed(readers)["digit-neighbours"] - 2 * images
    assert 100 * dear / images == pytest.approx(100 - cheap, abs=1)
