"""Train a forest on scikit-learn's 1,797 images of digits, and keep it with skops: `python train_forest.py`."""

import skops.io
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

images, digits = load_digits(return_X_y=True)
seen, unseen, seen_digits, unseen_digits = train_test_split(images, digits, test_size=0.2, random_state=0)
forest = RandomForestClassifier(n_estimators=30, random_state=0).fit(seen, seen_digits)
skops.io.dump(forest, "forest.skops")
print(f"forest.skops: {forest.score(unseen, unseen_digits):.1%} of {len(unseen)} images it has not seen")
