"""Which digit is on this image? A forest of scikit-learn's, asked with PNG files."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers import Batching
from workers.adapters.sklearn import SklearnModel

SIDE = 8


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    """Return the 64 features of an image: its pixels, as scikit-learn's digits have them, from 0 to 16."""
    try:
        image = Image.open(BytesIO(png), formats=["PNG"]).convert("L")
    except UnidentifiedImageError:
        raise ValueError("the input is no PNG image") from None
    return np.asarray(image.resize((SIDE, SIDE)), np.float64).ravel() * (16 / 255)


def png_of(features: np.ndarray[Any, Any]) -> bytes:
    """Return the PNG file of an image of scikit-learn's digits."""
    file = BytesIO()
    Image.fromarray(np.round(features.reshape(SIDE, SIDE) * (255 / 16)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


class Forest(SklearnModel[bytes, int]):
    """Tells the digit on a PNG image."""

    name = "forest"
    model_file = "forest.skops"
    trusted = ("sklearn.tree._tree.Tree",)  # which skops does not trust by itself; the load names what it finds
    batching = Batching(max_batch_size=64)
    examples = (png_of(np.zeros(64)), png_of(np.arange(64) % 16))

    def encode(self, batch: Sequence[bytes]) -> Any:
        """Return the features of each image."""
        return np.stack([pixels(png) for png in batch])
