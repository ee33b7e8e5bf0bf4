"""Which digit is this? A model on another server, which speaks the Open Inference Protocol."""

import os
from collections.abc import Mapping
from typing import ClassVar

from workers import Batching, Limits, Retry
from workers.adapters.open_inference import OpenInferenceModel


class RemoteDigit(OpenInferenceModel[list[float], int]):
    """Tells the digit of 64 pixels, each from 0 to 16."""

    name = "remote-digit"
    version = "1"  # of what the server serves
    url = os.environ.get("DIGITS_URL", "http://127.0.0.1:8080")
    remote_name = "digits"
    headers: ClassVar[Mapping[str, str]] = {"User-Agent": "foreseen"}  # where a server wants a token, it stands here
    timeout_s = 5.0
    batching = Batching(max_batch_size=128)
    limits = Limits(compute_s=20)
    retry = Retry(attempts=5)
