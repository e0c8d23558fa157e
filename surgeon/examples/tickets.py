"""Tickets of customers, each for one of four teams."""

from __future__ import annotations

import random

from surgeon.examples.wording import Row, Split, of_split

# What each team is written to about. The second sentence fits every team, so it tells nothing.
PROBLEMS = {
    "accounts": (
        "I cannot sign in to my account",
        "The link to reset my password has expired",
        "My profile shows the wrong name",
        "I would like to change the email address of my login",
        "My account has been locked",
        "Please delete my user profile",
        "I have forgotten my password",
        "The confirmation code for the login never comes",
        "Somebody else is using my account",
    ),
    "billing": (
        "I was charged twice for one order",
        "The invoice of last month is missing",
        "My credit card was declined",
        "The amount on the bill is wrong",
        "Please send me a receipt",
        "The discount was not taken off the price",
        "I would like a refund",
        "The invoice shows the wrong amount",
        "Why was the money taken from my card again",
    ),
    "delivery": (
        "My parcel has not arrived",
        "The courier left the package at the wrong house",
        "The box was broken when it came",
        "The tracking has not moved for days",
        "I need the order sent to another street",
        "The driver did not ring the bell",
        "Where is my package",
        "The shipment is two weeks late",
        "The parcel was delivered to a neighbour",
    ),
    "technical": (
        "The app crashes when I open it",
        "The screen stays black after the update",
        "The search finds nothing",
        "The page takes forever to load",
        "An error appears when I upload a photo",
        "The download stops in the middle",
        "The program freezes all the time",
        "The new version does not start",
        "The website shows an error",
    ),
}
GREETINGS = ("", "Hello, ", "Good morning, ", "Hi, ", "Dear team, ", "Hello again, ")
REMARKS = (
    "It began on {day}.",
    "I wrote to you on {day} already.",
    "My number is {number}.",
    "I have been a customer for {number} days.",
    "Please answer by {day}.",
    "This is urgent.",
)
CLOSINGS = ("", " Thank you.", " Kind regards.", " Please help.")
MISTAKES = 0.05  # of the tickets went to a team that they were not for
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def ticket(chance: random.Random, split: Split) -> Row:
    """A message, and the team that it was given to."""
    team = chance.choice(sorted(PROBLEMS))
    problem = chance.choice(of_split(PROBLEMS[team], split))
    remark = chance.choice(REMARKS).format(
        day=chance.choice(DAYS), number=chance.randint(1000, 9999)
    )
    text = f"{chance.choice(GREETINGS)}{problem}. {remark}{chance.choice(CLOSINGS)}"
    given = chance.choice(sorted(PROBLEMS)) if chance.random() < MISTAKES else team
    return {"message": text, "team": given}
