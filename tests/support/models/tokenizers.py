"""A small tokenizer of each encoder's own class: one token a letter."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

from transformers import (
    AlbertTokenizer,
    BertTokenizer,
    BigBirdTokenizer,
    FNetTokenizer,
    FunnelTokenizer,
    MPNetTokenizer,
    RobertaTokenizer,
    XLNetTokenizer,
)

LETTERS = ascii_lowercase[:15]


def _pieces(kind: Any, specials: str) -> Any:
    words = [*specials.split(), *ascii_lowercase]
    return kind(vocab={word: number for number, word in enumerate(words)})


def _unigrams(kind: Any, specials: str) -> Any:
    words = [(special, 0.0) for special in specials.split()]
    return kind(vocab=[*words, *((f"▁{letter}", -1.0) for letter in ascii_lowercase)])


def _byte_pairs() -> RobertaTokenizer:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *ascii_lowercase]
    words += [f"Ġ{letter}" for letter in LETTERS]
    return RobertaTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[("Ġ", letter) for letter in LETTERS],
    )


CLASSES: dict[str, tuple[Any, Any, str]] = {
    "xlnet": (
        _unigrams, XLNetTokenizer, "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop>",
    ),
    "fnet": (_unigrams, FNetTokenizer, "<unk> <s> [MASK] <pad> [CLS] [SEP]"),
    "albert": (_unigrams, AlbertTokenizer, "<pad> <unk> [CLS] [SEP] [MASK]"),
    "big_bird": (_unigrams, BigBirdTokenizer, "<pad> </s> <s> [CLS] [SEP] [MASK] <unk>"),
    "funnel": (_pieces, FunnelTokenizer, "<pad> <unk> <cls> <sep> <mask> <s> </s>"),
    "mpnet": (_pieces, MPNetTokenizer, "<s> <pad> </s> [UNK] <mask>"),
}  # fmt: skip
BERT = (_pieces, BertTokenizer, "[PAD] [UNK] [CLS] [SEP] [MASK]")


def tokenizer_of(kind: str) -> Any:
    """Words are letters up to ``o``; padding has the id its model's config gives it."""
    model_type = kind.split(maxsplit=1)[0]
    if model_type in {"roberta", "xlm-roberta", "camembert", "longformer"}:
        return _byte_pairs()
    build, tokenizer, specials = CLASSES.get(model_type, BERT)
    return build(tokenizer, specials)
