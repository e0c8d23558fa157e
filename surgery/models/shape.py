"""The sizes of an encoder, read from its config and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.models.layers import encoder_sizes, sizes_beside
from surgery.schemas.enums import Problem
from surgery.schemas.resolved import LayerInfo

# The keys that different configs use for the same size.
HIDDEN_KEYS = ("hidden_size", "dim", "d_model")
INTERMEDIATE_KEYS = ("intermediate_size", "hidden_dim", "d_inner")
ATTENTION_HEAD_KEYS = ("num_attention_heads", "n_heads", "n_head")
DEPTH_KEYS = ("num_hidden_layers", "n_layers", "n_layer")
# Model types whose head for a problem has a hidden layer before the output layer.
_TEXT = {
    "big_bird",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "funnel",
    "longformer",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
    "xlnet",
}
DEEP_HEADS = {
    Problem.CLASSIFICATION: _TEXT,
    Problem.MULTI_LABEL: _TEXT,
    Problem.REGRESSION: _TEXT,
    Problem.MULTIPLE_CHOICE: {
        "deberta-v2",
        "distilbert",
        "electra",
        "funnel",
        "modernbert",
        "xlnet",
    },
    Problem.TOKEN_CLASSIFICATION: {"modernbert"},
}
# Model types with a pooler below that head; if the checkpoint has none, it is new and trains.
_POOLED = {"albert", "bert", "big_bird", "fnet", "nomic_bert"}
POOLED = {
    Problem.CLASSIFICATION: _POOLED,
    Problem.MULTI_LABEL: _POOLED,
    Problem.REGRESSION: _POOLED,
    Problem.MULTIPLE_CHOICE: {
        *_POOLED,
        "camembert",
        "longformer",
        "mpnet",
        "roberta",
        "xlm-roberta",
    },
    Problem.TOKEN_CLASSIFICATION: {"big_bird", "fnet"},
}

# Model types whose config says which state the head reads: by which key, and its default.
POOLING = {
    "electra": ("summary_type", "first"),
    "modernbert": ("classifier_pooling", "cls"),
    "xlnet": ("summary_type", "last"),
}
FIRST_TOKEN = ("first", "cls")


@dataclass(frozen=True)
class EncoderShape:
    """An encoder's sizes; those that its config does not contain are None.

    ``blocks`` has the number of parameters of each block, bottom to top, and ``runs`` is how often
    a forward pass runs each of them (ALBERT's layers share one block). ``parameters`` counts those
    of the encoder without its pooler.
    """

    config: Mapping[str, Any]
    blocks: tuple[int, ...]
    parameters: int
    embeddings: int
    pooler: int
    runs: int = 1

    @property
    def model_type(self) -> str:
        """The architecture's name in its config."""
        return str(self.config["model_type"])

    @property
    def hidden(self) -> int | None:
        """The width of a token's hidden state."""
        return self._first(HIDDEN_KEYS)

    @property
    def intermediate(self) -> int | None:
        """The width inside a feed-forward sublayer."""
        return self._first(INTERMEDIATE_KEYS)

    @property
    def heads(self) -> int | None:
        """The number of attention heads of a block."""
        return self._first(ATTENTION_HEAD_KEYS)

    def _first(self, names: tuple[str, ...]) -> int | None:
        values = (self.config.get(name) for name in names)
        return next((value for value in values if isinstance(value, int)), None)


def encoder_shape(
    config: Mapping[str, Any], sizes: Mapping[str, int], prefix: str, layers: list[LayerInfo]
) -> EncoderShape:
    """The sizes of an encoder with these tensors and blocks; see `layers.layers_of`."""
    inside = encoder_sizes(dict(sizes), prefix)
    parts = sizes_beside(inside)
    return EncoderShape(
        config=config,
        blocks=tuple(layer.parameters for layer in layers),
        parameters=sum(inside.values()) - parts["pooler"],
        runs=runs_of(config),
        **parts,
    )


def runs_of(config: Mapping[str, Any]) -> int:
    """How often a forward pass runs each block: more than once for ALBERT, else once."""
    if config["model_type"] != "albert":
        return 1
    depth = next((config[name] for name in DEPTH_KEYS if name in config), 12)
    return int(depth) // int(config.get("num_hidden_groups", 1))


def head_size(shape: EncoderShape, problem: Problem, outputs: int) -> int | None:
    """How many parameters always train: those of the head that transformers adds, and a new pooler.

    ``outputs`` is one for each class, or one. None if the config does not contain the width.
    """
    width = shape.hidden
    if width is None:
        return None
    dense = width * width + width
    deep = shape.model_type in DEEP_HEADS[problem]
    new_pooler = shape.model_type in POOLED[problem] and not shape.pooler
    return width * outputs + outputs + dense * deep + dense * new_pooler


def has_pooler(shape: EncoderShape, problem: Problem) -> bool:
    """Whether the model for the problem keeps the checkpoint's pooler."""
    return bool(shape.pooler) and shape.model_type in POOLED[problem]


def reads_first_token(shape: EncoderShape, problem: Problem) -> bool:
    """Whether the head for the problem reads only the state of each sequence's first token."""
    if problem is Problem.TOKEN_CLASSIFICATION:
        return False
    if shape.model_type == "electra" and problem is not Problem.MULTIPLE_CHOICE:
        return True  # its classification head does not depend on the config
    name, usual = POOLING.get(shape.model_type, ("", FIRST_TOKEN[0]))
    return shape.config.get(name, usual) in FIRST_TOKEN


def total_parameters(shape: EncoderShape, problem: Problem, outputs: int) -> int | None:
    """The parameters of the model with its head; None if the config does not contain the width."""
    head = head_size(shape, problem, outputs)
    if head is None:
        return None
    return shape.parameters + shape.pooler * has_pooler(shape, problem) + head
