"""Encrypted connections to the broker, as its URL says: the same options for every kind of broker, as for the cache.

    rediss://user:password@host:6379/0?ssl_ca_certs=/etc/ssl/own-ca.pem
    amqps://user:password@host:5671//?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…

redis-py, which talks to the cache, reads these options itself and verifies the server unless it is told not to. kombu
does neither: without an option it does not verify, or does not even encrypt when a transport is named; and amqp knows
the options by other names.
"""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from foreseen.errors import Misconfigured

__all__ = ["broker_address"]

_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_REQUIREMENTS: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def broker_address(url: str) -> tuple[str, Any]:
    """Return a URL and what goes with it: `url` and `ssl` of a kombu connection, which Celery calls `broker_use_ssl`.

    Raises:
        Misconfigured: an option that there is not, or one for a connection that is not encrypted.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query)
    ours = {name: value for name, value in options if name.startswith("ssl_")}
    if parts.scheme not in {"rediss", "amqps"}:
        if ours:
            raise Misconfigured(f"FORESEEN_BROKER_URL: {', '.join(ours)} needs rediss:// or amqps://")
        return url, False
    rest = urlencode([(name, value) for name, value in options if name not in ours])
    requirement = ours.pop("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    check_hostname = ours.pop("ssl_check_hostname", "true").lower() not in {"false", "0", "no"}
    if unknown := sorted(ours.keys() - {*_FILES}):
        raise Misconfigured(
            f"FORESEEN_BROKER_URL: {unknown[0]} is none of {', '.join(_FILES)}, ssl_cert_reqs, ssl_check_hostname"
        )
    if requirement not in _REQUIREMENTS:
        raise Misconfigured("FORESEEN_BROKER_URL: ssl_cert_reqs is none of required, optional, none")
    verified = _REQUIREMENTS[requirement]
    plain = urlunsplit(parts._replace(query=rest))
    if parts.scheme == "rediss":
        hostname = check_hostname and verified != ssl.CERT_NONE
        return plain, {"ssl_cert_reqs": verified, "ssl_check_hostname": hostname, **ours}
    told: dict[str, Any] = {name.removeprefix("ssl_"): value for name, value in ours.items()}
    told |= {"cert_reqs": verified, "server_hostname": parts.hostname}
    if not check_hostname or verified == ssl.CERT_NONE:
        del told["server_hostname"]
    return plain, told
