r"""Signatures: who has none of a deployment's keys can neither have anything computed nor answer for a worker.

By `FORESEEN_SIGNING_KEYS`; without it nothing is signed, nothing is checked, and nothing on the wire is different. A
signature is HMAC-SHA256 (RFC 2104) over what it is for, and then the bytes themselves:

    message   "foreseen-message-1", task, id, when it is due, whom to reply to, who asked if that is told, a line each;
              body    in the header `foreseen-signature`
    entry     "foreseen-entry-1", model@version:digest, a line each; kind; payload  in front of the payload

So a message cannot be made into another's, nor an entry be moved to another key or turned from a failure to a result.
The first key signs and all of them verify, so that keys can be changed one after the other.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from foreseen.context import HEADER as CONTEXTS
from foreseen.entry import Entry, Kind, encode_body, payload_of
from foreseen.errors import MalformedEntry, MalformedMessage, Misconfigured
from foreseen.keys import Key

__all__ = ["HEADER", "Keyring"]

#: Of a message.
HEADER: Final = "foreseen-signature"
#: As many characters as SHA-256 has bytes: shorter ones are guessed more easily than the signature itself.
_MIN_CHARACTERS: Final = 32
_ID: Final = r"[A-Za-z0-9_-]{1,32}"
_MAC_BYTES: Final = 32
#: Begins no msgpack, so that a reader without keys takes a sealed payload for what it is to him: unreadable, a miss.
_SEAL: Final = 0xC1


class Keyring:
    """A deployment's keys; false if there are none.

    Args:
        secrets: by id, in order: the first signs.
    """

    def __init__(self, secrets: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self._secrets = secrets

    @classmethod
    def read(cls, text: str) -> Keyring:
        """Read `id:secret,id:secret`.

        Raises:
            Misconfigured: it is none; the message says which key is wrong, and shows none.
        """
        secrets: dict[str, bytes] = {}
        for number, one in enumerate(text.split(",") if text.strip() else (), start=1):
            name, _, secret = one.strip().partition(":")
            if not re.fullmatch(_ID, name):
                raise Misconfigured(
                    f"FORESEEN_SIGNING_KEYS: key number {number} has no id; it reads id:secret,id:secret, an id being "
                    "1 to 32 of A-Z, a-z, 0-9, '_', '-'"
                )
            if name in secrets:
                raise Misconfigured(f"FORESEEN_SIGNING_KEYS: two keys are called {name}")
            if len(secret) < _MIN_CHARACTERS or any(letter.isspace() for letter in secret):
                raise Misconfigured(
                    f"FORESEEN_SIGNING_KEYS: the secret of {name} has fewer than {_MIN_CHARACTERS} characters, or a "
                    f"space: openssl rand -hex {_MIN_CHARACTERS} makes one"
                )
            secrets[name] = secret.encode()
        return cls(secrets)

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def sign_message(self, headers: Mapping[str, Any], body: bytes) -> str:
        """Return the signature of a message, for its header."""
        name, secret = next(iter(self._secrets.items()))
        return f"{name}:{_mac(secret, _of_message(headers), body).hex()}"

    def check_message(self, headers: Mapping[str, Any], body: bytes) -> None:
        """Check a message's signature.

        Raises:
            MalformedMessage: it has none, or not that of one of these keys.
        """
        signature = headers.get(HEADER)
        name, _, told = signature.partition(":") if isinstance(signature, str) else ("", "", "")
        secret = self._secrets.get(name)
        if secret is None or not hmac.compare_digest(
            _mac(secret, _of_message(headers), body).hex().encode(), told.encode()
        ):
            raise MalformedMessage("it is not signed with one of FORESEEN_SIGNING_KEYS")

    def seal(self, key: Key, kind: Kind, body: bytes) -> bytes:
        """Return an entry's body (checksum and payload) with a signature in front of the payload."""
        name, secret = next(iter(self._secrets.items()))
        payload = payload_of(body)
        mac = _mac(secret, _of_entry(key, kind), payload)
        return encode_body(bytes((_SEAL, len(name))) + name.encode() + mac + payload)

    def open(self, key: Key, entry: Entry) -> Entry:
        """Return the entry as it was before it was sealed for that key.

        Raises:
            MalformedEntry: it is not sealed, or not for this key and kind, or not with one of these keys.
        """
        sealed = entry.payload
        if len(sealed) < 2 or sealed[0] != _SEAL:  # noqa: PLR2004 - the seal and the id's length
            raise MalformedEntry("an entry that is not signed")
        start = 2 + sealed[1]
        secret = self._secrets.get(sealed[2:start].decode("ascii", "replace"))
        told, payload = sealed[start : start + _MAC_BYTES], sealed[start + _MAC_BYTES :]
        if secret is None or not hmac.compare_digest(_mac(secret, _of_entry(key, entry.kind), payload), told):
            raise MalformedEntry("an entry that is not signed with one of FORESEEN_SIGNING_KEYS for this key")
        return entry._replace(payload=payload)


def _of_message(headers: Mapping[str, Any]) -> bytes:
    fields = (headers.get("task"), headers.get("id"), headers.get("due_s") or "", headers.get("reply_to") or "")
    contexts = headers.get(CONTEXTS)  # only where there are any: other messages are signed as they always were
    told = (",".join(map(str, contexts)),) if isinstance(contexts, list) else ()
    return "\n".join(("foreseen-message-1", *map(str, fields), *told, "")).encode("utf-8", "backslashreplace")


def _of_entry(key: Key, kind: Kind) -> bytes:
    return f"foreseen-entry-1\n{key}\n{chr(kind)}".encode()


def _mac(secret: bytes, purpose: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, purpose + content, "sha256")
