"""Keys: the name of one question to one model, and the names of what Redis keeps about it.

A key is `model@version:digest`. The digest is SHA-256, cut to 160 bits, over a line that says what it is, the model and
version, and the input's canonical text. Two inputs are likely to share 160 bits only among some 2^80 of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from foreseen.errors import InvalidInput, InvalidKey, Misconfigured

if TYPE_CHECKING:
    from _hashlib import HASH

    from foreseen.canonical import CanonicalInput

__all__ = [
    "BUCKETS",
    "Key",
    "KeySpace",
    "check_model_name",
    "check_version",
    "digest_of",
    "key_of",
    "keys_of",
    "split_model",
    "tag_digest",
]

DIGEST_BYTES = 20
BUCKETS: tuple[str, ...] = tuple(f"{number:02x}" for number in range(256))
"""The names of a model's buckets: the first two digits of a digest. All keys of a bucket share one cluster slot."""

_DOMAIN = b"foreseen-key-1\n"  # another form of the key gets another number, and thereby other digests
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# Compiled when they are first asked: not on the way of a submission.
_DIGEST = r"[0-9a-f]{40}"
_NONCE = r"[0-9a-f]{16}"
_NAMESPACE = r"[a-z0-9][a-z0-9_-]{0,30}"

_MAX_PREFIXES = 4096  # models that one process asks for; past it, the digests are only begun anew
_prefixes: dict[tuple[str, str], HASH] = {}  # per model, a hasher that has taken in all that comes before the text


