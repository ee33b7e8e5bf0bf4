"""What is looked at in a deployment that runs: each raises `Wrong`, or returns a line that says what was seen."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployment import PATIENCE_S, ROOT, Deployment, Wrong, expect, wait_for

from producer import ModelNotServed, PredictionTimeout, Producer, Settings

__all__ = [
    "look_at_bounds",
    "look_at_dev",
    "look_at_flower",
    "look_at_image",
    "look_at_monitoring",
    "look_at_persistence",
    "look_at_servers",
    "start_monitoring",
]

#: What builds or fetches software; none of it has a use where nothing is built.
_TOOLS = ("gcc", "cc", "g++", "c++", "clang", "ld", "as", "make", "cmake", "pip", "pip3", "git", "curl", "wget")
#: Run in a container by its own Python.
_LOOK = """
import json, os, shutil, subprocess, sys
def refused(path):
    try:
        open(path, "w").close()
    except OSError:
        return True
    return False
pythons = {sys.executable, os.path.realpath(sys.executable)}
print(json.dumps({
    "uid": os.getuid(),
    "writable": [path for path in ("/probe", "/app/probe", "/opt/foreseen/probe", "/etc/probe") if not refused(path)],
    "tools": [each for each in json.loads(sys.argv[1]) if shutil.which(each)]
        + [f"{python} -m pip" for python in pythons
           if not subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL).returncode],
    "capabilities": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")),
}))
"""
_SHOUT = """from workers import as_model


@as_model
def shout(text: str) -> str:
    return text.upper() + "!"
