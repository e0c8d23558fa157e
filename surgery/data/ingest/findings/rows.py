"""Texts that are empty, long or repeated, and ids that are."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.data.files.source import shown
from surgery.data.ingest.findings.finding import finding
from surgery.data.ingest.repeats import Pair, Repeats, repeated_values
from surgery.data.ingest.survey import Survey
from surgery.schemas.data.dataset import Example, Finding, FindingCode

# Few encoders read more than 512 tokens, and English has some 1.3 tokens a word.
LONG_WORDS = 400


def text_findings(survey: Survey, mask: bytes | bytearray) -> list[Finding]:
    """Findings about texts that are half empty, invisible or long."""
    found = []
    for side, split in enumerate(("train", "validation")):
        half = [position for position in survey.half_empty if mask[position] == side]
        if half:
            detail = f"rows of {split} with one text of the pair empty: {len(half):,}"
            places = (survey.places.at(position) for position in half)
            found.append(finding("half_empty_texts", detail, len(half), places))
    if survey.invisible:
        detail = (
            "rows with a word of only invisible characters, which a tokenizer may drop, so that "
            f"its tag is neither learned nor measured: {len(survey.invisible):,}"
        )
        rows = map(survey.places.at, survey.invisible)
        found.append(finding("invisible_words", detail, len(survey.invisible), rows))
    count = sum(1 for words in survey.words if words > LONG_WORDS)
    if count:
        positions = (place for place, words in enumerate(survey.words) if words > LONG_WORDS)
        longest = max(survey.words)
        detail = (
            f"texts of more than {LONG_WORDS} words, whose end an encoder of 512 tokens does not "
            f"read: {count:,}, the longest of {longest:,} words; shorten them or take another model"
        )
        found.append(finding("long_texts", detail, count, map(survey.places.at, positions)))
    return found


def _pairs(survey: Survey, pairs: Sequence[Pair]) -> list[Example]:
    found = []
    for position, earlier in pairs:
        place = survey.places.at(position)
        found.append(Example(file=place.file, row=place.row, same_as=survey.places.at(earlier)))
    return found


def repeat_findings(survey: Survey, repeats: Repeats) -> list[Finding]:
    """Findings about texts and ids that occur more than once."""
    counts = repeats.counts
    kinds: tuple[tuple[FindingCode, str, int, list[Pair]], ...] = (
        (
            "repeated_texts",
            "rows of train that repeat an earlier row's text",
            counts.within_train,
            repeats.within_train,
        ),
        (
            "texts_in_both_splits",
            "rows of validation whose text is in train too, so metrics look too good; leave it out",
            counts.train_and_validation,
            repeats.across,
        ),
        (
            "conflicting_labels",
            "texts that occur with different labels, which no model can all predict; correct them",
            counts.conflicting_labels,
            repeats.conflicting,
        ),
    )
    found = [
        finding(code, f"{detail}: {count:,}", count, _pairs(survey, pairs))
        for code, detail, count, pairs in kinds
        if count
    ]
    return found + _repeated_ids(survey)


def _repeated_ids(survey: Survey) -> list[Finding]:
    """Findings about ids that repeat within a split; ids commonly start anew in the other."""
    found, start = [], 0
    for split in ("train", "validation"):
        count, pairs = repeated_values(survey.ids.hashes, start, start + survey.rows[split])
        if count:
            examples = _pairs(survey, pairs)
            detail = (
                f"rows of the {split} file whose {shown(str(survey.ids.column))!r} is also that "
                f"of an earlier row: {count:,}"
            )
            found.append(finding("repeated_ids", detail, count, examples))
        start += survey.rows[split]
    return found
