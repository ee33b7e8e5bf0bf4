"""Ask the vote about all 1,797 images, twice: `python ask_digits.py`; the cascade: `python ask_digits.py cascade`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from sklearn.datasets import load_digits

from producer import Producer

SEEN = 898  # images that the classifiers were trained on

digits = load_digits()
images = list(digits.images.astype("uint8"))


def likeliest(probabilities: dict[str, float]) -> int:
    """Return the digit of the highest probability."""
    return int(max(probabilities, key=lambda digit: probabilities[digit]))


def accuracy(told: Iterable[int]) -> str:
    """Return how many of the images that they were not trained on are told rightly."""
    right = [digit == truth for digit, truth in zip(told, digits.target, strict=True)][SEEN:]
    return f"{sum(right) / len(right):.1%}"


def ask(producer: Producer, model: str) -> tuple[list[Any], float, set[str]]:
    """Return what a model tells of all images, how long that took, and where the answers came from."""
    began = time.perf_counter()
    pendings = producer.submit_many(model, images)
    answers = [pending.result(timeout=120) for pending in pendings]
    return answers, time.perf_counter() - began, {str(pending.source) for pending in pendings}


def vote(producer: Producer, members: Sequence[str]) -> None:
    """Ask the vote, its members, and the vote again."""
    answers, took_s, sources = ask(producer, "digit")
    print(f"digit             {accuracy(int(each['answer']['label']) for each in answers)}  {sources}")
    for member in members:
        answers, _, sources = ask(producer, member)
        print(f"{member:16}  {accuracy(map(likeliest, answers))}  {sources}")
    _, again_s, sources = ask(producer, "digit")
    print(f"digit, again             {sources}, {took_s / again_s:.0f} times as fast")


def cascade(producer: Producer) -> None:
    """Ask the dear one alone, and the cascade, each from a cold cache."""
    for model in ("digit-linear", "digit-neighbours", "digit-cascade"):
        producer.purge(model)
    answers, dear_s, _ = ask(producer, "digit-neighbours")
    print(f"digit-neighbours  {accuracy(map(likeliest, answers))}")
    producer.purge("digit-neighbours")
    answers, took_s, _ = ask(producer, "digit-cascade")
    cheap = sum(each["members"][0].startswith("digit-linear@") for each in answers)
    print(f"digit-cascade     {accuracy(likeliest(each['answer']) for each in answers)}")
    print(f"{cheap / len(answers):.0%} answered by digit-linear; it took {1 - took_s / dear_s:.0%} less time")


with Producer() as producer:
    if sys.argv[1:] == ["cascade"]:
        cascade(producer)
    else:
        vote(producer, ("digit-linear", "digit-forest", "digit-neighbours"))
