"""What a model file imports. The Celery app is in `workers.celery`; importing this package builds nothing."""

from workers.model import Batching, CachePolicy, Model

__all__ = ["Batching", "CachePolicy", "Model"]
