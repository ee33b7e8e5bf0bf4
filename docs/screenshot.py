"""Make docs/flower.png: Flower's real page, over a real worker and real predictions, in headless Chromium.

    python docs/screenshot.py
    python docs/screenshot.py URL PICTURE       of any other page

Needs Chromium on the PATH (Debian: `apt install chromium`) and `pip install 'foreseen[demo]'`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from foreseen.embedded import EmbeddedServer
from foreseen.settings import Settings
from producer import Producer

_PICTURE = Path(__file__).with_name("flower.png")
_DEADLINE_S = 60.0


def main() -> None:
    """Take a picture of the page that is named, or of one that is made for it."""
    if len(sys.argv) > 1:
        url, picture = sys.argv[1:]
        take(url, Path(picture))
    else:
        show_flower()


def take(url: str, picture: Path) -> None:
    """Take a picture of a page once its scripts have done what they do first."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={profile}", "--window-size=2000,800", "--virtual-time-budget=8000",
                f"--screenshot={picture}", url,
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print(f"{picture.name}: {picture.stat().st_size:,} bytes")  # noqa: T201 - a script for a person


def show_flower() -> None:
    """Start everything, predict, take the picture."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        settings = Settings(
            broker_url=server.url(0), cache_url=server.url(1), model_wait_s=_DEADLINE_S, events_share=1.0
        )
        login, port = f"you:{secrets.token_urlsafe(9)}", _free_port()
        environment = os.environ | {
            "FORESEEN_BROKER_URL": settings.broker_url,
            "FORESEEN_CACHE_URL": settings.cache_url,
            "FORESEEN_MODELS": "workers.models.file_type",
            "FLOWER_BASIC_AUTH": login,
        }
        celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "workers"]
        stack.enter_context(_running([*celery, "worker", "--concurrency=2", "--hostname=worker@laptop"], environment))
        stack.enter_context(_running([*celery, "flower", f"--port={port}", "--address=127.0.0.1"], environment))
        producer, other = stack.enter_context(Producer(settings)), stack.enter_context(Producer(settings))
        _wait_for(f"http://127.0.0.1:{port}/api/workers?refresh=true", login)
        _predict(producer, other)
        take(f"http://{login}@127.0.0.1:{port}/tasks", _PICTURE)


def _predict(producer: Producer, other: Producer) -> None:
    """Have the kinds of some files predicted, over as long as Flower may take to turn the worker's events on."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    ends = time.monotonic() + 12
    for number, path in enumerate(library):
        producer.predict("file-type", path.read_bytes())
        if time.monotonic() > ends:
            break
        time.sleep(0.05 if number % 10 else 0.5)
    batch = [path.read_bytes() + b"\n" for path in library[:20]]
    for pending in producer.submit_many("file-type", batch):
        pending.result(_DEADLINE_S)
    for path in library[:4]:
        other.predict("file-type", path.read_bytes())  # hits
        time.sleep(0.2)
    new = [path.read_bytes() + b"\n\n" for path in library[:3]]
    for data in new:
        leads = producer.submit("file-type", data)
        other.predict("file-type", data)  # joins
        leads.result(_DEADLINE_S)
        time.sleep(0.2)
    other.predict("file-type", new[0])
    time.sleep(3)  # the producers tell once a second, and Flower takes in the last events


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, login: str) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {b64encode(login.encode()).decode()}"})  # noqa: S310 - ours
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - ours
                if b"worker@laptop" in response.read():
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("Flower did not answer")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
