from __future__ import annotations

import ssl

import kombu
import pytest

from foreseen.errors import Misconfigured
from foreseen.settings import Settings
from foreseen.tls import broker_address

CA = "ssl_ca_certs=/ca.pem"


def test_a_connection_that_is_not_encrypted_stays_as_it_is() -> None:
    for url in ("redis://a:1/0", "amqp://u:p@a//", "memory://"):
        assert broker_address(url) == (url, False)


def test_a_redis_broker_is_verified_unless_it_is_told_not_to_be() -> None:
    """Kombu alone does not verify without an option, and sends in the clear if a transport is named."""
    plain = "rediss://u:p@a:1/0"
    assert broker_address(plain) == (plain, {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True})
    assert broker_address(f"{plain}?{CA}&ssl_certfile=/c&ssl_keyfile=/k") == (
        plain,
        {
            "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": "/ca.pem",
            "ssl_certfile": "/c", "ssl_keyfile": "/k",
        },
    )  # fmt: skip
    for none in ("none", "CERT_NONE"):
        assert broker_address(f"{plain}?ssl_cert_reqs={none}")[1] == {
            "ssl_cert_reqs": ssl.CERT_NONE,
            "ssl_check_hostname": False,
        }
    assert broker_address(f"{plain}?ssl_check_hostname=false")[1] == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": False,
    }


def test_amqp_is_told_the_same_in_its_own_words() -> None:
    assert broker_address(f"amqps://u:p@a:5671//?{CA}&ssl_certfile=/c&ssl_keyfile=/k") == (
        "amqps://u:p@a:5671//",
        {
            "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "a", "ca_certs": "/ca.pem", "certfile": "/c",
            "keyfile": "/k",
        },
    )  # fmt: skip
    assert broker_address("amqps://a?ssl_cert_reqs=none&heartbeat=5") == (
        "amqps://a?heartbeat=5",
        {"cert_reqs": ssl.CERT_NONE},
    )


def test_kombu_takes_what_comes_out() -> None:
    for url in (f"rediss://a:1/0?{CA}", f"amqps://a//?{CA}"):
        address, options = broker_address(url)
        connection = kombu.Connection(address, ssl=options)
        assert connection.ssl == options


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"redis://a?{CA}", "rediss"), (f"amqp://a//?{CA}", "amqps"), ("rediss://a?ssl_ca_cert=/x", "ssl_ca_cert"),
        ("rediss://a?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_where_settings_are_read(url: str, told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        Settings(broker_url=url)
