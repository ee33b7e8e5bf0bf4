"""Which node each command goes to, and what is sent again."""

from __future__ import annotations

from typing import Any

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as DriverConnectionError

from foreseen.nodes import Node, NodeLost
from foreseen.parcels import Command
from foreseen.slots import ASKING, SlotMap, Trip, slot_of

A, B, C = Node("a", 1), Node("b", 2), Node("c", 3)
HALF = REDIS_CLUSTER_HASH_SLOTS // 2
#: Keys whose slots are A's and B's.
OF_A, OF_B = "{b}x", "{a}x"
SLOT_OF_A = key_slot(b"b")
LOST = DriverConnectionError("gone")


def of(first: Node = A, second: Node = B) -> SlotMap:
    return SlotMap([*[first] * HALF, *[second] * HALF], ())


def get(key: str) -> Command:
    return ("GET", key)


def turn(trip: Trip, slots: SlotMap, says: dict[Node, list[Any] | Exception]) -> dict[Node, list[Command]]:
    """Make one turn; return what was sent."""
    requests = trip.requests(slots)
    sent = {node: trip.packed(places) for node, places in requests.items()}
    assert sent.keys() == says.keys()
    for node, places in requests.items():
        told = says[node]
        if isinstance(told, Exception):
            trip.lost(node, places, told, is_final=True)
        else:
            trip.take(node, places, told)
    trip.end_turn()
    return sent


def is_over(trip: Trip, slots: SlotMap) -> bool:
    return not trip.requests(slots)


def test_the_keys_used_here_lie_where_they_are_said_to() -> None:
    assert key_slot(OF_A.encode()) < HALF <= key_slot(OF_B.encode())


def test_a_command_is_found_by_its_first_key() -> None:
    assert slot_of(("EVALSHA", "sha", 2, OF_A, "{b}y", "argument")) == key_slot(b"b")
    assert slot_of(("MGET", b"{a}x", "{a}y")) == key_slot(b"a")
    assert slot_of(("SCRIPT", "LOAD", "text")) is None


def test_each_node_is_sent_its_own_side_by_side_and_replies_come_in_order() -> None:
    trip = Trip([get(OF_A), get(OF_B), get(OF_A)])
    assert turn(trip, of(), {A: [b"1", b"3"], B: [b"2"]}) == {A: [get(OF_A), get(OF_A)], B: [get(OF_B)]}
    assert is_over(trip, of())
    assert trip.replies == [b"1", b"2", b"3"]


def test_a_clock_is_asked_for_where_the_next_command_goes() -> None:
    trip = Trip([("TIME",), get(OF_B), get(OF_A)])
    assert turn(trip, of(), {A: [b"1"], B: [b"now", b"2"]}) == {A: [get(OF_A)], B: [("TIME",), get(OF_B)]}
    assert trip.replies == [b"now", b"2", b"1"]


def test_what_has_moved_goes_to_the_new_holder_with_what_comes_after_it() -> None:
    trip = Trip([("SET", OF_A, 1), get(OF_B), get(OF_A)])
    moved = MovedError(f"{SLOT_OF_A} c:3")
    turn(trip, of(), {A: [moved, b"an older one"], B: [b"2"]})
    assert trip.is_map_old
    assert trip.moved_to == [C]
    assert turn(trip, of(C), {C: [b"OK", b"1"]}) == {C: [("SET", OF_A, 1), get(OF_A)]}
    assert is_over(trip, of(C))
    assert trip.replies == [b"OK", b"2", b"1"]


def test_what_is_moving_is_asked_for_once_where_it_goes() -> None:
    trip = Trip([get(OF_A), get(OF_B)])
    turn(trip, of(), {A: [AskError(f"{SLOT_OF_A} c:3")], B: [b"2"]})
    assert not trip.is_map_old
    assert turn(trip, of(), {C: [b"OK", TryAgainError("later")]}) == {C: [ASKING, get(OF_A)]}
    assert trip.pause_s > 0
    assert turn(trip, of(), {A: [b"1"]}) == {A: [get(OF_A)]}
    assert is_over(trip, of())
    assert trip.replies == [b"1", b"2"]


def test_a_lost_node_takes_its_own_keys_with_it_and_no_other_s() -> None:
    trip = Trip([get(OF_A), get(OF_B)])
    turn(trip, of(), {A: LOST, B: [b"2"]})
    assert trip.is_map_old
    assert is_over(trip, of()), "nobody has taken its place"
    lost, answered = trip.replies
    assert isinstance(lost, NodeLost)
    assert (str(lost), lost.__cause__, answered) == ("gone", LOST, b"2")


def test_who_takes_a_lost_node_s_place_is_asked() -> None:
    trip = Trip([get(OF_A)])
    turn(trip, of(), {A: LOST})
    assert turn(trip, of(C), {C: [b"1"]}) == {C: [get(OF_A)]}
    assert trip.replies == [b"1"]


def test_a_connection_that_had_been_closed_is_opened_again() -> None:
    trip = Trip([get(OF_A)])
    trip.lost(A, trip.requests(of())[A], LOST, is_final=False)
    trip.end_turn()
    turn(trip, of(), {A: [b"1"]})
    assert trip.replies == [b"1"]


def test_a_cluster_that_stays_down_is_given_up() -> None:
    trip = Trip([get(OF_A)])
    down = ClusterDownError("The cluster is down")
    turns = 0
    while requests := trip.requests(of()):
        trip.take(A, requests[A], [down])
        trip.end_turn()
        turns += 1
    assert turns == 5
    assert trip.replies == [down]


def test_an_error_of_the_command_s_own_is_its_answer() -> None:
    trip, refused = Trip([get(OF_A)]), ResponseError("WRONGTYPE")
    turn(trip, of(), {A: [refused]})
    assert is_over(trip, of())
    assert trip.replies == [refused]


@pytest.mark.parametrize("first", [A, B])
def test_what_has_no_key_goes_to_every_master_and_one_answer_will_do(first: Node) -> None:
    trip = Trip([("SCRIPT", "LOAD", "text")])
    says: dict[Node, list[Any] | Exception] = {A: [b"sha"], B: [b"sha"]}
    turn(trip, of(), says | {first: LOST})
    assert trip.replies == [b"sha"]


def test_a_slot_that_nobody_holds_is_said_to_be_so() -> None:
    trip, slots = Trip([get(OF_A), get(OF_B)]), SlotMap([None] * HALF + [B] * HALF, ())
    turn(trip, slots, {B: [b"2"]})
    assert isinstance(trip.replies[0], ClusterDownError)
    assert trip.replies[1] == b"2"


def test_a_map_is_read_as_nodes_tell_it() -> None:
    slots = SlotMap.read([[0, 9, [b"", 1, b"id"], [b"b", 2, b"id"]], [10, 16383, [b"c", 3, b"id", []]]], Node("a", 9))
    assert (slots.owner(9), slots.owner(10)) == (A, C)
    assert slots.masters == (A, C)
    assert slots.nodes == (A, C, B)


@pytest.mark.parametrize("reply", [[], [[0]], b"OK", [[0, 1, []]], ResponseError("ERR This instance has cluster off")])
def test_what_is_no_map_is_refused(reply: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|belongs to no cluster"):
        SlotMap.read(reply, A)
