"""What a model file imports. The Celery app is in `workers.celery`; importing this package builds nothing."""

from foreseen.array_type import ArrayOf
from foreseen.errors import TransientFailure
from workers.functions import as_model
from workers.model import Model
from workers.policies import Batching, CachePolicy, FailureExpiry, Limits, Retry
from workers.wanted import Unwanted, wanted

__all__ = [
    "ArrayOf",
    "Batching",
    "CachePolicy",
    "FailureExpiry",
    "Limits",
    "Model",
    "Retry",
    "TransientFailure",
    "Unwanted",
    "as_model",
    "wanted",
]
