"""Ask for the digit on each image, as a PNG file, twice: `python ask_forest.py`."""

from collections import Counter

from forest import png_of
from sklearn.datasets import load_digits

from producer import Producer

images, digits = load_digits(return_X_y=True)
files = [png_of(image) for image in images]
with Producer() as producer:
    for _ in range(2):
        pendings = producer.submit_many("forest", files)
        right = sum(pending.result(timeout=60) == digit for pending, digit in zip(pendings, digits, strict=True))
        sources = Counter(pending.source for pending in pendings)
        print(f"{right / len(files):.1%} right of {len(files)};", *(f"{n} {each}" for each, n in sources.items()))