class Key(NamedTuple):
    """The identity of a prediction: equal key, equal answer.

    The constructor takes its parts as they are, since every submission makes one; `parse` checks.

    Attributes:
        model: the model's name.
        version: its version.
        digest: 40 lower-case hex digits, from `digest_of`.
    """

    model: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read what `str(key)` wrote.

        Raises:
            InvalidKey: the text is not a key; the message says which part and what would be right.
        """
        model_id, colon, digest = text.rpartition(":")
        model, at, version = model_id.partition("@")
        if not colon or not at:
            raise InvalidKey(f"{text[:80]!r} is not a key; a key is model@version:digest, with 40 hex digits")
        try:
            check_model_name(model)
            check_version(version)
        except InvalidInput as error:
            raise InvalidKey(str(error)) from None
        if not re.fullmatch(_DIGEST, digest):
            raise InvalidKey(f"{digest[:80]!r} is not a key's digest; it has {2 * DIGEST_BYTES} digits, 0-9 and a-f")
        return cls(model, version, digest)

    @property
    def model_id(self) -> str:
        """`model@version`."""
        return f"{self.model}@{self.version}"

    @property
    def bucket(self) -> str:
        """One of `BUCKETS`."""
        return self.digest[:2]

    @property
    def short(self) -> str:
        """The key with 8 digits, for people; not enough to look it up."""
        return f"{self.model}@{self.version}:{self.digest[:8]}"


def digest_of(model: str, version: str, text: bytes) -> str:
    """Return the digest of a canonical text for a model.

    Args:
        model: the model's name.
        version: its version.
        text: `CanonicalInput.text`.

    Raises:
        InvalidInput: name or version is none. (Neither may hold `@` or a newline, so no two models share a prefix.)
    """
    hasher = _prefix(model, version).copy()
    hasher.update(text)
    return hasher.hexdigest()[: 2 * DIGEST_BYTES]


def _prefix(model: str, version: str) -> HASH:
    return _prefixes.get((model, version)) or _prefix_of(model, version)


def _prefix_of(model: str, version: str) -> HASH:
    if len(_prefixes) >= _MAX_PREFIXES:
        _prefixes.clear()
    line = f"{check_model_name(model)}@{check_version(version)}\n"
    prefix = _prefixes[model, version] = sha256(_DOMAIN + line.encode())
    return prefix


def tag_digest(tag: str) -> str:
    """Return what stands for a tag in the names of keys: 40 hex digits, as of an input."""
    return sha256(tag.encode()).hexdigest()[: 2 * DIGEST_BYTES]


def key_of(model: str, version: str, canonical: CanonicalInput) -> Key:
    """Return the key of an input for a model.

    Raises:
        InvalidInput: name or version is none.
    """
    return Key(model, version, digest_of(model, version, canonical.text))


def keys_of(model: str, version: str, texts: Iterable[bytes]) -> list[Key]:
    """Return the key of each canonical text, as `key_of` does, which many in a row cost a third more."""
    prefix, digits, digests = _prefix(model, version), 2 * DIGEST_BYTES, []
    for text in texts:
        hasher = prefix.copy()
        hasher.update(text)
        digests.append(hasher.hexdigest()[:digits])
    # What `Key(...)` does, at half its time: it goes through a function of Python's for each.
    return list(map(tuple.__new__, repeat(Key), zip(repeat(model), repeat(version), digests, strict=False)))


def check_model_name(name: str) -> str:
    """Return a model's name as it is.

    Raises:
        InvalidInput: it is none; the message says what would be.
    """
    if _NAME.fullmatch(name):
        return name
    raise InvalidInput(
        f"{name[:120]!r} is not a model name; one has 1 to 100 of a-z, 0-9, '.', '_', '-' "
        "and begins with a letter or digit"
    )


def check_version(version: str) -> str:
    """Return a model's version as it is.

    Raises:
        InvalidInput: it is none; the message says what would be.
    """
    if _VERSION.fullmatch(version):
        return version
    raise InvalidInput(
        f"{version[:120]!r} is not a version; one has 1 to 100 of A-Z, a-z, 0-9, '.', '_', '+', '-' "
        "and begins with a letter or digit"
    )


def split_model(text: str) -> tuple[str, str | None]:
    """Split `name` or `name@version`; the version is None for a bare name, which means the current one.

    Raises:
        InvalidInput: name or version is none; the message says what would be.
    """
    name, at, version = text.partition("@")
    return check_model_name(name), check_version(version) if at else None


class KeySpace:
    """Every name of a Redis key, channel and queue; built nowhere else.

    What scripts touch together carries the hash tag `{model@version:bucket}`, so that it lies in one cluster slot.

    Args:
        namespace: keeps deployments that share a server apart.

    Raises:
        Misconfigured: the namespace is none; the message says what would be.
    """

    def __init__(self, namespace: str = "foreseen") -> None:
        if not re.fullmatch(_NAMESPACE, namespace):
            raise Misconfigured(
                f"namespace {namespace[:60]!r}: it has 1 to 31 of a-z, 0-9, '_', '-' "
                "and begins with a letter or digit, such as 'foreseen'"
            )
        self.namespace = namespace

    def bucket(self, key: Key) -> tuple[str, str, str, str, str]:
        """Generation, clock, entry, flight and statistics: what a step on a key touches, built in one go."""
        namespace, digest = self.namespace, key.digest
        tag = f"{{{key.model}@{key.version}:{digest[:2]}}}"
        return (
            f"{namespace}:g:{tag}",
            f"{namespace}:c:{tag}",
            f"{namespace}:e:{tag}:{digest}",
            f"{namespace}:f:{tag}:{digest}",
            f"{namespace}:s:{tag}",
        )

    def computation(self, key: Key) -> tuple[str, ...]:
        """What `bucket` names, then outcomes, ends, deaths, and invalidated: what finish touches."""
        namespace, digest = self.namespace, key.digest
        tag = f"{{{key.model}@{key.version}:{digest[:2]}}}"
        name = f"{tag}:{digest}"
        return (
            f"{namespace}:g:{tag}",
            f"{namespace}:c:{tag}",
            f"{namespace}:e:{name}",
            f"{namespace}:f:{name}",
            f"{namespace}:s:{tag}",
            f"{namespace}:o:{name}",
            f"{namespace}:x:{name}",
            f"{namespace}:d:{name}",
            f"{namespace}:i:{name}",
        )

    def current_entry(self, key: Key) -> tuple[str, str]:
        """The generation of a key's bucket, then its entry."""
        namespace, digest = self.namespace, key.digest
        tag = f"{{{key.model}@{key.version}:{digest[:2]}}}"
        return f"{namespace}:g:{tag}", f"{namespace}:e:{tag}:{digest}"

    def current_entries(self, keys: Sequence[Key]) -> list[str]:
        """The generation of a bucket, then entries in it: what tells which entries are current."""
        first, namespace = keys[0], self.namespace
        tag = f"{{{first.model}@{first.version}:{first.digest[:2]}}}"
        return [f"{namespace}:g:{tag}", *[f"{namespace}:e:{tag}:{key.digest}" for key in keys]]

    def generation(self, key: Key) -> str:
        """The generation of the key's bucket."""
        return f"{self.namespace}:g:{{{key.model}@{key.version}:{key.digest[:2]}}}"

    def generation_of(self, model_id: str, bucket: str) -> str:
        """The generation of a bucket."""
        return f"{self.namespace}:g:{{{model_id}:{bucket}}}"

    def clock(self, key: Key) -> str:
        """The order counter of the key's bucket."""
        return f"{self.namespace}:c:{{{key.model}@{key.version}:{key.digest[:2]}}}"

    def clock_of(self, model_id: str, bucket: str) -> str:
        """The order counter of a bucket."""
        return f"{self.namespace}:c:{{{model_id}:{bucket}}}"

    def statistics(self, key: Key) -> str:
        """The statistics of the key's bucket."""
        return f"{self.namespace}:s:{{{key.model}@{key.version}:{key.digest[:2]}}}"

    def statistics_of(self, model_id: str, bucket: str) -> str:
        """The statistics of a bucket."""
        return f"{self.namespace}:s:{{{model_id}:{bucket}}}"

    def hottest_of(self, model_id: str) -> str:
        """The keys of a model that were hit most of late, beside the statistics of its first bucket."""
        return f"{self.namespace}:s:{{{model_id}:{BUCKETS[0]}}}:hottest"

    def measures_of(self, model_id: str) -> str:
        """What was measured of a model, beside the statistics of its first bucket."""
        return f"{self.namespace}:m:{{{model_id}:{BUCKETS[0]}}}"

    def entry(self, key: Key) -> str:
        """The key's entry."""
        return f"{self.namespace}:e:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def near_prefixes(self) -> tuple[str, str]:
        """What the names of entries begin with, and those of generations: what a near cache is told of."""
        return f"{self.namespace}:e:", f"{self.namespace}:g:"

    def flight(self, key: Key) -> str:
        """The key's flight."""
        return f"{self.namespace}:f:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def outcomes(self, key: Key) -> str:
        """Outcomes that were not kept as an entry, for those who joined."""
        return f"{self.namespace}:o:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def ends(self, key: Key) -> str:
        """The end marks of the key's flights."""
        return f"{self.namespace}:x:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def invalidated(self, key: Key) -> str:
        """The order at which the key was last invalidated."""
        return f"{self.namespace}:i:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def deaths(self, key: Key) -> str:
        """How often a process died that computed the key alone, and how."""
        return f"{self.namespace}:d:{{{key.model}@{key.version}:{key.digest[:2]}}}:{key.digest}"

    def tag_directory(self, tag: str) -> str:
        """The tags of a shard that have an index."""
        return f"{self.namespace}:t:{{{tag_digest(tag)[:2]}}}"

    def tag_index(self, tag: str) -> str:
        """The keys that were submitted with a tag, in the slot of its directory."""
        digest = tag_digest(tag)
        return f"{self.namespace}:t:{{{digest[:2]}}}:{digest}"

    def inbox(self, nonce: str) -> str:
        """The pub/sub channel of a producer."""
        return f"{self.namespace}:inbox:{nonce}"

    def worker(self, nonce: str) -> str:
        """The channel that a worker listens to for as long as it lives; nothing is sent on it."""
        return f"{self.namespace}:worker:{nonce}"

    def watermark(self, queue: str, priority: int) -> str:
        """How far a queue has been worked off, in a slot of its own."""
        return f"{self.namespace}:w:{{{queue}:{priority}}}"

    def card(self, model_id: str) -> str:
        """What workers say about a model they serve."""
        return f"{self.namespace}:card:{model_id}"

    def worker_card(self, nonce: str) -> str:
        """What a worker says of itself, for people."""
        return f"{self.namespace}:serving:{nonce}"

    def workers(self) -> str:
        """Which workers there are."""
        return f"{self.namespace}:workers"

    def current(self, model: str) -> str:
        """Which version a bare name means."""
        return f"{self.namespace}:current:{model}"

    def previous(self, model: str) -> str:
        """Which version a bare name meant before; in the slot of what it means now."""
        return f"{self.namespace}:previous:{{{self.current(model)}}}"

    def models(self) -> str:
        """Which models there are."""
        return f"{self.namespace}:models"

    def replies(self, nonce: str) -> str:
        """The broker's queue to which outcomes are sent to a producer while there is no cache; no model's, likewise."""
        return f"{self.namespace}.replies.{nonce}"

    def is_replies(self, queue: str) -> bool:
        """Tell whether a queue is one of `replies`, so that nobody can have outcomes sent elsewhere."""
        before, _, nonce = queue.rpartition(".")
        return before == f"{self.namespace}.replies" and re.fullmatch(_NONCE, nonce) is not None

    def dead_letters(self) -> str:
        """The broker's queue of dead letters; no model's, for lack of an `@`."""
        return f"{self.namespace}.dead"

    def queue(self, model_id: str) -> str:
        """The broker's queue of a model."""
        return f"{self.namespace}.{model_id}"
