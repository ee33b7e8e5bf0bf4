"""Which node of a cluster a command goes to, and what to do with what nodes say instead of an answer; without I/O.

All commands of a round trip go to the nodes that hold their slots, side by side. What a node refuses, since the slot
has moved or is on its way, and what got no answer, goes again, as all steps of the protocol may; and with it what comes
after it in the same slot, so that each slot sees its commands in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from foreseen.nodes import Node, NodeLost
from foreseen.parcels import Command
from foreseen.refusals import words_of

__all__ = ["ASKING", "READ_SLOTS", "Requests", "SlotMap", "Trip", "slot_of"]

#: What a node is asked for the map.
READ_SLOTS: Final[Command] = ("CLUSTER", "SLOTS")
#: Stands before a command to a node that is just being given its slot.
ASKING: Final[Command] = ("ASKING",)
#: These name no key, and go to every master: scripts are to be known everywhere. One that answers is enough.
_EVERYWHERE: Final = frozenset({"SCRIPT", "PING"})
#: This names none either, and goes where the command after it goes: its clock is the one that is meant.
_BESIDE: Final = "TIME"
#: Of one round trip: a slot that has moved takes two, one that is moving three.
_MOST_TURNS: Final = 5
#: Before asking again for keys that are on their way to another node, one by one.
_PAUSE_S: Final = 0.02


#: By node, the places of the commands that it is sent, in order.
Requests: TypeAlias = dict[Node, list[int]]


class SlotMap:
    """Who holds which slots, as one node saw it.

    Attributes:
        masters: each once, in the order of their first slots.
        nodes: these, and all replicas.
    """

    def __init__(self, owners: Sequence[Node | None], nodes: Iterable[Node]) -> None:
        self._owners = owners
        self.masters: Final = tuple(dict.fromkeys(owner for owner in owners if owner is not None))
        self.nodes: Final = tuple(dict.fromkeys((*self.masters, *nodes)))

    @classmethod
    def read(cls, reply: Any, asked: Node) -> SlotMap:
        """Read the reply to `READ_SLOTS`.

        Args:
            reply: of the node asked.
            asked: a node that does not know its own address is where it was asked.

        Raises:
            ValueError: it is no such reply, or names no node.
        """
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes: list[Node] = []
        try:
            for first, last, *holders in reply:
                held_by = [_node(holder[0], holder[1], asked) for holder in holders]
                owners[first : last + 1] = [held_by[0]] * (last + 1 - first)
                nodes += held_by
        except (TypeError, ValueError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"its CLUSTER SLOTS cannot be read: {error}") from None
        if not nodes:
            raise ValueError("it belongs to no cluster that holds any slots")
        return cls(owners, nodes)

    def owner(self, slot: int) -> Node | None:
        """Return the master of a slot; None if nobody holds it."""
        return self._owners[slot]


def slot_of(command: Command) -> int | None:
    """Return the slot of a command's keys, which is one; None if it has none."""
    word = command[0]
    if word in {"EVALSHA", "EVAL"}:
        key = command[3]
    elif word in _EVERYWHERE or word == _BESIDE:
        return None
    else:
        key = command[1]
    return key_slot(key.encode() if isinstance(key, str) else key)


def _slots_of(commands: Sequence[Command]) -> list[int | None]:
    slots: list[int | None] = []
    for command in reversed(commands):
        beside = slots[-1] if slots else None
        slots.append(beside if command[0] == _BESIDE else slot_of(command))
    return slots[::-1]


