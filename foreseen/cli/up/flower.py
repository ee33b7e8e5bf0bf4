"""Flower's part of `foreseen up`: its port, its login, and whether it answers."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from foreseen.cli import leash
from foreseen.errors import Misconfigured

__all__ = ["HOST", "LOGIN_VARIABLE", "Flower", "check_free", "login_from"]

#: Flower lets whoever reaches it revoke tasks and stop workers: nobody beyond this machine.
HOST: Final = "127.0.0.1"
LOGIN_VARIABLE: Final = "FORESEEN_FLOWER_LOGIN"
_PASSWORD_BYTES: Final = 9  # 72 bits, 12 characters: nobody guesses it, and it can still be typed
_ANSWER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Flower:
    """Flower on a port of this machine.

    Attributes:
        port: where it listens.
        login: `user:password`.
    """

    port: int
    login: str = field(repr=False)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start it, with its login out of sight: in its environment, not among the arguments that everybody can list.

        What it would take from elsewhere (FLOWER_ variables, a flowerconfig.py) could change where it answers and to
        whom, so it takes nothing from there.
        """
        inherited = {name: value for name, value in environment.items() if not name.startswith("FLOWER_")}
        arguments = ["flower", f"--address={HOST}", f"--port={self.port}", f"--conf={os.devnull}"]
        secret = {"FLOWER_BASIC_AUTH": self.login}
        return leash.start_celery(arguments, inherited | secret, Path.cwd(), subprocess.PIPE)

    def answers(self) -> bool:
        """Whether it takes requests by now."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_ANSWER_S)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def login_from(environment: Mapping[str, str]) -> str:
    """Return the login that was set, or one with a password that nobody has used before.

    Raises:
        Misconfigured: what was set is no login that Flower takes.
    """
    login = environment.get(LOGIN_VARIABLE)
    if login is None:
        return f"foreseen:{secrets.token_urlsafe(_PASSWORD_BYTES)}"
    user, _, password = login.partition(":")
    if not user or not password or "," in login:  # Flower reads a list there
        raise Misconfigured(f"{LOGIN_VARIABLE} has to be user:password, without a comma")
    return login


def check_free(port: int) -> None:
    """Make sure that Flower can listen on a port.

    Raises:
        Misconfigured: somebody else does; the message names the option.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Flower does: old connections are no hindrance
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Misconfigured(
                f"Flower cannot listen on port {port}: {error.strerror}. Choose another one with --flower-port, or "
                "start without Flower: --no-flower"
            ) from error
