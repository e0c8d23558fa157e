"""Tokenizers that panic, take for ever, or name tokens that no embedding has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.corpus.case import Case, both, either, setting, writing

PLAIN = setting("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """tokenizer.json with one thing changed, read as it is."""

    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return both(PLAIN, apply)


def having(**parts: Any) -> Callable[[Path], object]:
    """tokenizer.json with other parts."""
    return tokenizer(lambda document: document.update(parts))


def modelled(**keys: Any) -> Callable[[Path], object]:
    """tokenizer.json with other keys of its model."""
    return tokenizer(lambda document: document["model"].update(keys))


def _nested(depth: int) -> Any:
    inner: Any = {"type": "Lowercase"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


def _split(pattern: str) -> Any:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


def _token(number: Any, content: str = "[X]") -> Any:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags}


TEMPLATE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {}}  # fmt: skip
MODELS: dict[str, Case] = {
    "no-model": either(having(model=None)),
    "model-unknown": either(modelled(type="Evil")),
    "vocabulary-empty": either(modelled(vocab={})),
    "vocabulary-of-texts": either(modelled(vocab={"a": "b"})),
    "vocabulary-negative": either(modelled(vocab={"[UNK]": -1, "a": -2})),
    "vocabulary-beyond": either(modelled(vocab={"[UNK]": 30521, "a": 4_000_000_000})),
    "vocabulary-beyond-64-bits": either(modelled(vocab={"[UNK]": 1 << 70})),
    "vocabulary-same-ids": either(modelled(vocab={"[UNK]": 1, "a": 1, "b": 1})),
    "unknown-missing": either(modelled(unk_token="[NOWHERE]")),
    "unknown-empty": either(modelled(unk_token="")),
    "prefix-long": either(modelled(continuing_subword_prefix="#" * 9_000)),
    "characters-0": either(modelled(max_input_chars_per_word=0)),
    "characters-most": either(modelled(max_input_chars_per_word=1 << 62)),
    "merges-unknown": either(modelled(type="BPE", merges=["x y"], vocab={"[UNK]": 0})),
    "merges-odd": either(modelled(type="BPE", merges=["x", "y z w"], vocab={"[UNK]": 0})),
    "unigram-without-scores": either(modelled(type="Unigram", vocab=[["a", 0.0]], unk_id=5)),
    "unigram-nan": either(modelled(type="Unigram", vocab=[["a", float("nan")]], unk_id=0)),
    "regex-catastrophic": either(having(pre_tokenizer=_split("(a+)+$"))),
    "regex-invalid": either(having(pre_tokenizer=_split("(("))),
    "regex-empty": either(having(pre_tokenizer=_split(""))),
    "regex-nested": either(having(pre_tokenizer=_split("(" * 5_000 + ")" * 5_000))),
    "replace-growing": either(having(normalizer={
        "type": "Replace", "pattern": {"String": "e"}, "content": "e" * 100_000})),
    "prepend-long": either(having(normalizer={"type": "Prepend", "prepend": "x" * 1_000_000})),
    "charsmap-aborts": either(having(normalizer={
        "type": "Precompiled", "precompiled_charsmap": "AAAA////AAAA"})),
    "charsmap-empty": either(having(normalizer={"type": "Precompiled", "precompiled_charsmap": ""})),
    "normalizers-deep": either(having(normalizer=_nested(100))),
    "normalizers-too-deep": either(having(normalizer=_nested(400))),
    "normalizer-unknown": either(having(normalizer={"type": "Evil"})),
    "decoder-unknown": either(having(decoder={"type": "Evil"})),
    "decoder-text": either(having(decoder="evil")),
    "template-unknown": either(having(post_processor=TEMPLATE | {
        "single": [{"SpecialToken": {"id": "[NOWHERE]", "type_id": 0}}]})),
    "template-types": either(having(post_processor=TEMPLATE | {
        "single": [{"Sequence": {"id": "A", "type_id": 4_000_000_000}}]})),
    "template-many": either(having(post_processor=TEMPLATE | {
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 5_000})),
    "added-beyond": either(having(added_tokens=[_token(4_000_000_000)])),
    "added-negative": either(having(added_tokens=[_token(-1)])),
    "added-half": either(having(added_tokens=[_token(1.5)])),
    "added-empty": either(having(added_tokens=[_token(30522, "")])),
    "added-many": either(having(added_tokens=[_token(n, f"[{n}]") for n in range(20_000)])),
    "padding-huge": either(having(padding={
        "strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"})),
    "padding-to-0": either(having(padding={
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]"})),
    "truncation-0": either(having(truncation={
        "max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"})),
    "truncation-stride": either(having(truncation={
        "max_length": 8, "strategy": "LongestFirst", "stride": 1 << 40, "direction": "Right"})),
    "version": either(having(version="99")),
    "cut": either(lambda folder: (folder / "tokenizer.json").write_bytes(
        (folder / "tokenizer.json").read_bytes()[:-10])),
    "utf-16": either(writing("tokenizer.json", '{"model": {}}'.encode("utf-16"))),
    "words-binary": either(both(lambda folder: (folder / "tokenizer.json").unlink(),
                                writing("vocab.txt", b"\xff\xfe" * 1000))),
    "words-empty": either(both(lambda folder: (folder / "tokenizer.json").unlink(),
                               writing("vocab.txt", b""))),
    "words-one": either(both(lambda folder: (folder / "tokenizer.json").unlink(),
                             writing("vocab.txt", b"a\n"))),
    "pieces-random": either(both(lambda folder: (folder / "tokenizer.json").unlink(),
                                 writing("spiece.model", bytes(range(256)) * 40))),
}  # fmt: skip
