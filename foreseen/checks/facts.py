"""What is known of a deployment when it is checked: plain values, gathered elsewhere.

What nobody told is not the same as what is not there: asking for it raises `NotTold`, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from foreseen.settings import Settings

__all__ = ["Answer", "Facts", "NotTold", "Place", "Role", "Sample", "Server", "Version"]

T = TypeVar("T")
Role: TypeAlias = Literal["broker", "cache"]


class NotTold(Exception):
    """A fact that a check needs is not known; says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """The broker or the cache, as it tells of itself.

    Attributes:
        role: which of them.
        where: its URL, without a password.
        unavailable: why it does not answer; None if it does.
        is_redis: whether it is Redis or Valkey; another broker tells nothing of the rest.
        info: what INFO says, as text.
        config: what CONFIG GET says of what INFO does not tell; what it did not tell is missing.
        denied: commands that it refused, each with the reason; None if none were tried.
        ahead_s: its clock minus this host's.
        within_s: how far `ahead_s` may be off.
        oldest_unacked_s: how long ago the longest unacked message was delivered; 0 without any.
    """

    role: Role
    where: str
    unavailable: str | None = None
    is_redis: bool = True
    info: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    denied: Sequence[str] | None = None
    ahead_s: float | None = None
    within_s: float = 0.0
    oldest_unacked_s: float | None = None

    def told(self, name: str) -> str:
        """Return a value of INFO."""
        return self.known(self.info.get(name), "INFO")

    def configured(self, name: str) -> str:
        """Return a value of CONFIG GET."""
        return self.known(self.config.get(name), f"CONFIG GET {name}")

    def number(self, name: str) -> int:
        """Return a number of INFO."""
        return int(self.told(name))

    def refusals(self) -> Sequence[str]:
        """Return what it refused of what it was asked to try."""
        return self.known(self.denied, "what was tried")

    def clock_ahead_s(self) -> float:
        """Return its clock minus this host's."""
        return self.known(self.ahead_s, "TIME")

    def unacked_s(self) -> float:
        """Return the age of the oldest unacked delivery."""
        return self.known(self.oldest_unacked_s, "ZRANGE")

    def known(self, value: T | None, command: str) -> T:
        """Return a value that a command has told."""
        if self.unavailable is not None:
            raise NotTold(f"the {self.role} does not answer")
        if not self.is_redis:
            raise NotTold(f"the {self.role} is not Redis or Valkey")
        if value is None:
            raise NotTold(f"the {self.role} does not tell: {command}")
        return value


@dataclass(frozen=True, slots=True)
class Place:
    """What this process finds around it: environment variables, modules on its path, Celery's settings.

    Attributes:
        brokers: URLs that Celery would use, by what names them.
        needed: Celery's settings that the protocol needs: by name, what it needs and what is set; empty without Celery.
        unreadable: why Celery's settings cannot be read; None if they can, or if Celery is not installed.
        hidden: what hides `workers` or `producer`.
        installed_config: the file of a `celeryconfig` among the installed packages.
    """

    brokers: Mapping[str, str]
    needed: Mapping[str, tuple[Any, Any]]
    unreadable: str | None = None
    hidden: str | None = None
    installed_config: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the namespace's keys in the cache.

    Attributes:
        n_keys: looked at.
        without_expiry: names of those that never expire.
        longest_s: the longest computation, per input, of the entries among them; 0 without any.
    """

    n_keys: int
    without_expiry: Sequence[str]
    longest_s: float


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model that was served of late.

    Attributes:
        name: of the model.
        version: of it.
        is_current: whether the bare name means it.
        is_live: whether some worker publishes its card.
        queue: of it.
        waiting: messages in the queue; None if the broker does not tell.
    """

    name: str
    version: str
    is_current: bool
    is_live: bool
    queue: str
    waiting: int | None

    @property
    def model_id(self) -> str:
        """`model@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of itself.

    Attributes:
        name: of the worker.
        visibility_timeout_s: its own; None if it has none.
        prefetch_count: how many messages it takes at most; 0 is no bound.
        concurrency: how many tasks it runs at a time; None if its pool does not say.
        queues: that it takes from; None if it did not say.
    """

    name: str
    visibility_timeout_s: float | None
    prefetch_count: int
    concurrency: int | None
    queues: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known; what was not looked at is None.

    Attributes:
        settings: of this process.
        broker: as it tells of itself.
        cache: likewise; of a cluster, a master that answers.
        shards: the cluster's other masters.
        place: what is around this process.
        sample: of the cache's keys.
        models: that were served of late.
        workers: those that answered; any Celery worker on the broker's database does.
        unasked: why workers were not asked.
    """

    settings: Settings
    broker: Server
    cache: Server
    place: Place | None = None
    sample: Sample | None = None
    models: Sequence[Version] | None = None
    workers: Sequence[Answer] | None = None
    unasked: str = "workers were not asked"
    shards: Sequence[Server] = ()

    @property
    def is_shared(self) -> bool:
        """Whether broker and cache are one server, as far as they tell."""
        return "run_id" in self.broker.info and self.broker.info["run_id"] == self.cache.info.get("run_id")

    def surroundings(self) -> Place:
        """Return what is around this process."""
        if self.place is None:
            raise NotTold("not looked at here")
        return self.place

    def keys(self) -> Sample:
        """Return the sample of keys."""
        return self.cache.known(self.sample, "SCAN")

    def versions(self) -> Sequence[Version]:
        """Return the models' versions."""
        return self.cache.known(self.models, "the models")

    def answers(self) -> Sequence[Answer]:
        """Return what workers said."""
        if self.workers is None:
            raise NotTold(self.unasked)
        return self.workers
