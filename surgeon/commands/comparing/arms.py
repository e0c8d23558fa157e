"""What `--arm` may say: a way to train, and options of this arm alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from surgeon.commands.options import Json, finite, selection_of
from surgery.errors import SurgeryError, nearest
from surgery.schemas.enums import METHODS, POLICIES, Granularity, Policy
from surgery.schemas.options.layer_schedule import SCHEDULE_OPTIONS, layer_schedule_from

GRAMMAR = "[NAME:]WAY[,OPTION=VALUE]…"
ADAPTERS = ("lora", "bitfit")
LONGEST_NAME = 64
SCHEDULE = tuple(option.name for option in SCHEDULE_OPTIONS)


@dataclass(frozen=True)
class ArmText:
    """An arm as it was written, split into its parts."""

    text: str
    name: str
    way: str
    value: str
    options: Mapping[str, str]

    def wrong(self, detail: str) -> typer.BadParameter:
        """The error that an arm cannot be read, which quotes it."""
        return typer.BadParameter(f"{self.text!r}: {detail}")

    def number(self, value: str) -> int:
        """A whole number, not below zero. Raises BadParameter."""
        if not re.fullmatch(r"[0-9]{1,18}", value.strip()):  # isdigit would accept ²
            raise self.wrong(f"{value!r} is no whole number")
        return int(value)

    def fraction(self, value: str) -> float:
        """A finite number. Raises BadParameter."""
        try:
            return finite(value)
        except typer.BadParameter as error:
            raise self.wrong(str(error)) from None

    def choice(self, value: str, choices: Iterable[str]) -> str:
        """One of some words. Raises BadParameter."""
        known = [str(each) for each in choices]
        if value not in known:
            raise self.wrong(f"{value!r} is none of {', '.join(known)}")
        return value


@dataclass(frozen=True)
class ArmOption:
    """An option of an arm: what it needs, and which fields of the arm it sets."""

    needs: str  # in words, for the error where it has no meaning
    fits: Callable[[str], bool]  # whether it means something to a way to train
    read: Callable[[ArmText, str], Json]


def _policy(way: str) -> Policy | None:
    return Policy(way) if way in [*Policy] else None


def _ranked(way: str) -> bool:
    policy = _policy(way)
    return policy is not None and POLICIES[policy].needs_ranking


def _rates(arm: ArmText, value: str) -> Json:
    return {"learning_rates": [arm.fraction(part) for part in value.split(",")]}


def _ranking(arm: ArmText, value: str) -> Json:
    return {"selection": {"ranking": {"method": arm.choice(value, METHODS)}}}


def _of_layers(takes: str) -> Callable[[str], bool]:
    """Whether a way is a policy that takes this field of a selection."""

    def fits(way: str) -> bool:
        policy = _policy(way)
        return policy is not None and bool(getattr(POLICIES[policy], takes))

    return fits


def _schedule(arm: ArmText, _: str) -> Json:
    """The schedule by all of its options, whichever of them comes first."""
    given = {name: arm.options.get(name) for name in SCHEDULE}
    numbers = {name: None if v is None else arm.number(v) for name, v in given.items()}
    try:
        return {"layer_schedule": layer_schedule_from(numbers)}
    except SurgeryError as error:
        words = re.sub(r"--[a-z-]+", lambda m: m[0][2:].replace("-", "_"), str(error))
        raise arm.wrong(words) from error


OPTIONS: dict[str, ArmOption] = {
    "learning_rate": ArmOption(
        "", lambda _: True, lambda arm, value: {"learning_rate": arm.fraction(value)}
    ),
    "learning_rates": ArmOption("", lambda _: True, _rates),
    "method": ArmOption("a policy that chooses by a ranking", _ranked, _ranking),
    "ranking": ArmOption(
        "a policy that chooses by a ranking",
        _ranked,
        lambda _, value: {"selection": {"ranking": value}},
    ),
    "search": ArmOption(
        "policy search",
        _of_layers("searches"),
        lambda _, value: {"selection": {"search": value}},
    ),
    "granularity": ArmOption(
        "a policy that chooses layers",
        _of_layers("takes_granularity"),
        lambda arm, value: {"selection": {"granularity": arm.choice(value, Granularity)}},
    ),
    "include": ArmOption(
        "a policy",
        _of_layers("takes_include"),
        lambda _, value: {"selection": {"include": [p.strip() for p in value.split(",")]}},
    ),
    "seed": ArmOption(
        "policy random_k",
        _of_layers("takes_seed"),
        lambda arm, value: {"selection": {"seed": arm.number(value)}},
    ),
    "alpha": ArmOption(
        "lora", "lora".__eq__, lambda arm, value: {"adapter": {"alpha": arm.fraction(value)}}
    ),
    "dropout": ArmOption(
        "lora", "lora".__eq__, lambda arm, value: {"adapter": {"dropout": arm.fraction(value)}}
    ),
    **dict.fromkeys(
        SCHEDULE, ArmOption("a policy", lambda way: _policy(way) is not None, _schedule)
    ),
}


def arm_from(text: str) -> Json:
    """Read an arm such as `top_k=2`, `layers=1,4,learning_rate=1e-4` or `few: lora=4`.

    Raises BadParameter.
    """
    arm = _split(text)
    if "learning_rate" in arm.options and "learning_rates" in arm.options:
        raise arm.wrong("learning_rate and learning_rates: leave one of them out")
    if "method" in arm.options and "ranking" in arm.options:
        raise arm.wrong("method and ranking both say which ranking: leave one of them out")
    body: Json = {"name": arm.name, **_way(arm)}
    for name, value in arm.options.items():
        for field, read in _option(arm, name).read(arm, value).items():
            body[field] = body[field] | read if isinstance(body.get(field), dict) else read
    if len(arm.name) > LONGEST_NAME:  # last, since it may be long by what is wrong with it
        raise arm.wrong("name this arm shorter, as in NAME:all")
    return body


def _split(text: str) -> ArmText:
    """Split at commas; a part without `=` goes on with the list of the part before it."""
    label, colon, rest = text.rpartition(":")
    first, *parts = rest.split(",")
    written, equals, value = first.partition("=")
    options: dict[str, str] = {}
    last = ""
    for part in parts:
        name, given, own = part.partition("=")
        name = name.strip().replace("-", "_")
        if given and name in options:
            raise typer.BadParameter(f"{text!r}: {name} is given twice")
        if given:
            last, options[name] = name, own.strip()
        elif last:
            options[last] += f",{part.strip()}"
        elif equals:
            value += f",{part.strip()}"
        else:
            raise typer.BadParameter(f"{text!r}: {part.strip()!r} is no OPTION=VALUE")
    name = label.strip() if colon else _plain(f"{written} {value}")
    name = _named(text, name, options, given=bool(colon))
    return ArmText(text, name, written.strip().replace("-", "_"), value, options)


def _plain(words: str) -> str:
    """Words as a part of a name."""
    return re.sub(r"[^\w.]+", "-", words.strip()).strip("-")


def _named(text: str, name: str, options: Mapping[str, str], *, given: bool) -> str:
    """The given name, or else one that tells the options' values too."""
    if given and not re.fullmatch(r"[\w.+-]+(?: [\w.+-]+)*", name):
        raise typer.BadParameter(f"{text!r}: {name!r} is no name; write letters, digits, . + - _")
    return name if given else "-".join([name, *(_plain(value) for value in options.values())])


