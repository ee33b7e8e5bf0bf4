"""Handwritten digits, told by three classifiers of scikit-learn, by their vote, and by a cascade of two of them.

They are trained when they are loaded, on the first half of the 1,797 images that scikit-learn brings along.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from workers import Batching, Elected, Ensemble, FirstGood, Model, SoftVote, Stage

TRAINED_ON = 898  # images; the others tell how good they are
TREES = int(os.environ.get("DIGITS_TREES", "100"))


class Pixels(Stage[NDArray[np.uint8], NDArray[np.float64]]):
    """Makes 64 numbers from 0 to 1 of an image of 8 x 8 grey values from 0 to 16."""

    name = "digit-pixels"
    version = "1"
    batching = Batching(max_batch_size=64)

    def prepare(self, batch: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        """Flatten and scale each image."""
        return [image.reshape(64) / 16.0 for image in batch]


class Classifier(Model[NDArray[np.float64], dict[str, float]]):
    """A classifier of scikit-learn, over the same pixels as the others: the probability of each digit."""

    preprocess = Pixels
    batching = Batching(max_batch_size=64)
    classifier: ClassVar[Any]

    def load(self) -> None:
        """Train it."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.trained = self.train(digits.images[:TRAINED_ON] / 16.0, digits.target[:TRAINED_ON])

    def train(self, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
        """Return the classifier, trained on images of (n, 8, 8)."""
        raise NotImplementedError

    def predict(self, batch: Sequence[NDArray[np.float64]]) -> list[dict[str, float]]:
        """Tell the probabilities, to six digits: the last of a double depend on what else is in the batch."""
        return [
            {str(digit): round(float(probability), 6) for digit, probability in enumerate(row)}
            for row in self.trained.predict_proba(np.stack(batch))
        ]


class Linear(Classifier):
    """The cheapest."""

    name = "digit-linear"
    version = "1"

    def train(self, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
        """Train a logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=1000).fit(images.reshape(-1, 64), labels)


class Forest(Classifier):
    """Many trees."""

    name = "digit-forest"
    version = f"{TREES}-trees"

    def train(self, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
        """Grow a forest."""
        from sklearn.ensemble import ExtraTreesClassifier

        return ExtraTreesClassifier(n_estimators=TREES, random_state=0).fit(images.reshape(-1, 64), labels)


class Neighbours(Classifier):
    """The dearest: looks for the nearest among all images it has seen, each also moved a pixel and turned a little."""

    name = "digit-neighbours"
    version = "1"

    def train(self, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
        """Move and turn the images, and keep them."""
        from scipy.ndimage import rotate
        from sklearn.neighbors import KNeighborsClassifier

        seen: list[NDArray[np.float64]] = []
        for degrees in (-10, 0, 10):
            wider = np.pad(rotate(images, degrees, axes=(1, 2), reshape=False, order=1), ((0, 0), (1, 1), (1, 1)))
            seen += [wider[:, down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
        neighbours = KNeighborsClassifier(n_neighbors=5, weights="distance", algorithm="ball_tree")
        return neighbours.fit(np.concatenate(seen).reshape(-1, 64), np.tile(labels, len(seen)))


class Vote(Ensemble[NDArray[np.uint8], Elected]):
    """The digit that all three find likeliest."""

    name = "digit"
    version = "1"
    members = ("digit-linear", "digit-forest", "digit-neighbours")
    combine = SoftVote()
    batching = Batching(max_batch_size=64)


class Cascade(Ensemble[NDArray[np.uint8], dict[str, float]]):
    """The linear one, and its neighbours where that is in doubt."""

    name = "digit-cascade"
    version = "1"
    members = ("digit-linear", "digit-neighbours")
    combine = FirstGood(confidence=0.8)
    batching = Batching(max_batch_size=64)