class Trip:
    """One round trip over a cluster: what goes where, and the replies as they come in.

    Args:
        commands: each touches keys of one slot, or none.

    Attributes:
        replies: in the order of the commands, once `requests` has no more. What got no answer is answered with the
            error for which it did not.
        is_map_old: a node said so, or did not answer: the map is to be read again before the next turn.
        moved_to: nodes that know better.
        pause_s: before the next turn.
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.replies: list[Any] = [None] * len(commands)
        self.is_map_old = False
        self.pause_s = 0.0
        self.moved_to: list[Node] = []
        self._slots = _slots_of(commands)
        self._left = list(range(len(commands)))
        self._asking: dict[int, Node] = {}
        self._asked: set[int] = set()  # places that are sent to a node that is just being given their slot
        self._lost: dict[Node, Exception] = {}
        self._refused: set[int] = set()  # places
        self._turns = 0

    def requests(self, slots: SlotMap) -> Requests:
        """Return what is to be sent now; nothing when the trip is over.

        Args:
            slots: as they are known now.
        """
        requests: Requests = {}
        self._turns += 1
        left, self._left = self._left, []
        asking, self._asking, self._asked = self._asking, {}, set()
        self.is_map_old, self.pause_s, self.moved_to, self._refused = False, 0.0, [], set()
        for place in left if self._turns <= _MOST_TURNS else ():
            slot = self._slots[place]
            if slot is None:
                for master in slots.masters:
                    if master not in self._lost:
                        requests.setdefault(master, []).append(place)
                continue
            node: Node | None = asking.get(slot) or slots.owner(slot)
            if slot in asking:
                self._asked.add(place)
            if node is None:
                self.replies[place] = ClusterDownError(f"no node holds slot {slot}", status_code="CLUSTERDOWN")
            elif node in self._lost:  # and nobody has taken its place
                self.replies[place] = self._lost[node]
            else:
                requests.setdefault(node, []).append(place)
        return requests

    def packed(self, places: Sequence[int]) -> list[Command]:
        """Return the commands that a node is sent for those places; each has one reply."""
        if not self._asked:
            return [self.commands[place] for place in places]
        sent: list[Command] = []
        for place in places:
            if place in self._asked:
                sent.append(ASKING)
            sent.append(self.commands[place])
        return sent

    def take(self, node: Node, places: Sequence[int], replies: Sequence[Any]) -> None:
        """Take in what a node replied to `packed`."""
        told = iter(replies)
        for place in places:
            reply = next(told)
            if place in self._asked:
                reply = next(told)
            if isinstance(reply, Exception):
                self._judge(place, node, reply)
            else:
                self.replies[place] = reply

    def lost(self, node: Node, places: Sequence[int], error: Exception, *, is_final: bool) -> None:
        """Note that a node did not answer.

        Args:
            node: that was asked.
            places: for these.
            error: why it did not.
            is_final: it is not tried again: if no other has taken its place, this is the answer.
        """
        self.is_map_old = True
        told = NodeLost(words_of(error))
        told.__cause__ = error
        if is_final:
            self._lost[node] = told
        for place in places:
            self._fail(place, told)
            self._refused.add(place)

    def end_turn(self) -> None:
        """Find out what goes again: what was refused, and what came after it in its slot."""
        if not self._refused:
            self._left = []
            return
        again: set[int | None] = set()
        for place in range(len(self.commands)):
            slot = self._slots[place]
            if place in self._refused:
                again.add(slot)
                self._left.append(place)
            elif slot is not None and slot in again:
                self._left.append(place)

    def _judge(self, place: int, node: Node, error: Exception) -> None:
        self._fail(place, error)
        slot = self._slots[place]
        if slot is None:
            return
        if isinstance(error, MovedError):  # which is a kind of AskError
            self.is_map_old = True
            self.moved_to.append(Node(error.host or node.host, error.port))
        elif isinstance(error, AskError):
            self._asking[slot] = Node(error.host or node.host, error.port)
        elif isinstance(error, TryAgainError):
            self.pause_s = _PAUSE_S
        elif isinstance(error, ClusterDownError):
            self.is_map_old, self.pause_s = True, _PAUSE_S
        else:
            return
        self._refused.add(place)

    def _fail(self, place: int, error: Exception) -> None:
        if self._slots[place] is not None or self.replies[place] is None:  # of all masters, one that answers will do
            self.replies[place] = error


def _node(host: Any, port: int, asked: Node) -> Node:
    name = host.decode() if isinstance(host, bytes) else host
    return Node(name if name and name != "?" else asked.host, port)
