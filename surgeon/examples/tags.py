"""Reviews of a shop, with any number of tags."""

from __future__ import annotations

import random

from surgeon.examples.wording import Row, Split, of_split

SAYINGS = {
    "delivery": (
        "It arrived two days late",
        "The parcel came quickly",
        "The courier was friendly",
        "Shipping took three weeks",
        "The package was left in the rain",
        "The parcel got lost on the way",
        "Delivery was fast",
        "It took a week to arrive",
        "The courier rang twice",
    ),
    "price": (
        "It is far too expensive",
        "You get a lot for your money",
        "The price is fair",
        "I paid less than in the shop",
        "It is not worth the cost",
        "It was on sale for half the price",
        "It is cheap",
        "That is a lot of money",
        "I would not pay that much again",
    ),
    "quality": (
        "The fabric tore after a week",
        "It is well made",
        "The material feels solid",
        "The colour washed out",
        "The seams are poor",
        "It broke on the first day",
        "The handle fell off",
        "It feels sturdy",
        "The cloth is thin and badly sewn",
    ),
    "service": (
        "The support answered at once",
        "Nobody replied to my mail",
        "The staff on the phone were rude",
        "They helped me with the exchange",
        "The hotline was always busy",
        "A kind lady explained everything to me",
        "Customer service was helpful",
        "They never answer the phone",
        "The support team was rude",
    ),
}
SHARES = {"delivery": 0.4, "price": 0.35, "quality": 0.5, "service": 0.25}
OTHERS = (
    "I bought it for my brother",
    "This is order number {number}",
    "We use it every day",
    "I found it by chance",
    "It was a gift, number {number}",
    "I needed {number} of them",
)


def review(chance: random.Random, split: Split) -> Row:
    """A text, and what it is about. Some are about none of these."""
    tags = [tag for tag, share in SHARES.items() if chance.random() < share]
    parts = [chance.choice(of_split(SAYINGS[tag], split)) for tag in tags]
    parts.append(chance.choice(OTHERS).format(number=chance.randint(2, 99)))
    chance.shuffle(parts)
    return {"text": ". ".join(parts) + ".", "tags": tags}
