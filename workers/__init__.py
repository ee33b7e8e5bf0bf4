"""What a model file imports. The Celery app is in `workers.celery`; importing this package builds nothing."""

from foreseen.errors import TransientFailure
from workers.model import Model
from workers.policies import Batching, CachePolicy, FailureExpiry, Limits, Retry
from workers.stage import Stage
from workers.wanted import Unwanted, wanted

__all__ = [
    "Batching",
    "CachePolicy",
    "FailureExpiry",
    "Limits",
    "Model",
    "Retry",
    "Stage",
    "TransientFailure",
    "Unwanted",
    "wanted",
]
