"""What a text is about: a model of ten lines, without a framework."""

import re
from collections import Counter
from collections.abc import Sequence

from workers import Model


class Keywords(Model[str, list[str]]):
    """Tells a text's three most frequent words of five letters or more."""

    name = "keywords"  # no version: a digest of this file, so that changed code never answers from old entries

    examples = ("A cache keeps answers.", "Nothing much.")  # what `foreseen check` tries, and workers warm up with

    def predict(self, batch: Sequence[str]) -> list[list[str]]:
        """Tell each text's keywords."""
        counts = [Counter(re.findall(r"\w{5,}", text.lower())) for text in batch]
        return [[word for word, _ in each.most_common(3)] for each in counts]
