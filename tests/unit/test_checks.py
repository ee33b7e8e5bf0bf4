"""Each check with plain facts: what it finds, and that it is silent when all is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreseen.checks import CHECKS, is_fatal
from foreseen.checks.check import Finding, run
from foreseen.checks.facts import Answer, Facts, Place, Sample, Server, Version
from foreseen.checks.gather import refusal
from foreseen.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
SETTINGS = Settings(broker_url="redis://broker:6379/0", cache_url="redis://cache:6379/0", visibility_timeout_s=600)
NEEDED = {"task_acks_late": (True, True)}


def server(role: Any, **told: Any) -> Server:
    """A server that is as it should be, but for what is told."""
    info = {
        "run_id": f"{role}'s",
        "redis_version": "7.4.1",
        "cluster_enabled": "0",
        "role": "master",
        "maxmemory": "1000000",
        "used_memory": "500000",
        "maxmemory_policy": "noeviction" if role == "broker" else "allkeys-lfu",
        "aof_enabled": "1",
        "connected_clients": "10",
        "maxclients": "10000",
    }
    config = {"save": "", "client-output-buffer-limit": "normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60"}
    config |= {name: told.pop(name) for name in config if name in told}
    fields = {name: told.pop(name) for name in Server.__slots__ if name in told and name != "role"}
    facts = Server(
        role,
        f"redis://{role}:6379/0",
        info=info | told,
        config=config,
        denied=(),
        ahead_s=0.0,
        oldest_unacked_s=0.0 if role == "broker" else None,
    )
    return replace(facts, **fields)


def version(number: str, **fields: Any) -> Version:
    known = Version("shout", number, is_current=True, is_live=True, queue=f"foreseen.shout@{number}", waiting=0)
    return replace(known, **fields)


def answer(**fields: Any) -> Answer:
    return replace(Answer("celery@one", 600.0, 2, 2, ["foreseen.shout@1"]), **fields)


def facts(**fields: Any) -> Facts:
    return replace(
        Facts(
            SETTINGS,
            server("broker"),
            server("cache"),
            Place({"CELERY_BROKER_URL": SETTINGS.broker_url}, NEEDED),
            Sample(100, (), 1.0),
            (version("1"),),
            (answer(),),
        ),
        **fields,
    )


def findings(known: Facts) -> list[Finding]:
    return [finding for each in run(CHECKS, known) for finding in each.findings]


def broker(**told: Any) -> Facts:
    return facts(broker=server("broker", **told))


def cache(**told: Any) -> Facts:
    return facts(cache=server("cache", **told))


def place(**fields: Any) -> Facts:
    return facts(place=replace(Place({}, NEEDED), **fields))


def models(*versions: Version) -> Facts:
    taken = [each.queue for each in versions]
    return facts(models=versions, workers=(answer(queues=taken),))


def shared(policy: str, maxmemory: str = "1000000") -> Facts:
    """Broker and cache on one server."""
    told = {"run_id": "one", "maxmemory_policy": policy, "maxmemory": maxmemory}
    return facts(broker=server("broker", **told), cache=server("cache", **told))


WRONG = [
    ("unavailable-server", "problem", broker(unavailable="connection refused"), "connection refused"),
    ("unavailable-server", "problem", cache(unavailable="timed out"), "the cache at redis://cache:6379/0"),
    ("clustered-broker", "problem", broker(cluster_enabled="1"), "cluster"),
    ("evicting-broker", "problem", broker(maxmemory_policy="allkeys-lru"), "allkeys-lru"),
    ("evicting-broker", "warning", broker(maxmemory_policy="allkeys-lru", maxmemory="0"), "no maxmemory yet"),
    ("evicting-broker", "problem", shared("allkeys-lru"), "the cache's server"),
    ("forgetful-broker", "warning", broker(aof_enabled="0"), "nothing to disk"),
    ("full-broker", "warning", broker(used_memory="950000"), "KiB"),
    ("unbounded-cache", "warning", cache(maxmemory="0"), "no maxmemory"),
    ("unbounded-cache", "warning", shared("noeviction", "0"), "no maxmemory"),
    ("unforgetting-cache", "warning", cache(maxmemory_policy="noeviction"), "noeviction"),
    ("hasty-cache", "warning", cache(maxmemory_policy="volatile-ttl"), "volatile-ttl"),
    ("replica", "problem", cache(info=server("cache").info | {"role": "slave"}), "replica"),
    ("replica", "problem", broker(info=server("broker").info | {"role": "slave"}), "replica"),
    ("old-server", "warning", cache(redis_version="6.2.14"), "6.2.14"),
    ("refused-commands", "problem", cache(denied=("PUBLISH on its channel",)), "PUBLISH on its channel"),
    ("refused-commands", "problem", broker(denied=("BRPOP",)), "BRPOP"),
    ("refused-commands", "problem", broker(denied=tuple("abcdef")), "refuses a, b, c, d and 2 more"),
    ("differing-clocks", "warning", cache(ahead_s=-1.5, within_s=0.1), "1.5 s behind"),
    ("differing-clocks", "warning",
     facts(broker=server("broker", ahead_s=0.8), cache=server("cache", ahead_s=-0.8)), "1.6 s apart"),
    ("small-push-buffer", "warning", cache(**{"client-output-buffer-limit": "pubsub 1048576 0 60"}), "1.0 MiB"),
    ("few-connections-left", "warning", broker(connected_clients="9000"), "9,000 of at most 10,000"),
    ("stale-unacked", "warning", broker(oldest_unacked_s=700.0), "700 s ago"),
    ("lasting-keys", "warning", facts(sample=Sample(9, ("foreseen:x",), 0.0)), "1 of 9 keys"),
    ("long-computations", "warning", facts(sample=Sample(9, (), 600.0)), "600 s"),
    ("other-broker", "problem", place(brokers={"CELERY_BROKER_URL": "redis://:pw@other/0"}), "redis://other/0"),
    ("changed-celery-settings", "problem", place(needed={"task_acks_late": (True, False)}), "task_acks_late is False"),
    ("changed-celery-settings", "problem", place(unreadable="no module named x"), "no module named x"),
    ("installed-celeryconfig", "warning", place(installed_config="/lib/celeryconfig.py"), "/lib/celeryconfig.py"),
    ("hidden-package", "problem", place(hidden="/app/workers.py hides it"), "/app/workers.py"),
    ("unserved-model", "warning", models(), "'foreseen'"),
    ("unserved-model", "warning", models(version("1", is_live=False)), "shout@1 is current and has no worker"),
    ("unserved-model", "problem", models(version("1", is_live=False), version("2", is_current=False)), "only shout@2"),
    ("several-versions", "warning", models(version("1"), version("2", is_current=False)), "shout@1, shout@2"),
    ("stranded-messages", "problem",
     models(version("1"), version("0", is_current=False, is_live=False, waiting=3)), "3 messages"),
    ("deaf-worker", "warning", facts(workers=(answer(queues=["foreseen.other@1"]),)), "none of 1 workers"),
    ("deaf-worker", "warning", facts(workers=()), "none of 0 workers"),
    ("differing-visibility-timeouts", "problem", facts(workers=(answer(visibility_timeout_s=30.0),)), "30 s"),
    ("differing-visibility-timeouts", "problem", facts(workers=(answer(visibility_timeout_s=None),)), "3600 s"),
    ("hoarding-worker", "warning", facts(workers=(answer(prefetch_count=8),)), "up to 8 messages"),
    ("hoarding-worker", "warning", facts(workers=(answer(prefetch_count=0),)), "without a bound"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "severity", "known", "told"), WRONG, ids=[f"{one[0]}-{one[3]}" for one in WRONG])
def test_what_is_wrong_is_found_and_nothing_else(name: str, severity: str, known: Facts, told: str) -> None:
    (found,) = findings(known)
    assert (found.check, found.severity) == (name, severity)
    assert told in found.seen
    assert found.means
    assert found.fix


def test_every_check_is_tried() -> None:
    assert {name for name, *_ in WRONG} == {each.name for each in CHECKS}


RIGHT = [
    facts(),
    broker(maxmemory_policy="volatile-lru"),  # no queue has an expiry
    broker(aof_enabled="0", save="3600 1"),
    shared("volatile-lfu"),
    broker(used_memory="950000", maxmemory="0"),
    cache(**{"client-output-buffer-limit": "pubsub 0 0 0"}),
    cache(ahead_s=3.0, within_s=2.5),
    broker(oldest_unacked_s=615.0),
    place(brokers={}),
    models(version("1"), version("2", is_current=False, is_live=False)),
    models(version("1", waiting=1000)),
    facts(workers=(answer(prefetch_count=4),)),
    facts(workers=(answer(concurrency=None, prefetch_count=9),)),
]


@pytest.mark.parametrize("known", RIGHT)
def test_what_is_right_is_not_found(known: Facts) -> None:
    looked = run(CHECKS, known)
    assert [each.findings for each in looked if each.findings] == []
    assert [each.untold for each in looked if each.untold is not None] == []


def test_what_nobody_told_is_not_called_right() -> None:
    """A server that does not answer, another broker than Redis, CONFIG forbidden, workers that were not asked."""
    for known, expected in (
        (cache(unavailable="gone"), {"unbounded-cache": "the cache does not answer"}),
        (broker(is_redis=False), {"evicting-broker": "the broker is not Redis or Valkey", "replica": "not Redis"}),
        (broker(aof_enabled="0", config={}), {"forgetful-broker": "the broker does not tell: CONFIG GET save"}),
        (cache(config={}), {"small-push-buffer": "CONFIG GET client-output-buffer-limit"}),
        (facts(workers=None, unasked="no Celery"), {"hoarding-worker": "no Celery", "deaf-worker": "no Celery"}),
        (facts(place=None, sample=None), {"other-broker": "not looked at", "lasting-keys": "SCAN"}),
    ):
        untold = {each.check.name: each.untold or "" for each in run(CHECKS, known)}
        for name, reason in expected.items():
            assert reason in untold[name]


def test_one_server_that_does_not_tell_does_not_hide_the_other() -> None:
    known = facts(broker=server("broker", info={}), cache=server("cache", redis_version="6.0.9"))
    (old,) = [each for each in run(CHECKS, known) if each.check.name == "old-server"]
    assert len(old.findings) == 1
    assert old.untold == "the broker does not tell: INFO"


def test_the_fix_on_a_shared_server_does_not_make_the_broker_evict() -> None:
    for known in (shared("allkeys-lru"), shared("noeviction", "0"), shared("noeviction")):
        (found,) = findings(known)
        assert "volatile-lfu" in found.fix
        assert "allkeys-" not in found.fix


def test_only_what_breaks_the_protocol_keeps_a_worker_from_starting() -> None:
    fatal = {finding.check for _, _, known, _ in WRONG for finding in findings(known) if is_fatal(finding)}
    assert fatal == {"clustered-broker"}


def test_no_finding_tells_a_password() -> None:
    known = replace(place(brokers={"CELERY_BROKER_URL": "redis://:secret@other/0"}), settings=SETTINGS)
    assert "secret" not in str(findings(known))


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("NOPERM this user has no permissions to run the 'set' command", "SET"),
        ("ERR The user executing the script can't run this command or subcommand script: f, on @user_script:1.", "SET"),
        (
            "ERR The user executing the script can't publish to the channel mentioned in the command",
            "SET on its channel",
        ),
        ("ERR ACL failure in script: User u has no permissions to access the 'k' key", "SET on its keys"),
        ("ERR Unknown Redis command called from script script: f, on @user_script:1.", "SET"),
        ("unknown command 'SET', with args beginning with: 'k'", "SET"),
        ("OOM command not allowed when used memory > 'maxmemory'.", None),
        ("READONLY You can't write against a read only replica.", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
    ],
)
def test_a_refusal_is_told_from_other_errors_in_the_words_of_every_server(said: str, named: str | None) -> None:
    """Redis 7.0's, later ones' and Valkey's, outside of scripts and within."""
    assert refusal("SET", said) == named


def table() -> str:
    """The table of `docs/doctor.md`, from the checks."""
    marks = {"problem": "✗", "warning": "!"}
    lines = ["| | check | looks at | what it means | what fixes it |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {marks[one.severity]} | `{one.name}` | {one.of} | {one.means} | {one.fix} |" for one in CHECKS]
    return "\n".join(lines)


def test_the_page_lists_every_check() -> None:
    """If it fails, put the text that it shows into the page."""
    assert table() in PAGE.read_text(encoding="utf-8"), f"\n{table()}"
