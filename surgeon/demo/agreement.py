"""A generated dataset on subject-verb agreement with distractors. Torch is not imported.

"The keys near the cabinet are old." is acceptable, "The keys near the cabinet is old." is not.
The label is the exclusive-or of two grammatical numbers, so no weights of single words predict it.
A noun between subject and verb mostly has the other number than the subject. Only the subject and
the main verb show the subject's number.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = ("acceptable", "unacceptable")
VALIDATION_SHARE = 6  # one row in six
SINGULAR = 0  # the other number is 1


@dataclass(frozen=True)
class Example:
    """A sentence and whether its verb agrees with its subject."""

    sentence: str
    label: str


@dataclass(frozen=True)
class Verb:
    """Both forms of a main verb, and what may follow it. Without complements, adjectives do."""

    singular: str
    plural: str
    complements: tuple[str, ...] = ()


@dataclass(frozen=True)
class NounClass:
    """Nouns that fit into the same sentences. All form their plural with an s."""

    nouns: tuple[str, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[str, ...]
    done_to: tuple[str, ...]  # "the keys that the nurse found"; past tense, so it has no number
    doing: tuple[str, ...]  # "the nurse that thanked the judge"; takes a noun of the same kind


@dataclass(frozen=True)
class Lexicon:
    """The words of one split."""

    people: NounClass
    things: NounClass

    @property
    def nouns(self) -> tuple[str, ...]:
        """All nouns, in the singular."""
        return self.people.nouns + self.things.nouns

    @property
    def verbs(self) -> frozenset[str]:
        """All forms of all main verbs."""
        verbs = self.people.verbs + self.things.verbs
        return frozenset(form for verb in verbs for form in (verb.singular, verb.plural))


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


PREPOSITIONS = ("near", "behind", "beside", "next to", "opposite", "close to", "in front of")
_FEELINGS = _words("tired happy young tall famous angry friendly busy calm")
_LOOKS = _words("old new large small heavy dirty clean broken expensive")
_HELPED = _words("praised helped thanked greeted hired ignored called")
_MOVED = _words("painted bought found moved repaired sold described")
_FACED = _words("faced touched blocked hid")

# No noun and no main verb of one split occurs anywhere in the other.
TRAIN = Lexicon(
    people=NounClass(
        nouns=_words(
            "author pilot nurse farmer teacher singer lawyer driver student soldier painter "
            "officer guard senator dancer judge"
        ),
        verbs=(
            Verb("is", "are"),
            Verb("was", "were"),
            Verb("seems", "seem"),
            Verb("has", "have", ("disappeared", "arrived", "improved")),
        ),
        adjectives=_FEELINGS,
        done_to=_HELPED,
        doing=_HELPED,
    ),
    things=NounClass(
        nouns=_words(
            "key cabinet window table lamp chair bottle basket bridge car boat door wall mirror "
            "clock house"
        ),
        verbs=(
            Verb("is", "are"),
            Verb("was", "were"),
            Verb("seems", "seem"),
            Verb("has", "have", ("disappeared", "changed", "fallen")),
        ),
        adjectives=_LOOKS,
        done_to=_MOVED,
        doing=_FACED,
    ),
)
VALIDATION = Lexicon(
    people=NounClass(
        nouns=_words("doctor writer engineer poet manager actor sailor banker king neighbor"),
        verbs=(
            Verb("looks", "look"),
            Verb("appears", "appear"),
            Verb("remains", "remain"),
            Verb("does", "do", ("not agree", "not listen", "not work")),
        ),
        adjectives=_FEELINGS,
        done_to=_HELPED,
        doing=_HELPED,
    ),
    things=NounClass(
        nouns=_words("picture tower ship truck garden desk gate statue tree drawer"),
        verbs=(
            Verb("looks", "look"),
            Verb("appears", "appear"),
            Verb("remains", "remain"),
            Verb("does", "do", ("not move", "not matter", "not fit")),
        ),
        adjectives=_LOOKS,
        done_to=_MOVED,
        doing=_FACED,
    ),
)


class Scene:
    """The parts of one sentence: a subject and other nouns, in which no noun occurs twice."""

    def __init__(self, source: random.Random, lexicon: Lexicon) -> None:
        self.random = source
        self.lexicon = lexicon
        self.kind = self.any_kind()
        self.number = source.randrange(2)
        self._used: set[str] = set()
        self.subject = self.noun(self.kind, self.number)

    def noun(self, kind: NounClass, number: int) -> str:
        """An article and a noun that the sentence does not contain yet."""
        singular = self.random.choice([noun for noun in kind.nouns if noun not in self._used])
        self._used.add(singular)
        return f"the {singular}" if number == SINGULAR else f"the {singular}s"

    def near_verb(self, kind: NounClass | None = None) -> str:
        """The last noun before the verb."""
        return self._distractor(kind, 3 / 5)

    def far(self, kind: NounClass | None = None) -> str:
        """A noun farther from the verb."""
        return self._distractor(kind, 4 / 5)

    def _distractor(self, kind: NounClass | None, share: float) -> str:
        """A noun whose number differs from the subject's with this probability."""
        other = self.random.random() < share
        return self.noun(kind or self.any_kind(), 1 - self.number if other else self.number)

    def any_kind(self) -> NounClass:
        """People or things, at random."""
        return self.random.choice((self.lexicon.people, self.lexicon.things))

    def place(self) -> str:
        """A random preposition."""
        return self.random.choice(PREPOSITIONS)


