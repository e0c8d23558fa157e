"""Words of news, tagged where they name a person, an organisation or a place."""

from __future__ import annotations

import random

from surgeon.examples.wording import Row, Split, of_split

# A name in braces is replaced by one of its kind.
SENTENCES = (
    "{PER} joined {ORG} in {LOC} last year .",
    "{ORG} opens an office in {LOC} .",
    "The mayor of {LOC} thanked {PER} .",
    "{PER} flew from {LOC} to {LOC} .",
    "Shares of {ORG} fell after {PER} left .",
    "{ORG} and {ORG} will merge , said {PER} .",
    "It rained in {LOC} all week .",
    "The meeting was moved to Tuesday .",
    "{PER} , who lives in {LOC} , works for {ORG} .",
    "Two engineers of {ORG} were hurt near {LOC} .",
    "According to {PER} , prices rise again .",
    "The team from {LOC} lost against {LOC} .",
)
NAMES = {
    "PER": (
        *("Anna Keller", "Peter Novak", "Maria Rossi", "John Brown", "Laura Jensen", "Haddad"),
        *("Omar Haddad", "Elena Silva", "David Weber", "Rossi", "Sofia Moreau", "Martin Fischer"),
        *("Nina Lopez", "Paul Tanaka", "Moreau", "Emma Clark", "Robert Hansen", "Tanaka"),
    ),
    "ORG": (
        *("Northwind Bank", "Acme", "Blue River Energy", "Orbis Airlines", "Helio", "Delta Foods"),
        *("Vertex Software", "Global Steel", "Union Insurance", "Star Media", "Nordic Oil"),
        "Ikaros",
    ),
    "LOC": (
        *("London", "Paris", "New York", "Madrid", "Oslo", "Cape Town", "Tokyo", "Lima"),
        *("Vienna", "Chicago", "Rio de Janeiro", "Dublin"),
    ),
}


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
        name = chance.choice(of_split(NAMES[kind], split)).split()
        tokens += name
        tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
    return {"tokens": tokens, "tags": tags}
