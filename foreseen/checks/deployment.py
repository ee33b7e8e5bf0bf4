"""Checks of everything but the servers: this process's surroundings, the models, the workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from foreseen.broker import is_redis
from foreseen.cache_server import without_password
from foreseen.checks.check import Seen, Severity, Yield, check
from foreseen.checks.facts import Facts, NotTold, Version

__all__ = ["CHECKS"]

#: A worker of ours takes one message in reserve for each slot; copies that are due later are counted on top.
_HOARD: Final = 2


@check(
    Severity.PROBLEM,
    of="Celery's broker",
    means="Workers listen where no producer sends. A worker refuses to start with CELERY_BROKER_URL so.",
    fix="Unset it: FORESEEN_BROKER_URL is for both sides.",
)
def other_broker(facts: Facts) -> Iterator[Yield]:
    """`CELERY_BROKER_URL` and its kin override the worker's broker alone."""
    for name, url in facts.surroundings().brokers.items():
        if (
            url.partition("?")[0] != facts.settings.broker_url.partition("?")[0]
        ):  # options of TLS are settings of their own
            yield Seen(f"{name} is {without_password(url)}, FORESEEN_BROKER_URL {without_password(facts.broker.where)}")


@check(
    Severity.PROBLEM,
    of="Celery's settings",
    means="Tasks are lost when a worker dies, or acked before they have an outcome; or a message could run code.",
    fix="Take it out of the module that CELERY_CONFIG_MODULE names, which starts from foreseen.celery_settings.",
)
def changed_celery_settings(facts: Facts) -> Iterator[Yield]:
    """As a worker that is started here would read them."""
    place = facts.surroundings()
    if place.unreadable is not None:
        fix = "Set CELERY_CONFIG_MODULE to a module that can be imported here, or unset it."
        yield Seen(f"Celery's settings cannot be read: {place.unreadable}", fix)
        return
    if not place.needed:
        raise NotTold("Celery is not installed here")
    for name, (needed, found) in place.needed.items():
        if needed != found:
            yield Seen(f"{name} is {found!r}; it must be {needed!r}")


@check(
    Severity.WARNING,
    of="installed celeryconfig",
    means="It configures every Celery app of this environment that has no settings of its own.",
    fix="Uninstall the package that brought it, and keep celeryconfig.py beside the deployment.",
)
def installed_celeryconfig(facts: Facts) -> Iterator[Yield]:
    """A top-level `celeryconfig` among the installed packages."""
    if (file := facts.surroundings().installed_config) is not None:
        yield Seen(f"{file} is an installed top-level module")


@check(
    Severity.PROBLEM,
    of="hidden packages",
    means="`celery -A workers` and `import producer` find something else when they are started in this directory.",
    fix="Rename it, or start from another directory.",
)
def hidden_package(facts: Facts) -> Iterator[Yield]:
    """A directory or module of that name in the way."""
    if (hidden := facts.surroundings().hidden) is not None:
        yield Seen(hidden)


@check(
    Severity.PROBLEM,
    of="current versions",
    means="Whoever asks for the bare name gets ModelNotServed, or waits in vain.",
    fix="Start a worker that serves it, or make another version current: foreseen models promote NAME@VERSION.",
)
def unserved_model(facts: Facts) -> Iterator[Yield]:
    """A model that no worker serves in any version may have been taken out of service: a warning."""
    if not facts.versions():
        fix = "Start one: FORESEEN_MODELS=<module> celery -A workers worker, or foreseen up."
        yield Seen(f"no worker has published a model in {facts.settings.namespace!r} of late", fix, Severity.WARNING)
    for versions in _by_name(facts).values():
        live = [each for each in versions if each.is_live]
        for current in versions:
            if not current.is_current or current.is_live:
                continue
            if live:
                fix = f"foreseen models promote {live[0].model_id}, or start a worker that serves {current.model_id}."
                yield Seen(f"{current.model_id} is current, but only {_listed(live)} has a worker", fix)
            else:
                fix = "Start a worker that serves it; if nobody wants it any more, it is forgotten after a week."
                yield Seen(f"{current.model_id} is current and has no worker", fix, Severity.WARNING)


