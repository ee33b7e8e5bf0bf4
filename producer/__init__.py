"""foreseen for application code: submit prediction tasks, and get each answer computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreseen.client.submission import Source
from foreseen.context import correlated
from foreseen.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    ForeseenError,
    InputRefused,
    InvalidInput,
    InvalidKey,
    InvalidOutput,
    Misconfigured,
    ModelFailed,
    ModelNotServed,
    PredictionFailed,
    PredictionTimeout,
    ProducerClosed,
    QueueFull,
    Revoked,
    TimeLimitExceeded,
    TooFewMembers,
    TooManyAttempts,
    TransientFailure,
    UnknownKey,
    UnsupportedLayout,
    VersionGone,
    WrongLoop,
)
from foreseen.outage import Outages
from foreseen.settings import Settings
from producer.pending import PendingPrediction
from producer.sync import Producer

if TYPE_CHECKING:
    from foreseen.near_cache import NearCache
    from producer.aio import AsyncProducer
    from producer.async_pending import AsyncPendingPrediction
    from producer.handle import AsyncModelHandle, ModelHandle

__all__ = [
    "AsyncModelHandle",
    "AsyncPendingPrediction",
    "AsyncProducer",
    "BrokerUnavailable",
    "CacheUnavailable",
    "DeadlineExceeded",
    "ForeseenError",
    "InputRefused",
    "InvalidInput",
    "InvalidKey",
    "InvalidOutput",
    "Misconfigured",
    "ModelFailed",
    "ModelHandle",
    "ModelNotServed",
    "NearCache",
    "Outages",
    "PendingPrediction",
    "PredictionFailed",
    "PredictionTimeout",
    "Producer",
    "ProducerClosed",
    "QueueFull",
    "Revoked",
    "Settings",
    "Source",
    "TimeLimitExceeded",
    "TooFewMembers",
    "TooManyAttempts",
    "TransientFailure",
    "UnknownKey",
    "UnsupportedLayout",
    "VersionGone",
    "WrongLoop",
    "correlated",
]

#: What not every application asks for is imported when it is asked for.
_ASKED_FOR = {
    "AsyncModelHandle": "producer.handle",
    "AsyncPendingPrediction": "producer.async_pending",
    "AsyncProducer": "producer.aio",
    "ModelHandle": "producer.handle",
    "NearCache": "foreseen.near_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_ASKED_FOR[name]), name)
    return value
