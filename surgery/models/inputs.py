"""What a model takes as input, as its config tells: for whoever tokenises without loading it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

# Model types trained on token types, which their tokenizers do not return in transformers 5.
TYPED = {"albert", "funnel", "xlnet"}
_UNMASKED = {"fnet"}
_UNTYPED = {"distilbert", "modernbert", "mpnet"}
_POSITIONS = {"albert", "bert", "big_bird", "distilbert", "electra", "fnet"}
_BIASED = {"deberta", "deberta-v2"}  # if `position_biased_input`
# These do not use the positions up to that of the padding token.
_PADDED_POSITIONS = {"camembert", "longformer", "roberta", "xlm-roberta"}
_PADDED_BY_ONE = {"mpnet"}
NO_LIMIT = 1_000_000  # tokens


@dataclass(frozen=True)
class ModelInputs:
    """The inputs that a model takes, and the most tokens of a row."""

    types: bool  # whether it takes `token_type_ids`
    mask: bool
    positions: int  # sys.maxsize if it has no table of them
    vocabulary: int  # rows of its embedding


def wanted_inputs(config: Any, of_tokenizer: Iterable[str]) -> set[str]:
    """The inputs of a model of this config and tokenizer, whether or not its forward takes them."""
    inputs = {"input_ids", "attention_mask", *of_tokenizer}
    if config.model_type in TYPED:
        inputs.add("token_type_ids")
    elif getattr(config, "type_vocab_size", 2) < 2:
        inputs.discard("token_type_ids")  # there is no embedding for that of a second text
    return inputs


def inputs_of(config: Any, of_tokenizer: Iterable[str]) -> ModelInputs:
    """What a model of this config takes, with a tokenizer of these inputs."""
    kind = config.model_type
    types = "token_type_ids" in wanted_inputs(config, of_tokenizer) and kind not in _UNTYPED
    return ModelInputs(types, kind not in _UNMASKED, _positions(config), int(config.vocab_size))


def longest_row(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int | None:
    """The most tokens of a row, from config.json and tokenizer_config.json; None if not known.

    Models with relative or rotary positions have no limit but their tokenizer's.
    """
    usual = {
        "pad_token_id": 1,
        "position_biased_input": True,
        "max_position_embeddings": sys.maxsize,
    }
    told = {name: value for name, value in config.items() if value is not None}
    of_model = _positions(SimpleNamespace(**usual | told))
    of_tokenizer = tokenizer.get("model_max_length")
    known = of_tokenizer if isinstance(of_tokenizer, int) else sys.maxsize
    # A tokenizer without a limit has an enormous one.
    most = min(of_model, known)
    return most if 0 < most < NO_LIMIT else None


def _positions(config: Any) -> int:
    kind = config.model_type
    if kind in _POSITIONS or (kind in _BIASED and config.position_biased_input):
        return int(config.max_position_embeddings)
    if kind in _PADDED_POSITIONS:
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1
    if kind in _PADDED_BY_ONE:
        return int(config.max_position_embeddings) - 2
    return sys.maxsize
