"""What can be wrong with a deployment, and seen from outside: `foreseen doctor`, and what a worker says at its start.

Facts are gathered first, with bounds on the time; checks are pure functions of them.
"""

from __future__ import annotations

from typing import Final

from foreseen.checks import deployment, servers
from foreseen.checks.check import Check, Finding, Severity, run
from foreseen.checks.facts import Facts
from foreseen.checks.gather import broker_facts, shard_facts
from foreseen.settings import Settings

__all__ = ["CHECKS", "Check", "at_start", "is_fatal"]

#: Every check, in the order in which they are told.
CHECKS: Final[tuple[Check, ...]] = (*servers.CHECKS, *deployment.CHECKS)


def at_start(settings: Settings) -> tuple[list[Finding], list[str]]:
    """Look at what a worker can see of its servers when it starts, in two short visits.

    A server that does not answer is none of its findings: Celery waits for the broker, and so does a heartbeat for the
    cache.

    Returns:
        What is wrong, the worst first; and why something could not be looked at.
    """
    cache, *shards = shard_facts(settings)
    looked = run(servers.AT_START, Facts(settings, broker_facts(settings), cache, shards=shards))
    findings = [finding for each in looked for finding in each.findings]
    return (
        sorted(findings, key=lambda finding: finding.severity is not Severity.PROBLEM),
        [f"{each.check.of}: {each.untold}" for each in looked if each.untold is not None],
    )


def is_fatal(finding: Finding) -> bool:
    """Whether the protocol cannot hold with it, so that a worker had better not start."""
    return finding.check in servers.FATAL
