"""What a model file imports. The Celery app is in `workers.celery`; importing this package builds nothing."""

from foreseen.array_type import ArrayOf
from foreseen.errors import TransientFailure
from workers.combine import Combiner, Elected, FirstGood, HardVote, Mean, SoftVote, Stacking
from workers.ensemble import Answer, Ensemble
from workers.functions import as_model
from workers.model import Model
from workers.policies import Batching, CachePolicy, FailureExpiry, Limits, Retry
from workers.stage import Stage
from workers.wanted import Unwanted, wanted

__all__ = [
    "Answer",
    "ArrayOf",
    "Batching",
    "CachePolicy",
    "Combiner",
    "Elected",
    "Ensemble",
    "FailureExpiry",
    "FirstGood",
    "HardVote",
    "Limits",
    "Mean",
    "Model",
    "Retry",
    "SoftVote",
    "Stacking",
    "Stage",
    "TransientFailure",
    "Unwanted",
    "as_model",
    "wanted",
]
