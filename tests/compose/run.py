"""Run docker-compose.yml for real, under traffic: `make compose-test`.

Needs `docker compose`, its engine, and an environment with foreseen in it; where there is no engine it says so and ends
well. It is no test of pytest's, as it takes an engine and some minutes. A project, ports and a login of its own keep it
from disturbing a deployment on the same machine, and everything is taken away at the end.

Two producers ask without a pause, one on this machine over the published ports and one in a container, while workers
come, go, are killed and crash, and broker and cache are restarted and killed. It prints a table: workers, requests,
failures and restarts in each phase. At the end each answer is compared with what the model says without foreseen. It
exits 1 if a request failed, or if anything else was not as it must be.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from asking import Asking
from course import HEAD, TWO_LEASES_S, Course, markdown, together
from deployment import ROOT, Deployment, Wrong, expect, missing_engine, wait_for
from looks import (
    look_at_bounds,
    look_at_dev,
    look_at_flower,
    look_at_image,
    look_at_monitoring,
    look_at_persistence,
    look_at_servers,
    start_monitoring,
)

from foreseen.errors import ForeseenError

#: How long a server is away on purpose: longer than what a worker or a producer sits out without telling anybody.
_AWAY_S = 10
_TRAFFIC = Path(__file__).with_name("traffic.py")
_PAGE = ROOT / "docs" / "operations.md"
_PICTURE = ROOT / "docs" / "operations-flower.png"
_BEGIN = "<!-- made by `make compose-test ARGS=--docs` from here -->"
_END = "<!-- to here -->"


def crash(deployment: Deployment, container: str) -> None:
    """Kill everything in a container from inside, as running out of memory could, and wait until it is back."""
    restarts = int(deployment.inspect(container, ".RestartCount"))
    with suppress(Wrong):  # it kills itself, too
        deployment.docker("exec", container, "python", "-c", "import os; os.kill(-1, 9)")
    wait_for(lambda: int(deployment.inspect(container, ".RestartCount")) > restarts, "the worker was started again")
    wait_for(lambda: deployment.is_healthy(container), "the worker that was started again is healthy")


def restart(deployment: Deployment, service: str) -> None:
    """Restart a server in good order, and wait until it answers."""
    deployment.compose("restart", service)
    (container,) = deployment.containers(service)
    wait_for(lambda: deployment.is_healthy(container), f"the {service} is healthy")


def kill(deployment: Deployment, service: str) -> None:
    """Kill a server, and bring it up again."""
    (container,) = deployment.containers(service)
    deployment.docker("kill", container)
    expect(not deployment.containers(service), f"the {service} is dead")
    deployment.compose("start", service)
    wait_for(lambda: deployment.is_healthy(container), f"the {service} is healthy")


def stop_for_a_while(deployment: Deployment, service: str) -> None:
    """Stop a server, and start it again somewhat later."""
    (container,) = deployment.containers(service)
    deployment.compose("stop", service)
    time.sleep(_AWAY_S)
    deployment.compose("start", service)
    wait_for(lambda: deployment.is_healthy(container), f"the {service} is healthy")


def stop_and_start(deployment: Deployment) -> None:
    """Stop each worker, one by one, and start it again."""
    for container in deployment.workers():
        deployment.docker("stop", container)
        status = deployment.inspect(container, ".State.ExitCode")
        expect(status == "0", f"a worker that was asked to stop ended with {status}, not by a warm shutdown")
        deployment.docker("start", container)
        wait_for(partial(deployment.is_healthy, container), "the worker is healthy again")


def run(deployment: Deployment, course: Course, *, with_picture: bool) -> list[str]:
    """Go through all phases; return what was seen meanwhile."""
    seen = []
    is_monitored = start_monitoring(deployment)
    with course.phase("one worker"):
        pass
    with course.phase("scaled to 4"):
        deployment.up(4)
        expect(len(deployment.workers()) == 4, "there are four workers")
    seen.append(look_at_flower(deployment))
    if with_picture:
        picture = f"http://{deployment.login}@127.0.0.1:{deployment.ports['FLOWER_PORT']}/workers"
        subprocess.run([sys.executable, ROOT / "docs" / "screenshot.py", picture, _PICTURE], check=True)
    with course.phase("scaled to 2: warm shutdown"):
        deployment.up(2)
        expect(len(deployment.workers()) == 2, "there are two workers")
    with course.phase("a worker killed", lasts_s=TWO_LEASES_S):
        deployment.docker("kill", deployment.workers()[0])
        expect(len(deployment.workers()) == 1, "one worker is left")
    with course.phase("up: it is back"):
        deployment.up(2)
        expect(len(deployment.workers()) == 2, "there are two workers again")
    with course.phase("kill -9 inside one: restart policy", lasts_s=TWO_LEASES_S):
        crash(deployment, deployment.workers()[0])
    for service in ("broker", "cache"):
        with course.phase(f"{service} restarted", lasts_s=TWO_LEASES_S, may_refuse=True):
            restart(deployment, service)
        with course.phase(f"{service} killed, started again", lasts_s=TWO_LEASES_S, may_refuse=True):
            kill(deployment, service)
        with course.phase(f"{service} away for {_AWAY_S} s", lasts_s=TWO_LEASES_S, may_refuse=True):
            stop_for_a_while(deployment, service)
    with course.phase("both workers stopped and started"):
        stop_and_start(deployment)
    with course.phase("both workers replaced by new ones"):
        before = set(deployment.workers())
        deployment.up(2, "--force-recreate", "--no-deps", "worker")
        now = set(deployment.workers())
        expect(len(now) == 2 and not now & before, "there are two other workers")
    if is_monitored:
        seen.append(look_at_monitoring(deployment))
    else:
        seen.append("Prometheus: not looked at, there is no image of it here")
    seen.append(look_at_bounds(deployment))
    course.finish()
    return seen


def ask_and_run(deployment: Deployment, *, with_picture: bool) -> tuple[Course, list[str]]:
    """Go through all phases under traffic; return them, and what was seen."""
    outside = deployment.environment | {
        "FORESEEN_BROKER_URL": deployment.broker_url,
        "FORESEEN_CACHE_URL": deployment.cache_url,
    }
    # The script travels as an argument: an engine on another machine could not mount a file of this one.
    script = _TRAFFIC.read_text(encoding="utf-8")
    inside = deployment.command("run", "--rm", "--no-TTY", "producer", "python", "-c", script, "submit")
    asking = [
        Asking("on this machine", [sys.executable, str(_TRAFFIC), "predict"], outside),
        Asking("in a container", inside, deployment.environment),
    ]
    with ExitStack() as stack:
        for each in asking:
            stack.enter_context(each)
        for each in asking:
            wait_for(each.has_an_answer, f"the producer {each.name} has an answer")
        print(HEAD)
        course = Course(deployment, asking)
        seen = run(deployment, course, with_picture=with_picture)
    return course, seen


def sum_up(course: Course) -> str:
    """Return what the requests of all phases came to."""
    told = together(course.asking)
    here, inside = (each.told.answered for each in course.asking)
    refused = ", ".join(f"{count:,} {name}" for name, count in told.refused.items()) or "nothing"
    sources = ", ".join(f"{count:,} {source}" for source, count in sorted(told.sources.items()))
    return (
        f"{told.asked:,} requests, {told.answered:,} answered ({here:,} by predict, {inside:,} by submit: {sources}), "
        f"{told.failed} failures. Told meanwhile, and asked again: {refused}. {told.checked:,} different inputs, each "
        f"answer compared with the model's own."
    )


def renew_page(course: Course, seen: list[str]) -> None:
    """Put the table between the marks of the page."""
    before, begin, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    expect(begin and end, f"{_PAGE} has the two lines between which the table goes")
    lines = "\n".join(f"- {line}" for line in seen)
    made = f"{markdown(course.phases)}\n\n{sum_up(course)}\n\n{lines}"
    _PAGE.write_text(f"{before}{begin}\n\n{made}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true", help="run the image as it is")
    parser.add_argument(
        "--docs", action="store_true", help=f"renew {_PAGE.name}; takes a picture, for which it needs Chromium"
    )
    arguments = parser.parse_args()
    if (missing := missing_engine()) is not None:
        print(f"skipped: there is no {missing} here")
        return 0
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="foreseen-models-") as folder:
        models = Path(folder)
        models.chmod(0o755)  # the container's user reads it
        deployment = Deployment(models)
        try:
            if not arguments.no_build:
                deployment.compose("build")
            began = time.monotonic()
            deployment.up(1)
            seen = [f"broker, cache, Flower and one worker are healthy after {time.monotonic() - began:.1f} s"]
            seen += [look_at_image(deployment), look_at_servers(deployment)]
            print("\n".join([*seen, ""]), flush=True)
            course, more = ask_and_run(deployment, with_picture=arguments.docs)
            more += [look_at_persistence(deployment), look_at_dev(deployment, models)]
            print("\n".join(["", sum_up(course), *more]))
            failures += together(course.asking).errors
            if arguments.docs and not failures:
                renew_page(course, [*seen, *more])
        except (Wrong, ForeseenError, TimeoutError, subprocess.SubprocessError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            with suppress(Wrong):
                print(deployment.compose("logs", "--no-color", "--tail", "20"), file=sys.stderr)
        finally:
            deployment.down()
        if left := deployment.left_over():
            failures.append(f"down left {len(left)} things behind: {' '.join(left)}")
        else:
            print("down --volumes: no container, volume or network is left")
    for failure in failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
