"""Rows become the tokens that the model's own tokenizer makes of them."""

from __future__ import annotations

from itertools import chain, product
from string import ascii_lowercase

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.tokens.tokenize import encode, tokenizer_fingerprint
from surgery.errors import ModelUnsupported
from tests.support.models.tokenizers import tokenizer_of
from tests.support.rows.encoded import ROWS, same

LENGTH = 8


@pytest.mark.parametrize("kind", ["text", "pair"])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlnet", "mpnet"])
def test_tokens_are_those_of_the_tokenizer_as_users_call_it(kind: str, model_type: str) -> None:
    tokenizer = tokenizer_of(model_type)
    table = Dataset.from_list(ROWS[kind])
    texts = [list(table[name]) for name in ("text", "text_pair") if name in table.column_names]
    cut = tokenizer(*texts, truncation=True, max_length=LENGTH)
    uncut = tokenizer(*texts)
    found = encode(table, tokenizer, LENGTH)
    assert found.ids.tolist() == list(chain(*cut["input_ids"]))
    assert found.whole.tolist() == list(map(len, uncut["input_ids"]))
    assert (found.types is None) == ("token_type_ids" not in cut)
    if found.types is not None:
        assert found.types.tolist() == list(chain(*cut["token_type_ids"]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlnet", "mpnet", "albert"])
def test_pairs_of_all_lengths_are_cut_as_the_tokenizer_cuts(model_type: str, side: str) -> None:
    tokenizer = tokenizer_of(model_type)
    tokenizer.truncation_side = side
    texts = [" ".join(ascii_lowercase[:count]) for count in range(10)]
    firsts, seconds = zip(*product(texts, texts[:8]), strict=True)
    table = Dataset.from_dict(
        {"text": firsts, "text_pair": seconds, "label": [0] * len(firsts)}
    )  # fmt: skip
    for length in range(4, 15):
        for columns in (["text"], ["text", "text_pair"]):
            given = [list(table[name]) for name in columns]
            expected = tokenizer(*given, truncation=True, max_length=length)
            found = encode(table.select_columns([*columns, "label"]), tokenizer, length)
            rows = np.split(found.ids, found.offsets[1:-1])
            assert [row.tolist() for row in rows] == expected["input_ids"]


def test_words_are_cut_with_their_tags() -> None:
    tokenizer = tokenizer_of("bert")
    for side, tags in (("right", [1, 2]), ("left", [5, 6])):
        tokenizer.truncation_side = side
        found = encode(Dataset.from_list(ROWS["tags"][:1]), tokenizer, 4)
        assert found.targets.tolist() == tags


def test_long_rows_are_tokenised_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of("bert")
    table = Dataset.from_list(ROWS["choices"] * 4)
    whole = encode(table, tokenizer, LENGTH)
    for characters in (1, 12, 40):
        monkeypatch.setattr("surgery.data.tokens.tokenize.TOKENIZE_CHARACTERS", characters)
        assert same(encode(table, tokenizer, LENGTH), whole)


def test_encoding_leaves_the_tokenizer_as_it_was() -> None:
    tokenizer = tokenizer_of("bert")
    backend = tokenizer.backend_tokenizer
    for set_up in (
        lambda: None,
        lambda: (backend.enable_truncation(3, stride=1), backend.enable_padding(length=5)),
    ):
        set_up()
        before = backend.to_str()
        encode(Dataset.from_list(ROWS["tags"]), tokenizer, LENGTH)
        tokenizer_fingerprint(tokenizer)
        assert backend.to_str() == before


def test_a_tokenizer_in_python_is_refused() -> None:
    class Slow:
        is_fast = False
        model_input_names = ("input_ids", "attention_mask")
        pad_token_id = pad_token_type_id = 0
        padding_side = "right"
        model_max_length = 512

    with pytest.raises(ModelUnsupported, match=r"Slow is not a tokenizer.*tokenizer\.json"):
        encode(Dataset.from_list(ROWS["text"]), Slow(), LENGTH)