def _alone(scene: Scene) -> str:
    return scene.subject


def _phrase(scene: Scene) -> str:
    return f"{scene.subject} {scene.place()} {scene.near_verb()}"


def _two_phrases(scene: Scene) -> str:
    return f"{scene.subject} {scene.place()} {scene.far()} {scene.place()} {scene.near_verb()}"


def _fronted(scene: Scene) -> str:
    return f"{scene.place()} {scene.far()}, {_phrase(scene)}"


def _done_to(scene: Scene) -> str:
    agent = scene.near_verb(scene.lexicon.people)
    return f"{scene.subject} that {agent} {scene.random.choice(scene.kind.done_to)}"


def _doing(scene: Scene) -> str:
    verb = scene.random.choice(scene.kind.doing)
    return f"{scene.subject} that {verb} {scene.near_verb(scene.kind)}"


# Repetition sets how often a template is drawn. A model learns the rule from the short ones first.
TEMPLATES: tuple[Callable[[Scene], str], ...] = (
    *[_alone] * 5,
    *[_phrase] * 5,
    _two_phrases,
    _fronted,
    _done_to,
    _doing,
)


def generate(rows: int = 3000, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Training and validation rows with equally large classes, in which no sentence occurs twice.

    A sixth of the rows is for validation. Their nouns and main verbs never occur in training rows.
    """
    source = random.Random(seed)  # noqa: S311
    held_out = rows // VALIDATION_SHARE
    return _split(source, TRAIN, rows - held_out), _split(source, VALIDATION, held_out)


def _split(source: random.Random, lexicon: Lexicon, rows: int) -> list[Example]:
    examples: dict[str, Example] = {}
    while len(examples) < rows:
        label = LABELS[len(examples) % 2]
        sentence = _sentence(source, lexicon, agrees=label == LABELS[0])
        examples.setdefault(sentence, Example(sentence, label))
    shuffled = list(examples.values())
    source.shuffle(shuffled)
    return shuffled


def _sentence(source: random.Random, lexicon: Lexicon, *, agrees: bool) -> str:
    scene = Scene(source, lexicon)
    verb = source.choice(scene.kind.verbs)
    form = (verb.singular, verb.plural)[scene.number if agrees else 1 - scene.number]
    complement = source.choice(verb.complements or scene.kind.adjectives)
    text = f"{source.choice(TEMPLATES)(scene)} {form} {complement}."
    return text[0].upper() + text[1:]


def write_csv(folder: Path, rows: int = 3000, seed: int = 0) -> tuple[Path, Path]:
    """Write ``train.csv`` and ``validation.csv`` with the columns ``sentence`` and ``label``."""
    folder.mkdir(parents=True, exist_ok=True)
    train, validation = generate(rows, seed)
    return (
        _write(folder / "train.csv", train),
        _write(folder / "validation.csv", validation),
    )


def _write(path: Path, examples: Sequence[Example]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sentence", "label"))
        writer.writerows((example.sentence, example.label) for example in examples)
    return path
