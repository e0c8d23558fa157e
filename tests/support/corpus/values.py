"""Configs and tokenizer configs whose values are of another kind, or of a size that fits nothing."""

from __future__ import annotations

from typing import Any

from tests.support.corpus.case import Case, either, setting, writing

VALUES: dict[str, Any] = {
    "0": 0, "-1": -1, "huge": 10**30, "large": 999_999_999, "text": "x", "half": 1.5, "list": [1],
    "object": {"a": 1}, "null": None, "true": True,
}  # fmt: skip
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id"),
)
OTHERS = (
    "layer_norm_eps",
    "hidden_dropout_prob",
    "initializer_range",
    "hidden_act",
    "chunk_size_feed_forward",
)
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "0x10", "1_000")
OF_TOKENIZERS = ("model_max_length", "padding_side", "pad_token", "added_tokens_decoder")


def _number(text: str) -> bytes:
    return b'{"model_type": "bert", "hidden_size": %s}' % text.encode()


MODELS: dict[str, Case] = {
    **{
        f"config-{key}-{name}": either(setting("config.json", **{key: value}))
        for key in SIZES
        for name, value in VALUES.items()
    },
    **{
        f"config-{key}-{name}": either(setting("config.json", **{key: VALUES[name]}))
        for key in OTHERS
        for name in ("-1", "huge", "text", "list", "null")
    },
    **{f"config-number-{text[:10]}": either(writing("config.json", _number(text)))
       for text in NUMBERS},
    **{
        f"tokenizer-config-{key}-{name}": either(
            setting("tokenizer_config.json", **{key: VALUES[name]})
        )
        for key in OF_TOKENIZERS
        for name in ("-1", "huge", "text", "list", "object", "null")
    },
}  # fmt: skip
