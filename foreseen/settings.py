"""What a deployment can set: one frozen object, read once at an entry point from `FORESEEN_*` variables."""

# Annotations are not put off here: pydantic would compile each field's again, a fifth of what this module takes.

from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foreseen.errors import Misconfigured
from foreseen.signing import Keyring
from foreseen.tls import broker_address

__all__ = ["Settings"]


_read_keyring = lru_cache(maxsize=4)(Keyring.read)  # a worker asks for each message


class Settings(BaseSettings):
    """Settings of producers and workers; both sides of a deployment share the first group.

    Every field is read from `FORESEEN_<NAME>` unless it is given. Durations are seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix="FORESEEN_",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        defer_build=True,  # until the first are read: importing this does nothing
    )

    broker_url: str = Field(default="redis://127.0.0.1:6379/0", description="Where tasks are queued; must never evict.")
    cache_url: str = Field(
        default="redis://127.0.0.1:6379/1", description="Where entries and flights are kept; may evict."
    )
    namespace: str = Field(
        default="foreseen", pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$", description="Prefix of every key, channel and queue."
    )
    lease_s: float = Field(default=10.0, ge=0.2, description="How long a running flight stands without a sign of life.")
    visibility_timeout_s: float = Field(
        default=600.0, gt=0, description="When a Redis broker delivers an unacked message again; at least two leases."
    )
    max_attempts: int = Field(
        default=3, ge=1, description="How often a computation may kill its process, alone, before it fails."
    )
    signing_keys: SecretStr = Field(
        default=SecretStr(""),
        description="id:secret,id:secret: messages and entries are signed with the first and checked with all; "
        "unset, they are not.",
    )

    dead_letter_inputs: bool = Field(
        default=True, description="A dead letter keeps the input, so that it can be tried again; else only its key."
    )
    max_dead_letters: int = Field(default=10_000, ge=0, description="Dead letters kept in the broker; 0 keeps none.")
    buffer_s: float = Field(
        default=0.0, ge=0, description="How long a submission tries again when the broker refuses it, or is gone."
    )

    without_cache: Literal["error", "compute"] = Field(
        default="error",
        description="What a submission comes to while the cache does not answer: an error at once, or a computation "
        "whose outcome comes back by the broker and is not kept.",
    )

    connect_timeout_s: float = Field(default=2.0, gt=0, description="Bound on opening a connection.")
    reply_timeout_s: float = Field(default=5.0, gt=0, description="Bound on waiting for a server's reply.")
    max_connections: int = Field(
        default=4,
        ge=1,
        description="Connections of a process to the cache; what comes while each carries a round trip gathers.",
    )

    model_wait_s: float = Field(
        default=5.0, ge=0, description="How long a producer waits for a model's card to appear."
    )
    card_refresh_s: float = Field(
        default=5.0, gt=0, description="How often a producer looks again which version is current."
    )
    max_input_bytes: int = Field(default=16 * 2**20, ge=1, description="Largest canonical input with its blobs.")
    max_entry_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Largest outcome that is kept; a larger one is told to who waits for it."
    )

    near_cache_bytes: int = Field(
        default=0, ge=0, description="What a producer keeps of entries in its own memory; 0 is no near cache."
    )

    audit_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of a producer's hits that are computed again behind their readers' backs and compared with "
        "their entries; 0 is none.",
    )

    events_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of a producer's hits and joins that Flower is shown, by Celery events; 0 is none.",
    )

    tracing: bool = Field(
        default=False, description="Submissions and computations are spans of OpenTelemetry; needs foreseen[tracing]."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Of a worker's log: lines for people, or a JSON object on each."
    )

    heartbeat_s: float = Field(
        default=5.0, gt=0, description="How often a worker publishes its cards; one expires after three."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Where a worker finds models, comma-separated: modules, files, directories of files, or "
        "`entry-points` for what installed packages announce.",
    )
    serve: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Which of them it serves, by name or name@version, comma-separated; unset, all. "
        "`celery -A workers worker --serve a,b` says so too.",
    )

    take_over_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a version is without a worker before those of the current one work off its queue.",
    )
    promote: bool = Field(
        default=False, description="A worker makes the versions that it serves the current ones when it starts."
    )

    @field_validator("models", "serve", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @model_validator(mode="after")
    def _two_leases(self) -> Self:
        if self.visibility_timeout_s < 2 * self.lease_s:
            raise Misconfigured(
                f"FORESEEN_VISIBILITY_TIMEOUT_S={self.visibility_timeout_s:g} is shorter than two leases "
                f"(FORESEEN_LEASE_S={self.lease_s:g}): set it to {2 * self.lease_s:g} or more."
            )
        return self

    @model_validator(mode="after")
    def _keys_that_can_sign(self) -> Self:
        self.keyring()
        return self

    @model_validator(mode="after")
    def _urls_of_servers(self) -> Self:
        from kombu.transport import get_transport_cls

        from foreseen.cache_server import check_url

        broker_address(self.broker_url)
        check_url(self.cache_url)
        scheme, slashes, _ = self.broker_url.partition("://")
        try:
            get_transport_cls(scheme if slashes else "")
        except (KeyError, ImportError):
            raise Misconfigured(
                f"FORESEEN_BROKER_URL: {scheme!r} is no broker that kombu knows: redis://…, rediss://…, amqp://…"
            ) from None
        return self

    def keyring(self) -> Keyring:
        """Return the keys that sign messages and entries; false if there are none."""
        return _read_keyring(self.signing_keys.get_secret_value())

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds, as scripts take it."""
        return round(self.lease_s * 1000)
