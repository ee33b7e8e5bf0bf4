"""Ask for the digit of each image, as an array, twice: `python ask_network.py`."""

from collections import Counter

from sklearn.datasets import load_digits

from producer import Producer

images, digits = load_digits(return_X_y=True)
with Producer() as producer:
    for _ in range(2):
        pendings = producer.submit_many("network", images)
        told = [pending.result(timeout=60)["digit"] for pending in pendings]
        sources = Counter(pending.source for pending in pendings)
        right = sum(one == other for one, other in zip(told, digits, strict=True)) / len(told)
        print(f"{right:.1%} right of {len(told)};", *(f"{n} {each}" for each, n in sources.items()))