"""
_PROMETHEUS = "prom/prometheus:v3.5.0"


def look_at_image(deployment: Deployment) -> str:
    """Check what runs in a container, and as whom."""
    told = json.loads(
        deployment.compose(
            "run", "--rm", "--no-TTY", "--no-deps", "producer", "python", "-c", _LOOK, json.dumps(_TOOLS)
        )
    )
    expect(told["uid"] == 10001, f"it runs as user {told['uid']}")
    expect(not told["writable"], f"it can write {told['writable']}")
    expect(not told["tools"], f"the image has {told['tools']}")
    expect(int(told["capabilities"], 16) == 0, f"it has capabilities {told['capabilities']}")
    size, base = (
        int(deployment.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        for image in (deployment.image, "python:3.11-slim")
    )
    return (
        f"image: {size - base:.0f} MB on the {base:.0f} MB of its base; user 10001, no capability, nothing to write "
        "but /tmp, no compiler, no pip"
    )


def look_at_bounds(deployment: Deployment) -> str:
    """Check that every container is bounded and confined as the engine itself sees it."""
    containers = list(deployment.starts())
    for each in containers:
        host = json.loads(deployment.docker("inspect", "--format", "{{json .HostConfig}}", each))
        name = deployment.inspect(each, ".Name")
        expect(host["Memory"] > 0, f"{name} has no memory limit")
        expect(host["NanoCpus"] > 0, f"{name} has no CPU limit")
        expect(host["ReadonlyRootfs"], f"{name} can write to its root file system")
        expect(host["CapDrop"] == ["ALL"], f"{name} keeps capabilities")
        expect(deployment.inspect(each, ".Config.User") not in {"", "root", "0"}, f"{name} runs as root")
    return f"{len(containers)} containers, each with a memory and a CPU limit, read-only, not root"


def look_at_servers(deployment: Deployment) -> str:
    """Check that broker and cache are what they have to be, as they say themselves."""
    seen = []
    for service, policy, kept in (("broker", "noeviction", "yes"), ("cache", "allkeys-lfu", "no")):
        (container,) = deployment.containers(service)
        told = deployment.docker(
            *("exec", container, "redis-cli", "CONFIG", "GET", "maxmemory", "maxmemory-policy", "appendonly")
        ).split()
        config = dict(zip(told[::2], told[1::2], strict=True))
        expect(config["maxmemory-policy"] == policy, f"the {service} has {config['maxmemory-policy']}")
        expect(int(config["maxmemory"]) > 0, f"the {service} is not bounded")
        expect(config["appendonly"] == kept, f"the {service} has appendonly {config['appendonly']}")
        seen.append(f"{service} {policy}, {int(config['maxmemory']) // 2**20} MiB, appendonly {kept}")
    return "; ".join(seen)


def look_at_persistence(deployment: Deployment) -> str:
    """Check that what was submitted is still computed if the broker was restarted and killed meanwhile."""
    with _producer(deployment) as producer:
        producer.predict("file-type", b"#!/bin/sh\n", timeout=PATIENCE_S)  # it knows the model from now on
        deployment.compose("stop", "worker")
        pendings = [producer.submit("file-type", f"#!/bin/sh\necho {number}\n".encode()) for number in range(20)]
        deployment.compose("restart", "broker")
        deployment.docker("kill", *deployment.containers("broker"))
        deployment.up(1)
        labels = {pending.result(timeout=PATIENCE_S)["label"] for pending in pendings}
    expect(labels == {"shell"}, f"20 shell scripts were taken for {labels}")
    return (
        f"{len(pendings)} tasks submitted with no worker, broker restarted and killed, a worker started: all computed"
    )


def look_at_flower(deployment: Deployment) -> str:
    """Check that Flower asks for its login, and that it shows workers and tasks; return what it showed."""
    port = deployment.ports["FLOWER_PORT"]

    def get(path: str, login: str | None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - it is http
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    for path in ("/", "/api/tasks", "/api/workers"):
        for login in (None, "run:wrong"):
            status, _ = get(path, login)
            expect(status == 401, f"Flower's {path} answered {status} to {'a wrong' if login else 'no'} login")
        status, _ = get(path, deployment.login)
        expect(status == 200, f"Flower's {path} answered {status} to its login")

    def tasks() -> list[dict[str, Any]]:
        return list(json.loads(get("/api/tasks?limit=200", deployment.login)[1]).values())

    here = {f"celery@{deployment.inspect(each, '.Config.Hostname')}" for each in deployment.workers()}
    wait_for(lambda: here <= {each["worker"] for each in tasks()}, "Flower shows tasks of each worker")
    shown = tasks()
    states = sorted({each["state"] for each in shown})
    expect("SUCCESS" in states, f"Flower shows no task that succeeded, only {states}")
    expect("FAILURE" not in states, "Flower shows a task that failed")
    names = sorted({each["name"] for each in shown if each["name"]})
    return (
        f"Flower: 401 without its login, 200 with it; {len(shown)} tasks named {', '.join(names)}, "
        f"{', '.join(states)}, of {len(here)} workers"
    )


def look_at_dev(deployment: Deployment, models: Path) -> str:
    """Check that the profile `dev` serves a folder, and that a changed file answers without another command."""
    (models / "shout.py").write_text(_SHOUT)
    deployment.up_with("dev", "worker-dev")
    took_s = []
    with _producer(deployment) as producer:
        expect(producer.predict("shout", "hello", timeout=PATIENCE_S) == "HELLO!", "shout answers")
        for mark in ("?", "."):
            (models / "shout.py").write_text(_SHOUT.replace('"!"', f'"{mark}"'))
            began = time.monotonic()
            wait_for(_says(producer, f"HELLO{mark}"), f"the changed model answers HELLO{mark}")
            took_s.append(time.monotonic() - began)
        (models / "hush.py").write_text(_SHOUT.replace("shout", "hush").replace("upper", "lower"))
        wait_for(_says(producer, "hello!", "hush"), "a model that is new in the folder answers")
    deployment.compose("--profile", "dev", "stop", "worker-dev")
    return (
        f"profile dev: a changed model file answered after {' and '.join(f'{s:.1f} s' for s in took_s)}, a new one too"
    )


def start_monitoring(deployment: Deployment) -> bool:
    """Start the exporter and Prometheus if there is an image of that, here or where images come from."""
    try:
        deployment.docker("image", "inspect", _PROMETHEUS)
    except Wrong:
        try:
            deployment.compose("--profile", "monitoring", "pull", "prometheus")
        except Wrong:
            return False
    deployment.up_with("monitoring", "metrics", "prometheus")
    return True


def look_at_monitoring(deployment: Deployment) -> str:
    """Check that each query of Grafana's board returns data, of the real Prometheus; return how many there are."""
    board = json.loads((ROOT / "monitoring/grafana/dashboards/foreseen.json").read_text(encoding="utf-8"))
    queries = {target["expr"]: panel["title"] for panel in board["panels"] for target in panel["targets"]}
    empty: set[str] = set()

    def ask(query: str) -> list[dict[str, Any]]:
        filled = query.replace("$__rate_interval", "1m").replace("$model", ".*")
        address = f"http://127.0.0.1:{deployment.ports['PROMETHEUS_PORT']}/api/v1/query"
        with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode({'query': filled})}", timeout=10) as reply:  # noqa: S310 - it is http
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
            return found

    def all_have_data() -> bool:
        empty.clear()
        empty.update(title for query, title in queries.items() if all(each["value"][1] == "NaN" for each in ask(query)))
        return not empty

    try:
        wait_for(all_have_data, "each query of the board returns data")
    except Wrong as error:
        raise Wrong(f"{error}: {sorted(empty)}") from None
    return f"Prometheus: each of the board's {len(queries)} queries returns data"


def _producer(deployment: Deployment) -> Producer:
    settings = Settings(broker_url=deployment.broker_url, cache_url=deployment.cache_url, model_wait_s=PATIENCE_S)
    return Producer(settings)


def _says(producer: Producer, answer: str, model: str = "shout") -> Callable[[], bool]:
    def says() -> bool:
        with suppress(PredictionTimeout, ModelNotServed):  # while the worker starts again
            return bool(producer.predict(model, "hello", timeout=2) == answer)
        return False

    return says
