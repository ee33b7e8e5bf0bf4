"""foreseen for application code: submit prediction tasks, and get each answer computed once."""

from __future__ import annotations

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
    TooManyAttempts,
    TransientFailure,
    UnknownKey,
    VersionGone,
    WrongLoop,
)
from foreseen.near_cache import NearCache
from foreseen.outage import Outages
from foreseen.settings import Settings
from producer.aio import AsyncProducer
from producer.async_pending import AsyncPendingPrediction
from producer.handle import AsyncModelHandle, ModelHandle
from producer.pending import PendingPrediction
from producer.sync import Producer

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
    "TooManyAttempts",
    "TransientFailure",
    "UnknownKey",
    "VersionGone",
    "WrongLoop",
    "correlated",
]
