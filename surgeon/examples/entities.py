"""Words of news, tagged where they name a person, an organisation or a place."""

from __future__ import annotations

import random

from surgeon.examples.wording import Row, Split, of_split, words

# A name in braces is replaced by one of its kind.
SENTENCES = (
    "{PER} joined {ORG} in {LOC} last year .",
    "{ORG} opens an office in {LOC} .",
    "The mayor of {LOC} thanked {PER} .",
    "{PER} flew from {LOC} to {LOC} .",
    "Shares of {ORG} fell after {PER} left .",
    "{ORG} and {ORG} will merge , said {PER} .",
    "It rained in {LOC} all week .",
    "{PER} , who lives in {LOC} , works for {ORG} .",
    "Two engineers of {ORG} were hurt near {LOC} .",
    "According to {PER} , prices rise again .",
    "The team from {LOC} lost against {LOC} .",
)
FIRST_NAMES = words(
    "Anna Peter Maria John Laura Omar Elena David Sofia Martin Nina Paul Emma Robert Ingrid Carlos "
    "Alice Thomas Fatima Andrew Lucia Henry Clara Ahmed Helen Victor Grace Simon Rosa Daniel"
)
LAST_NAMES = words(
    "Keller Novak Rossi Brown Jensen Haddad Silva Weber Moreau Fischer Lopez Tanaka Clark Hansen "
    "Schmidt Murphy Costa Nilsson Bauer Ivanov Martinez Dubois Wilson Kowalski Meyer Khan Ferrari "
    "Cooper Lindberg Romano"
)
ORGANISATIONS = (
    *("Northwind Bank", "Acme", "Blue River Energy", "Orbis Airlines", "Siemens", "Delta Foods"),
    *("Vertex Software", "Global Steel", "Nokia", "Union Insurance", "Star Media", "Toyota"),
    *("Nordic Oil", "Atlas Motors", "Intel", "Pacific Bank", "Royal Mail", "Sony", "Lufthansa"),
    *("General Electric", "Sunrise Airlines", "Volvo", "Mercury Insurance", "Central Bank"),
    *("Boeing", "Eastern Steel", "Bright Software", "Pfizer", "Ocean Foods", "Unilever"),
)
PLACES = (
    *("London", "Paris", "New York", "Madrid", "Oslo", "Cape Town", "Tokyo", "Lima", "Vienna"),
    *("Chicago", "Rio de Janeiro", "Dublin", "Brazil", "Canada", "Mexico City", "Prague", "Kenya"),
    *("Sydney", "Warsaw", "New Zealand", "Rome", "Moscow", "Buenos Aires", "Cairo", "India"),
    *("Boston", "Lisbon", "South Korea", "Athens", "Stockholm"),
)
FULL_NAMES = 0.7  # of the persons have a first name


def sentence(chance: random.Random, split: Split) -> Row:
    """Words, and a tag for each: `B-` where a name begins, `I-` where it goes on, else `O`."""
    tokens: list[str] = []
    tags: list[str] = []
    for word in chance.choice(SENTENCES).split():
        kind = word.strip("{}")
        if kind == word:
            tokens.append(word)
            tags.append("O")
            continue
        name = _name(kind, chance, split)
        tokens += name
        tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
    return {"tokens": tokens, "tags": tags}


def _name(kind: str, chance: random.Random, split: Split) -> list[str]:
    if kind != "PER":
        names = ORGANISATIONS if kind == "ORG" else PLACES
        return chance.choice(of_split(names, split)).split()
    last = chance.choice(of_split(LAST_NAMES, split))
    full = chance.random() < FULL_NAMES
    return [chance.choice(of_split(FIRST_NAMES, split)), last] if full else [last]
