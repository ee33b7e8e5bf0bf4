"""`foreseen doctor`: what is wrong with this deployment, what that means, and the line that fixes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from foreseen.cli.show import draw, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from foreseen.checks.check import Finding, Looked
    from foreseen.checks.facts import Facts, Server, Version
    from foreseen.settings import Settings

__all__ = ["doctor"]

_PROBLEM: Final = 1
_UNAVAILABLE: Final = 4
_MARKS: Final = {"problem": ("✗", "bold red"), "warning": ("!", "bold yellow")}


@click.command(short_help="Find what is wrong with the servers, the settings, the workers.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def doctor(*, as_json: bool) -> None:
    """Look for what is known to go wrong; tell what it means and the line that fixes it.

    It looks at the broker, the cache, this directory, the models' cards and
    queues, and asks the workers, which takes a second or two. It changes
    nothing.

    \b
    Marks:
      ✗  a problem: work is lost, done for nothing, or left lying
      !  a warning: it works until something else happens, or is meant so
      ✓  looked at, and as it should be
      -  could not be looked at, and why

    \b
    Ends with:
      0  nothing wrong, or warnings only
      1  at least one problem
      2  a setting cannot be read
      4  a server does not answer; what could be looked at is told all the same

    \b
    Examples:
      foreseen doctor
      foreseen doctor --json | jq '.findings[].check'
    """  # noqa: D301 - click reads the character that \b stands for
    from foreseen.checks import CHECKS
    from foreseen.checks.check import run
    from foreseen.cli.deployment import read_settings

    facts = _gather(read_settings())
    looked = run(CHECKS, facts)
    findings = sorted((finding for each in looked for finding in each.findings), key=lambda one: one.severity)
    if as_json:
        write_json(_as_json(facts, looked, findings))
    else:
        draw(_drawn(facts, looked, findings))
    if any(each.unavailable is not None for each in (facts.broker, facts.cache, *facts.shards)):
        sys.exit(_UNAVAILABLE)
    if any(finding.severity == "problem" for finding in findings):
        sys.exit(_PROBLEM)


def _gather(settings: Settings) -> Facts:
    """Look at everything: first around us, as what is imported later may change it; then at all servers at once."""
    from foreseen.checks.facts import Facts, NotTold
    from foreseen.checks.gather import broker_facts, sample_keys, shard_facts
    from foreseen.cli.answers import ask_workers, look_around

    place = look_around(os.environ)
    with ThreadPoolExecutor(2) as pool:
        broker_asked, cache_asked = pool.submit(broker_facts, settings), pool.submit(shard_facts, settings)
        broker, told = (
            broker_asked.result(),
            sorted(cache_asked.result(), key=lambda each: each.unavailable is not None),
        )
    cache, shards = told[0], told[1:]
    sample = sample_keys(settings) if cache.unavailable is None else None
    models = _versions(settings, broker) if cache.unavailable is None else None
    facts = Facts(settings, broker, cache, place, sample, models, None, "the broker does not answer", shards)
    if broker.unavailable is not None:
        return facts
    try:
        return replace(facts, workers=ask_workers(settings))
    except NotTold as reason:
        return replace(facts, unasked=str(reason))


def _versions(settings: Settings, broker: Server) -> Sequence[Version] | None:
    from foreseen.checks.facts import Version
    from foreseen.cli.deployment import open_cache, read_versions
    from foreseen.cli.models import read_depths
    from foreseen.errors import CacheUnavailable
    from foreseen.keys import KeySpace

    space = KeySpace(settings.namespace)
    try:
        with open_cache(settings) as cache:
            found = read_versions(cache, space)
    except CacheUnavailable:
        return None
    queues = [space.queue(each.model_id) for each in found]
    depths = read_depths(settings, queues)[0] if broker.unavailable is None else [None] * len(queues)
    return [
        Version(each.name, each.version, each.current, each.card is not None, queue, depth)
        for each, queue, depth in zip(found, queues, depths, strict=True)
    ]


def _as_json(facts: Facts, looked: Sequence[Looked], findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "broker": facts.broker.where,
        "cache": facts.cache.where,
        "workers": None if facts.workers is None else [each.name for each in facts.workers],
        "problems": sum(finding.severity == "problem" for finding in findings),
        "warnings": sum(finding.severity == "warning" for finding in findings),
        "findings": [
            {"check": one.check, "severity": str(one.severity), "seen": one.seen, "means": one.means, "fix": one.fix}
            for one in findings
        ],
        "right": [each.check.name for each in looked if not each.findings and each.untold is None],
        "not_looked_at": {each.check.name: each.untold for each in looked if each.untold is not None},
    }


def _drawn(facts: Facts, looked: Sequence[Looked], findings: Sequence[Finding]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.severity]
        table.add_row(Text(mark, style), Text(finding.seen, "bold"))
        table.add_row("", Text(finding.means))
        table.add_row("", Text.assemble(("→ ", "cyan"), (finding.fix, "cyan")))
        table.add_row("", "")
    right = [each.check.of for each in looked if not each.findings and each.untold is None]
    if right:
        table.add_row(Text("✓", "bold green"), Text(f"looked at, and right: {', '.join(right)}"))
    reasons: dict[str, list[str]] = {}
    for each in looked:
        if each.untold is not None:
            reasons.setdefault(each.untold, []).append(each.check.of)
    for reason, unlooked in reasons.items():
        table.add_row(Text("-", "dim"), Text(f"not looked at, as {reason}: {', '.join(unlooked)}", "dim"))
    return Group(Text(_place(facts)), "", table, "", Text(_summary(findings), "bold"))


def _place(facts: Facts) -> str:
    answered = facts.unasked if facts.workers is None else f"{len(facts.workers):,} answered"
    return (
        f"broker  {_named(facts.broker)}\n"
        f"cache   {_named(facts.cache)}{', the same server' if facts.is_shared else ''}\n"
        f"{''.join(f'        {_named(each)}{chr(10)}' for each in facts.shards)}"
        f"workers {answered}"
    )


def _named(server: Server) -> str:
    if server.unavailable is not None:
        return f"{server.where}, does not answer"
    info = server.info
    kind, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", None)
    version = version or info.get("redis_version")
    return f"{server.where}, {kind} {version}" if version else server.where


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing wrong was found."
    counts = {name: sum(finding.severity == name for finding in findings) for name in ("problem", "warning")}
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count) + "."
