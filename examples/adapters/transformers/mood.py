"""Is this text pleased or not? A pipeline of Transformers'."""

from pydantic import BaseModel

from workers import Batching, CachePolicy
from workers.adapters.transformers import PipelineModel


class Mood(BaseModel):
    """A label, and how sure the network is, from 0 to 1."""

    label: str
    score: float


class MoodOfText(PipelineModel[str, Mood]):
    """Tells good from bad."""

    name = "mood"
    task = "text-classification"
    model_file = "mood"
    cache = CachePolicy(audit_tolerance=1e-6)  # single precision: sums differ in their last digits
    batching = Batching(max_batch_size=32)
    examples = ("the film was great", "it was a very boring day and all of it was really bad")
