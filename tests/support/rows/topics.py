"""Generated texts with several topics each, told by their words: labels that can be learned."""

from __future__ import annotations

import random

from tests.support.rows.ingested import Rows

WORDS = {
    "animal": ("dog", "cat", "horse"),
    "colour": ("red", "green", "blue"),
    "food": ("bread", "soup", "cheese"),
    "weather": ("rain", "snow", "wind"),
}
TOPICS = sorted(WORDS)
SHARES = (0.5, 0.4, 0.3, 0.15)  # of the rows that have each topic
_OTHER = ("the", "a", "near", "and", "then", "was", "it", "old")


def topic_rows(count: int, seed: int) -> Rows:
    """A row has a topic where one of its words is in the text; some rows have none."""
    chance = random.Random(seed)
    rows: Rows = []
    for number in range(count):
        topics = [
            topic for topic, share in zip(TOPICS, SHARES, strict=True) if chance.random() < share
        ]
        words = [chance.choice(WORDS[topic]) for topic in topics]
        words += chance.choices(_OTHER, k=chance.randint(3, 7))
        chance.shuffle(words)
        rows.append({"text": f"{' '.join(words)} {seed} {number}", "labels": topics})
    return rows
