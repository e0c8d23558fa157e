"""The generated agreement data."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from surgeon.demo.agreement import LABELS, TRAIN, VALIDATION, Example, generate, write_csv

TRAIN_ROWS, VALIDATION_ROWS = generate()


def words(examples: list[Example]) -> set[str]:
    return {word for e in examples for word in re.findall(r"[a-z]+", e.sentence.lower())}


def forms(nouns: tuple[str, ...]) -> set[str]:
    return {form for noun in nouns for form in (noun, f"{noun}s")}


def test_a_sixth_is_validation() -> None:
    assert len(TRAIN_ROWS) == 2500
    assert len(VALIDATION_ROWS) == 500


@pytest.mark.parametrize("split", [TRAIN_ROWS, VALIDATION_ROWS])
def test_classes_are_equally_large(split: list[Example]) -> None:
    for label in LABELS:
        assert sum(example.label == label for example in split) == len(split) / 2


def test_no_sentence_occurs_twice() -> None:
    sentences = [example.sentence for example in TRAIN_ROWS + VALIDATION_ROWS]
    assert len(set(sentences)) == len(sentences)


def test_nouns_and_verbs_of_validation_never_occur_in_train() -> None:
    held_out = forms(VALIDATION.nouns) | VALIDATION.verbs
    assert held_out <= words(VALIDATION_ROWS)
    assert not held_out & words(TRAIN_ROWS)
    assert not (forms(TRAIN.nouns) | TRAIN.verbs) & words(VALIDATION_ROWS)


def test_the_same_seed_gives_the_same_rows() -> None:
    assert generate(300, seed=7) == generate(300, seed=7)
    assert generate(300, seed=7) != generate(300, seed=8)


def test_most_sentences_with_a_distractor_hold_one_of_the_other_number() -> None:
    singulars = set(TRAIN.nouns)
    found = [re.findall(r"\bthe (\w+)", e.sentence.lower()) for e in TRAIN_ROWS]
    distracted = [nouns for nouns in found if len(nouns) > 1]
    mixed = [nouns for nouns in distracted if len({noun in singulars for noun in nouns}) == 2]
    assert len(distracted) / len(found) > 0.55
    assert len(mixed) / len(distracted) > 0.55


def bag_of_words(longest: int = 1) -> Pipeline:
    """Counts of words, or of neighbours too, into a logistic regression."""
    return make_pipeline(
        CountVectorizer(ngram_range=(1, longest)), LogisticRegression(max_iter=1000)
    )


@pytest.mark.parametrize("longest", [1, 2])
def test_a_bag_of_words_stays_near_chance_on_validation(longest: int) -> None:
    model = bag_of_words(longest)
    model.fit([e.sentence for e in TRAIN_ROWS], [e.label for e in TRAIN_ROWS])
    score = model.score([e.sentence for e in VALIDATION_ROWS], [e.label for e in VALIDATION_ROWS])
    assert abs(score - 0.5) < 0.07  # three standard errors of 500 rows


def test_a_bag_of_words_stays_near_chance_on_known_words() -> None:
    texts, labels = [e.sentence for e in TRAIN_ROWS], [e.label for e in TRAIN_ROWS]
    scores = cross_val_score(bag_of_words(), texts, labels, cv=5)
    assert abs(scores.mean() - 0.5) < 0.04  # four standard errors of 2,500 rows


def test_written_files_hold_the_rows(tmp_path: Path) -> None:
    paths = write_csv(tmp_path / "new", rows=60, seed=3)
    assert [path.name for path in paths] == ["train.csv", "validation.csv"]
    for path, examples in zip(paths, generate(60, seed=3), strict=True):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows == [{"sentence": e.sentence, "label": e.label} for e in examples]
