"""Ask for the digits of the images that the server has not learnt, twice: `python ask_remote_digit.py`."""

from collections import Counter

from sklearn.datasets import load_digits

from producer import Producer

images, digits = load_digits(return_X_y=True)
images, digits = images[1::2].tolist(), digits[1::2].tolist()
with Producer() as producer:
    for _ in range(2):
        pendings = producer.submit_many("remote-digit", images)
        right = sum(pending.result(timeout=60) == digit for pending, digit in zip(pendings, digits, strict=True))
        sources = Counter(pending.source for pending in pendings)
        print(f"{right / len(images):.1%} right of {len(images)};", *(f"{n} {each}" for each, n in sources.items()))
