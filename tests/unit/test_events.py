from __future__ import annotations

import json

from celery.events.state import State

from foreseen.client import events
from foreseen.client.events import Events, Sighting, events_of
from foreseen.client.submission import Source
from foreseen.keys import Key, KeySpace

KEY = Key("shout", "v-1", "1a2b3c4d" * 5)


def test_what_is_noted_is_bounded_and_taken_once() -> None:
    noted = Events(1.0)
    for _ in range(10_000):
        noted.note(KEY, Source.HIT, 1.0)
    assert len(noted.take()) == events._MOST
    assert noted.take() == []


def test_a_share_of_the_answers_is_noted() -> None:
    noted, count = Events(0.1), 0
    for _ in range(100):
        for _ in range(100):
            noted.note(KEY, Source.HIT, 1.0)
        count += len(noted.take())
    assert 700 < count < 1300


def test_celery_takes_them_for_states_of_tasks() -> None:
    entry = KeySpace("foreseen").entry(KEY)
    told = events_of(
        [
            Sighting(KEY, Source.HIT, 10.0, 10.5),
            Sighting(KEY, Source.STALE, 10.0, 10.5),
            Sighting(KEY, Source.COALESCED, 10.0, 12.0),
            Sighting(entry, Source.HIT, 10.0, 10.25),
        ],
        "laptop",
        1000.0,
    )
    state = State()
    for clock, event in enumerate(json.loads(json.dumps(told)), start=1):
        state.event(event | {"clock": clock, "local_received": event["timestamp"]})
    tasks = list(state.tasks.values())
    assert [task.state for task in tasks] == ["CACHED", "CACHED", "COALESCED", "CACHED"]
    assert [task.runtime for task in tasks] == [0.5, 0.5, 2.0, 0.25]
    assert {task.name for task in tasks} == {"shout@v-1"}
    assert tasks[1].args == "items: 1, keys: 1a2b3c4d, source: stale"
    assert tasks[3].args == "items: 1, keys: 1a2b3c4d, source: hit"
    assert (tasks[0].client, tasks[0].worker.hostname) == ("producer@laptop", "cache@laptop")
    assert (tasks[0].sent, tasks[0].received, tasks[0].timestamp) == (1010.0, 1010.0, 1010.5)
