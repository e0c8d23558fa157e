"""Batches of choices and of tagged words, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertTokenizer, RobertaTokenizer

from surgery.data.tokens.cache import SplitName, encode_split
from surgery.data.tokens.dataset import BATCH_TOKENS, Encoded, TaskData, batches_by_length
from surgery.data.tokens.sequences import IGNORED
from surgery.data.tokens.tokenize import encode
from surgery.errors import DatasetInvalid
from surgery.schemas.enums import Problem

PAD, CLS, SEP = 0, 2, 3
A = 5  # the id of the letter a


@pytest.fixture
def letters() -> Any:
    """One token a letter; a word of two letters is two tokens."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefgh",
        *(f"##{c}" for c in "abcdefgh"),
    ]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def ids_of(text: str) -> list[int]:
    return [A + ord(letter) - ord("a") for letter in text.replace(" ", "")]


def choices(rows: int = 2) -> Dataset:
    return Dataset.from_list(
        [
            {"text": "a b", "text_pair": "c", "choices": ["d", "e f g"], "label": 1},
            {"text": "a", "text_pair": "", "choices": ["b", "c"], "label": 0},
        ][:rows]
    )


def test_a_choice_follows_its_text_and_question(letters: Any) -> None:
    batch = encode(choices(), letters, 32).batch([0, 1])
    assert batch["input_ids"].shape == (2, 2, 9)
    assert batch["labels"].tolist() == [1, 0]
    longest = [CLS, *ids_of("a b"), SEP, *ids_of("c e f g"), SEP]
    assert batch["input_ids"][0, 1].tolist() == longest
    assert batch["token_type_ids"][0, 1].tolist() == [0] * 4 + [1] * 5
    shorter = [CLS, *ids_of("a b"), SEP, *ids_of("c d"), SEP]
    assert batch["input_ids"][0, 0].tolist() == [*shorter, PAD, PAD]
    assert batch["attention_mask"][0, 0].tolist() == [1] * 7 + [0] * 2
    # Without a question the choice stands alone.
    assert batch["input_ids"][1, 1].tolist()[:5] == [CLS, A, SEP, *ids_of("c"), SEP]


def test_choices_without_a_text_are_no_pairs(letters: Any) -> None:
    table = choices().remove_columns(["text", "text_pair"])
    batch = encode(table, letters, 32).batch([1])
    assert batch["input_ids"].tolist() == [[[CLS, *ids_of("b"), SEP], [CLS, *ids_of("c"), SEP]]]
    assert not batch["token_type_ids"].any()


def test_a_row_of_choices_costs_all_its_padded_tokens(letters: Any) -> None:
    encoded = encode(choices(), letters, 32)
    assert len(encoded) == 2
    assert encoded.lengths.tolist() == [18, 10]
    assert list(batches_by_length(encoded.lengths, None, tokens=35)) == [[0], [1]]
    assert list(batches_by_length(encoded.lengths, None, tokens=36)) == [[0, 1]]
    assert replace(encoded, pad_to=20).lengths.tolist() == [40, 40]
    assert encode(choices(), letters, 6).lengths.tolist() == [12, 10]


def test_a_batch_of_many_choices_stays_within_the_budget(letters: Any) -> None:
    table = Dataset.from_list([{"choices": ["a b c"] * 64, "label": 0}] * 30)
    encoded = encode(table, letters, 32)
    batches = list(batches_by_length(encoded.lengths, None))
    assert sum(map(len, batches)) == 30
    assert max(encoded.batch(rows)["input_ids"].numel() for rows in batches) <= BATCH_TOKENS


def tagged(*rows: tuple[str, list[int]]) -> Dataset:
    return Dataset.from_list([{"tokens": words.split(), "label": tags} for words, tags in rows])


def test_a_word_is_tagged_at_its_first_token(letters: Any) -> None:
    encoded = encode(tagged(("ab c", [3, 4]), ("d", [5])), letters, 32)
    batch = encoded.batch([0, 1])
    assert batch["input_ids"].shape == (2, 5)
    no = IGNORED
    assert batch["labels"].tolist() == [[no, 3, no, 4, no], [no, 5, no, no, no]]
    assert encoded.targets.tolist() == [3, 4, 5]
    assert encoded.tag_offsets.tolist() == [0, 2, 3]
    left = replace(encoded, pad_left=True).batch([0, 1])
    assert left["labels"][1].tolist() == [no, no, no, 5, no]
    assert left["input_ids"][1].tolist() == [PAD, PAD, CLS, *ids_of("d"), SEP]


def test_a_word_that_is_cut_off_or_leaves_no_token_has_no_tag(letters: Any) -> None:
    encoded = encode(tagged(("a b c d", [1, 2, 3, 4]), ("\u200b e", [5, 6])), letters, 4)
    assert encoded.targets.tolist() == [1, 2, 6]
    assert encoded.tag_offsets.tolist() == [0, 2, 3]


def test_words_of_a_byte_level_tokenizer_keep_their_spaces() -> None:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*specials, *"ab", "Ġ", "Ġa", "Ġb"]
    tokenizer = RobertaTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[("Ġ", "a"), ("Ġ", "b")],
    )
    encoded = encode(tagged(("a b ab", [1, 2, 3])), tokenizer, 16)
    assert encoded.ids.tolist() == tokenizer("a b ab")["input_ids"]
    assert encoded.batch([0])["labels"].tolist() == [[IGNORED, 1, 2, 3, IGNORED, IGNORED]]


def test_texts_are_encoded_as_ever(letters: Any) -> None:
    table = Dataset.from_list([{"text": "a", "text_pair": "b c", "label": 0.5}])
    encoded: Encoded = encode(table, letters, 16)
    batch = encoded.batch([0])
    assert batch["input_ids"].tolist() == [[CLS, A, SEP, *ids_of("b c"), SEP]]
    assert batch["labels"].tolist() == [0.5]
    assert (encoded.lengths == np.array([6])).all()
    assert encoded.targets is encoded.labels


@pytest.mark.parametrize("split", ["train", "validation"])
def test_data_of_which_no_word_is_left_are_refused(letters: Any, split: SplitName) -> None:
    good = Dataset.from_list([{"tokens": ["a", "b"], "label": [0, 1]}] * 2)
    lost = Dataset.from_list([{"tokens": ["\u200b"], "label": [0]}] * 2)
    tables = {"train": good, "validation": good, split: lost}
    data = TaskData(
        **tables, problem=Problem.TOKEN_CLASSIFICATION, labels=["O", "B"], metrics=("accuracy",)
    )
    for name in ("train", "validation"):
        if name != split:
            assert len(encode_split(data, name, letters, 16)) == 2
    with pytest.raises(DatasetInvalid, match=f"no word of the {split} rows is left"):
        encode_split(data, split, letters, 16)