def _option(arm: ArmText, name: str) -> ArmOption:
    """An option that means something to the arm. Raises BadParameter."""
    option = OPTIONS.get(name)
    if option is None:
        near = nearest(name, list(OPTIONS))
        hint = f"did you mean {near!r}?" if near else f"the options are {', '.join(OPTIONS)}"
        raise arm.wrong(f"{name!r} is no option of an arm; {hint}")
    if not option.fits(arm.way):
        raise arm.wrong(f"{name} goes with {option.needs}, and means nothing to {arm.way}")
    if not arm.options[name]:
        raise arm.wrong(f"{name} has no value; write {name}=…")
    return option


def _way(arm: ArmText) -> Json:
    """The selection or the adapter. Raises BadParameter."""
    word, value = arm.way, arm.value
    if word == "bitfit" and value:
        raise arm.wrong("write bitfit, which takes no number")
    if word in ADAPTERS:
        rank = {"rank": arm.number(value)} if value else {}
        return {"adapter": {"type": word, **rank}}
    known = [policy.value for policy in Policy]
    if word not in known:
        raise typer.BadParameter(f"{arm.text!r} is none of {', '.join([*known, *ADAPTERS])}")
    takes = POLICIES[Policy(word)].takes
    if (takes is not None) != bool(value):
        raise arm.wrong(f"write {word}{'=…' if takes else ''}")
    given: Any = value or True
    if takes is not None and word != Policy.LAYERS:
        given = _share(arm) if word == Policy.TOP_SHARE else arm.number(value)
    return {"selection": selection_of({word: given})}


def _share(arm: ArmText) -> float:
    try:
        return finite(arm.value)
    except typer.BadParameter as error:
        raise arm.wrong(f"{error}; write a share as in top_share=0.8") from None