@check(
    Severity.WARNING,
    of="versions side by side",
    means="During a rollout that is as it should be; else some workers run older code than others.",
    fix="foreseen models promote NAME@VERSION, and restart the workers that serve the other one.",
)
def several_versions(facts: Facts) -> Iterator[Yield]:
    """More than one version of a model is live."""
    for name, versions in _by_name(facts).items():
        live = [each for each in versions if each.is_live]
        if len(live) > 1:
            current = next((each.version for each in versions if each.is_current), None)
            yield Seen(f"{_listed(live)} are served; the bare {name} means {current or 'none of them'}")


@check(
    Severity.PROBLEM,
    of="messages without a worker",
    means="Nobody computes them: waiters time out, submissions lie there.",
    fix="Start a worker that serves that version.",
)
def stranded_messages(facts: Facts) -> Iterator[Yield]:
    """The queue of a version without workers."""
    for each in facts.versions():
        if each.waiting is None:
            raise NotTold("the broker does not tell: the length of queues")
        if each.waiting and not each.is_live:
            yield Seen(f"{each.waiting:,} messages wait in {each.queue}, and no worker serves {each.model_id}")


@check(
    Severity.WARNING,
    of="workers that take nothing",
    means="It may have lost its place at the broker, or be too busy to answer: a solo pool answers between tasks only.",
    fix="celery -A workers inspect active_queues; restart the worker if it does not answer while idle.",
)
def deaf_worker(facts: Facts) -> Iterator[Yield]:
    """A version has a card, but no worker that answered takes from its queue."""
    answers = facts.answers()
    if any(each.queues is None for each in answers):
        raise NotTold("a worker did not say what it takes from")
    taken = {queue for each in answers for queue in each.queues or ()}
    for each in facts.versions():
        if each.is_live and each.queue not in taken:
            yield Seen(f"{each.model_id} has a card, but none of {len(answers)} workers that answered takes its tasks")


@check(
    Severity.PROBLEM,
    of="visibility timeouts",
    means="The shortest of all on a broker decides when everybody's tasks are delivered again.",
    fix="Set FORESEEN_VISIBILITY_TIMEOUT_S alike everywhere; give another Celery app another database of the broker.",
)
def differing_visibility_timeouts(facts: Facts) -> Iterator[Yield]:
    """Of every Celery worker on the broker's database, ours or not."""
    if not is_redis(facts.settings.broker_url):
        raise NotTold("the broker is not Redis or Valkey")
    ours_s = facts.settings.visibility_timeout_s
    for each in facts.answers():
        theirs_s = each.visibility_timeout_s
        if theirs_s is None:
            yield Seen(f"worker {each.name} has set none, which means 3600 s; here it is {ours_s:g} s")
        elif theirs_s != ours_s:
            yield Seen(f"worker {each.name} has a visibility timeout of {theirs_s:g} s; here it is {ours_s:g} s")


@check(
    Severity.WARNING,
    of="prefetch",
    means="It takes messages that another worker could begin, and an autoscaler sees an empty queue.",
    fix="Leave worker_prefetch_multiplier at 1, and start it without --prefetch-multiplier.",
)
def hoarding_worker(facts: Facts) -> Iterator[Yield]:
    """A prefetch count of more than twice what runs at a time, or without a bound."""
    for each in facts.answers():
        if each.prefetch_count == 0:
            yield Seen(f"worker {each.name} takes messages without a bound")
        elif each.concurrency is not None and each.prefetch_count > _HOARD * each.concurrency:
            yield Seen(
                f"worker {each.name} takes up to {each.prefetch_count} messages and runs {each.concurrency} at a time"
            )


CHECKS: Final = (
    other_broker, changed_celery_settings, installed_celeryconfig, hidden_package, unserved_model, several_versions,
    stranded_messages, deaf_worker, differing_visibility_timeouts, hoarding_worker,
)  # fmt: skip


def _by_name(facts: Facts) -> dict[str, list[Version]]:
    named: defaultdict[str, list[Version]] = defaultdict(list)
    for each in facts.versions():
        named[each.name].append(each)
    return named


def _listed(versions: list[Version]) -> str:
    return ", ".join(each.model_id for each in versions)
