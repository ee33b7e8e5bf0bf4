"""What a check is: a pure function from facts to what is wrong, with what that means and the line that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from foreseen.checks.facts import Facts, NotTold, Server

__all__ = ["Check", "Finding", "Looked", "Seen", "Severity", "check", "per_server", "run"]


class Severity(StrEnum):
    """How bad it is."""

    PROBLEM = "problem"
    """Work is lost, computed for nothing or left lying."""
    WARNING = "warning"
    """It works, until something else happens; or it may be meant so."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that a check has seen.

    Attributes:
        what: the values, and where they are; never a password.
        fix: instead of the check's own, where that depends on what was seen.
        severity: likewise.
    """

    what: str
    fix: str | None = None
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    check: str
    severity: Severity
    seen: str
    means: str
    fix: str


#: What a check yields; a `NotTold` for the part of it that could not be looked at.
Yield: TypeAlias = Seen | NotTold


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        name: such as `evicting-broker`.
        severity: of what it finds, if `Seen` does not say otherwise.
        of: what it looks at, for the list of what is as it should be.
        means: what goes wrong, in plain words.
        fix: the line that fixes it.
        find: yields what it sees; raises `NotTold` where the facts do not say.
    """

    name: str
    severity: Severity
    of: str
    means: str
    fix: str
    find: Callable[[Facts], Iterable[Yield]]


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a check: `findings`, none if all is well; `untold`, why it could not look, or not everywhere."""

    check: Check
    findings: tuple[Finding, ...]
    untold: str | None


def check(
    severity: Severity, *, of: str, means: str, fix: str
) -> Callable[[Callable[[Facts], Iterable[Yield]]], Check]:
    """Make a function a check that is named after it."""

    def wrap(find: Callable[[Facts], Iterable[Yield]]) -> Check:
        return Check(find.__name__.replace("_", "-"), severity, of, means, fix, find)

    return wrap


def per_server(facts: Facts, look: Callable[[Server], Iterable[Seen]]) -> Iterator[Yield]:
    """Look at the broker and at the cache, each by itself: what one does not tell says nothing of the other."""
    for server in (facts.broker, facts.cache):
        try:
            yield from look(server)
        except NotTold as untold:
            yield untold


def run(checks: Sequence[Check], facts: Facts) -> list[Looked]:
    """Return what comes of each check, in order."""
    return [_look(each, facts) for each in checks]


def _look(each: Check, facts: Facts) -> Looked:
    """Run a check; once for every master of a cluster, which may say the same of everything else."""
    findings: list[Finding] = []
    untold: list[str] = []
    for cache in (facts.cache, *facts.shards):
        try:
            for seen in each.find(replace(facts, cache=cache)):
                if isinstance(seen, NotTold):
                    untold.append(str(seen))
                else:
                    severity, fix = seen.severity or each.severity, seen.fix or each.fix
                    findings.append(Finding(each.name, severity, seen.what, each.means, fix))
        except NotTold as reason:
            untold.append(str(reason))
    return Looked(each, tuple(dict.fromkeys(findings)), "; ".join(dict.fromkeys(untold)) or None)
