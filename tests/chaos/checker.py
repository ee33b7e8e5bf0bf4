"""What the history says: lost, wrong, answered twice, hung, computed twice under a live lease."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from served.stamped import answer_to

from chaos.faults import Fault

__all__ = ["Verdict", "check"]

#: What a caller may be told while servers are away: a clear error, at once, to try again.
UNAVAILABLE: Final = frozenset({"CacheUnavailable", "BrokerUnavailable", "ModelNotServed"})
#: After one of these the next to ask has it computed anew, whatever is under way.
FORGETTING: Final = frozenset({"invalidate", "purge"})
#: A process that computes alone may die this often with an input; with chaos that is no fault of the input's.
BOUNDED: Final = frozenset({"TooManyAttempts"})


@dataclass
class Verdict:
    """What was found; all but the first group must be empty.

    Attributes:
        requests: by kind.
        outcomes: by name: `answered`, or the error's.
        computations: that began.
        flights: of which several callers were told, and their answers compared.
        gone: submitted, acknowledged, and lost with the broker's data, which is allowed.
        repeated: begun again although one of the same input was under way, where that is allowed: its process had been
            hit, the cache had lost data or was away for a lease, or somebody had purged or invalidated it.
        reverted: answered with what had been invalidated or purged, which a master had acknowledged and not replicated
            when another took its place.
        wrong: an answer that is not the input's, or is from before it was invalidated or purged, two callers of one
            flight who were told of different computations, or an outcome that no rule allows.
        hung: asked, its process alive, and nothing told.
        lost: submitted, acknowledged, and never computed.
        twice: told, or called back, more than once.
        overlapping: computed twice at once under a live lease.
    """

    requests: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    computations: int = 0
    flights: int = 0
    gone: int = 0
    repeated: int = 0
    reverted: int = 0
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)

    @property
    def violations(self) -> dict[str, list[str]]:
        """What must not be, by name."""
        names = ("lost", "wrong", "twice", "hung", "overlapping")
        return {name: getattr(self, name) for name in names}


def check(
    histories: Iterable[Path],
    record: Path,
    faults: Sequence[Fault],
    killed: set[str],
    slack_s: float,
    retried: frozenset[str] = frozenset(),
) -> Verdict:
    """Read everything and judge it.

    Args:
        histories: of the producer processes.
        record: of the computations.
        faults: that happened.
        killed: process ids of producers that were killed: what they asked needs no answer.
        slack_s: a lease, within which a holder that was hit may overlap with the next.
        retried: further errors that may be told, since a retry helps.
    """
    verdict = Verdict()
    asked: dict[str, dict[str, Any]] = {}
    submitted: dict[str, dict[str, Any]] = {}
    told: Counter[str] = Counter()
    flights: dict[str, list[dict[str, Any]]] = defaultdict(list)
    called: Counter[str] = Counter()
    last_told: dict[str, dict[str, Any]] = {}
    for line in _lines(histories):
        name = line["name"]
        match line["what"]:
            case "asked":
                asked[name] = line
                verdict.requests[line["kind"]] += 1
            case "submitted":
                submitted[name] = line
            case "called":
                called[name] += 1
            case "told":
                told[name] += 1
                _judge(verdict, asked[name], line, UNAVAILABLE | BOUNDED | retried)
                last_told[name] = line
                if line.get("flight") and "stamp" in line:
                    flights[line["flight"]].append(line)
    verdict.twice += [name for counts in (told, called) for name, count in counts.items() if count > 1]
    verdict.hung += [name for name in asked if not told[name] and name.partition("-")[0] not in killed]
    begins, ends = _computations(record)
    verdict.computations = sum(map(len, begins.values()))
    last_end = {number: max(at for _, at, _ in rows) for number, rows in ends.items()}
    for name, line in submitted.items():
        number, computed_at = asked[name]["number"], last_end.get(asked[name]["number"], 0.0)
        # An answer in the same breath was an entry's; anything else must have been computed from then on.
        if line["source"] == "hit" or computed_at >= line["at"] - slack_s:
            continue
        if _went_with_the_broker(faults, number, line["at"], computed_at, slack_s):
            verdict.gone += 1
        else:
            verdict.lost.append(f"{name} (input {number})")
    forgotten = [(line["number"], line["kind"], line["at"]) for line in asked.values() if line["kind"] in FORGETTING]
    _overlaps(verdict, begins, ends, faults, forgotten, slack_s)
    _revived(verdict, asked, last_told, begins, faults, slack_s)
    _compare(verdict, flights, asked, faults, forgotten, slack_s)
    return verdict


def _judge(verdict: Verdict, asked: dict[str, Any], told: dict[str, Any], allowed: frozenset[str]) -> None:
    name, error = asked["name"], told.get("error")
    if error is None:
        verdict.outcomes["answered"] += 1
        if "answer" in told and told["answer"] != answer_to(asked["number"], told["stamp"]):
            verdict.wrong.append(f"{name}: another input's answer")
        return
    verdict.outcomes[error] += 1
    if error == "PredictionTimeout":
        if asked["kind"] != "hasty":
            verdict.hung.append(f"{name}: {told['message']}")
    elif error not in allowed:
        verdict.wrong.append(f"{name}: {error}: {told['message']}")


def _overlaps(
    verdict: Verdict,
    begins: dict[int, list[tuple[str, float, int]]],
    ends: dict[int, list[tuple[str, float, int]]],
    faults: Sequence[Fault],
    forgotten: Sequence[tuple[int, str, float]],
    slack_s: float,
) -> None:
    """Find computations of one input that ran at the same time, and that nothing allows."""
    ended = {stamp: at for rows in ends.values() for stamp, at, _ in rows}
    for number, rows in begins.items():
        for (stamp, at, pid), (_, next_at, _) in itertools.pairwise(sorted(rows, key=lambda row: row[1])):
            end = ended.get(stamp)
            if end is not None and end <= next_at:
                continue
            was_forgotten = any(
                (kind == "purge" or each == number) and at - slack_s <= when <= next_at
                for each, kind, when in forgotten
            )
            if was_forgotten or _excused(faults, pid, at, next_at, slack_s):
                verdict.repeated += 1
            else:
                verdict.overlapping.append(f"input {number}: {stamp} from {at:.3f}, again at {next_at:.3f}")


def _revived(
    verdict: Verdict,
    asked: dict[str, dict[str, Any]],
    last_told: dict[str, dict[str, Any]],
    begins: dict[int, list[tuple[str, float, int]]],
    faults: Sequence[Fault],
    slack_s: float,
) -> None:
    """Find who was answered from before an invalidation, or a purge, that had been acknowledged when he asked."""
    began = {stamp: at for rows in begins.values() for stamp, at, _ in rows}
    answered = {name: line for name, line in last_told.items() if "error" not in line}
    forgotten: dict[int | None, list[tuple[float, float]]] = defaultdict(list)  # by input, None is all: asked, told
    for name, line in asked.items():
        if line["kind"] in FORGETTING and name in answered:
            place = line["number"] if line["kind"] == "invalidate" else None
            forgotten[place].append((line["at"], answered[name]["at"]))
    for name, told in answered.items():
        computed_at, request = began.get(told.get("stamp", "")), asked[name]
        if computed_at is None:
            continue
        undone = [
            (forgot_at, done_at)
            for forgot_at, done_at in (*forgotten[request["number"]], *forgotten[None])
            if computed_at < forgot_at and done_at < request["at"]
        ]
        if not undone:
            continue
        if all(_was_reverted(faults, *times, slack_s) for times in undone):
            verdict.reverted += 1
        else:
            verdict.wrong.append(f"{name}: from before {len(undone)} acknowledged invalidations or purges")


def _was_reverted(faults: Sequence[Fault], forgot_at: float, done_at: float, slack_s: float) -> bool:
    """Tell whether the master that took it in may have been replaced before it was replicated."""
    return any(fault.reverts and fault.began - slack_s <= done_at and forgot_at <= fault.ended for fault in faults)


def _went_with_the_broker(
    faults: Sequence[Fault], number: int, submitted_at: float, computed_at: float, slack_s: float
) -> bool:
    """Tell whether the broker lost the message, and nothing of that input was computed since.

    It was seen there just before, or was on its way there: published or taken in the same moment.
    """
    return any(
        computed_at < fault.ended and (number in fault.inputs or fault.began - slack_s <= submitted_at <= fault.ended)
        for fault in faults
        if fault.inputs is not None
    )


def _compare(
    verdict: Verdict,
    flights: dict[str, list[dict[str, Any]]],
    asked: dict[str, dict[str, Any]],
    faults: Sequence[Fault],
    forgotten: Sequence[tuple[int, str, float]],
    slack_s: float,
) -> None:
    """Find flights whose callers were told of different computations, though nothing happened meanwhile.

    Whoever missed a push finds, later, the entry that is there then: after a fault, or a purge, that may be another's.
    """
    for token, lines in flights.items():
        stamps = {line["stamp"] for line in lines}
        verdict.flights += len(lines) > 1
        if len(stamps) < 2:
            continue
        requests = [asked[line["name"]] for line in lines]
        began = min(request["at"] for request in requests) - slack_s
        ended = max(line["at"] for line in lines)
        if any(fault.began <= ended and fault.ended >= began for fault in faults) or any(
            (kind == "purge" or number == requests[0]["number"]) and began <= when <= ended
            for number, kind, when in forgotten
        ):
            continue
        verdict.wrong.append(f"flight {token} of input {requests[0]['number']}: told of {len(stamps)} computations")


def _excused(faults: Sequence[Fault], pid: int, began: float, again: float, slack_s: float) -> bool:
    """Tell whether a fault explains it: the first one's process was hit, or the cache lost data meanwhile."""
    return any(
        (fault.loses or pid in fault.pids) and fault.ended >= began - slack_s and fault.began <= again
        for fault in faults
    )


def _computations(
    record: Path,
) -> tuple[dict[int, list[tuple[str, float, int]]], dict[int, list[tuple[str, float, int]]]]:
    begins: dict[int, list[tuple[str, float, int]]] = defaultdict(list)
    ends: dict[int, list[tuple[str, float, int]]] = defaultdict(list)
    for line in _lines([record]):
        (begins if line["what"] == "begin" else ends)[line["number"]].append((line["stamp"], line["at"], line["pid"]))
    return begins, ends


def _lines(paths: Iterable[Path]) -> Iterable[dict[str, Any]]:
    for path in paths:
        for text in path.read_text().splitlines():
            line: dict[str, Any] = json.loads(text)
            yield line
