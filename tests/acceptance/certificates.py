"""Certificates of the tests' own, for servers that take only encrypted connections, of clients that show one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

__all__ = ["make_certificates", "options", "server_options"]

_OPENSSL: Final = shutil.which("openssl")


def make_certificates(folder: Path) -> Path:
    """Fill a folder with an authority, a server's certificate for 127.0.0.1 alone, and a client's; return it."""
    if _OPENSSL is None:
        pytest.skip("needs openssl, to make certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")

    def run(*arguments: str) -> None:
        subprocess.run([str(_OPENSSL), *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    for name in ("server", "client"):
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


def options(certificates: Path) -> str:
    """Return what stands in a client's URL."""
    files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
    return "&".join(f"{name}={certificates / file}" for name, file in files.items())


def server_options(certificates: Path, port: int) -> dict[str, str]:
    """Return the settings of a server that takes only encrypted connections, of clients that show a certificate."""
    return {
        "port": "0", "tls-port": str(port),
        "tls-cert-file": str(certificates / "server.pem"), "tls-key-file": str(certificates / "server.key"),
        "tls-ca-cert-file": str(certificates / "ca.pem"), "tls-auth-clients": "yes",
    }  # fmt: skip
