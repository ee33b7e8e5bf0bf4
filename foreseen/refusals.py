"""What a cache server's errors mean to whoever runs it: which are a replica's, and what to do about the others."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError

__all__ = ["BecameReplica", "is_replica", "said_by", "words_of"]

#: What redis-py says where it has asked Sentinel for a master and meets a replica.
_UNDER_SENTINEL: Final = "The previous master is now a slave"
#: How servers begin what redis-py has no class for. Within scripts, a server before 7.0 puts words of its own in front.
_MEANINGS: Final = {
    "MISCONF": "takes no writes, since it could not save its data: see its log, and the disk that it saves to",
    "NOREPLICAS": "takes no writes while it has too few replicas (min-replicas-to-write)",
    "OOM ": "is full and evicts nothing: raise its maxmemory, or set maxmemory-policy to allkeys-lfu",
    "LOADING": "reads its data, and answers once it has",
    "BUSY ": "runs a script of somebody's that does not end",
    "CLUSTERDOWN": "is of a cluster that is down, or is electing a master",
    "MOVED": "is of a cluster, and does not hold that key: set FORESEEN_CACHE_URL to cluster://host:port",
    "CROSSSLOT": "is of a cluster: set FORESEEN_CACHE_URL to cluster://host:port",
    "SELECT is not allowed": "is of a cluster, which has no databases: set FORESEEN_CACHE_URL to cluster://host:port",
    "TRYAGAIN": "is being given the slot of that key, or gives it away",
    "NOAUTH": "wants a login: put it into FORESEEN_CACHE_URL",
    "WRONGPASS": "refuses the login of FORESEEN_CACHE_URL",
    "NOPERM": "forbids this user what foreseen needs: foreseen doctor says which command",
}
_REPLICA: Final = (
    "is a replica, which takes no writes: after a failover let the name in FORESEEN_CACHE_URL lead to the new master, "
    "or name the Sentinels there. The connection is closed, the next call connects anew"
)


class BecameReplica(DriverConnectionError):
    """The server takes no writes because it is not, or no longer, the master: another connection may find who is."""


def is_replica(error: BaseException) -> bool:
    """Tell whether an error is what only a replica says; also within a script, where it stands in the midst."""
    if isinstance(error, (BecameReplica, ReadOnlyError, MasterDownError)):
        return True
    text = str(error)
    return (isinstance(error, ResponseError) and "-READONLY " in text) or text == _UNDER_SENTINEL


def words_of(error: BaseException) -> str:
    """Return an error's text, with the server's word for it, which redis-py leaves out where it has a class for it."""
    text = str(error) or type(error).__name__
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(code) else text


def said_by(error: BaseException, where: str) -> str:
    """Return what an error of the driver's means, for a person: what the server is, what to do, and its own words."""
    text = words_of(error).rstrip(".")
    if is_replica(error):
        return f"The cache server at {where} {_REPLICA} ({text})."
    for begins, meaning in _MEANINGS.items():
        if text.startswith(begins) or f"-{begins}" in text or f": {begins}" in text:  # of a script; of a cluster's node
            return f"The cache server at {where} {meaning} ({text})."
    if isinstance(error, ResponseError):
        return f"The cache server at {where} refused: {text}"
    return f"The cache server at {where} does not answer: {text}"
