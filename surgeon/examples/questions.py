"""Questions about places to visit, each beside a passage that answers it with yes or no."""

from __future__ import annotations

import random
from dataclasses import dataclass

from surgeon.examples.wording import Row, Split, of_split


@dataclass(frozen=True)
class Fact:
    """What may be asked of a place, and what a passage says where the answer is yes, or no."""

    question: str
    yes: tuple[str, ...]
    no: tuple[str, ...]


FACTS = (
    Fact(
        "Are dogs allowed in {place}?",
        ("Dogs are welcome", "You may bring your dog", "Pets can come along"),
        ("Dogs must stay outside", "No animals are permitted", "Pets cannot come in"),
    ),
    Fact(
        "Is {place} open on Sundays?",
        ("It is open every day", "The doors open on Sundays as well", "It is open all week"),
        ("It is closed at the weekend", "On Sundays the doors stay shut", "It is not open then"),
    ),
    Fact(
        "Is parking free at {place}?",
        ("Parking costs nothing", "There is a free car park", "Cars can stay free of charge"),
        ("The car park charges by the hour", "Parking is not free", "Drivers have to pay"),
    ),
    Fact(
        "Can I pay by card at {place}?",
        ("All cards are accepted", "You can pay by card", "Card payments are welcome"),
        ("Only cash is accepted", "They do not take cards", "Cards are not accepted"),
    ),
    Fact(
        "Can wheelchairs get into {place}?",
        ("A ramp leads inside", "Wheelchairs can get everywhere", "All rooms have wide doors"),
        ("There are only steep stairs", "Wheelchairs cannot get in", "Steps are in the way"),
    ),
)
PLACES = (
    *("museum", "hotel", "library", "café", "swimming pool", "castle", "theatre", "campsite"),
    *("gallery", "zoo", "restaurant", "market hall"),
)


def question(chance: random.Random, split: Split) -> Row:
    """A question, a passage that says the answer twice, and the answer."""
    place = f"the {chance.choice(of_split(PLACES, split))}"
    fact = chance.choice(FACTS)
    answer = chance.choice(("yes", "no"))
    said = ". ".join(chance.sample(fact.yes if answer == "yes" else fact.no, 2))
    passage = f"{place.capitalize()} is in the old town. {said}."
    return {"question": fact.question.format(place=place), "passage": passage, "answer": answer}
