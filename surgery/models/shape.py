"""The sizes of an encoder, from its config and the headers of its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.models.layers import encoder_sizes, sizes_beside
from surgery.schemas.enums import Problem
from surgery.schemas.resolved import LayerInfo

# The names that configs give the same thing.
HIDDEN = ("hidden_size", "dim", "d_model")
INTERMEDIATE = ("intermediate_size", "hidden_dim", "d_inner")
HEADS = ("num_attention_heads", "n_heads", "n_head")
DEPTH = ("num_hidden_layers", "n_layers", "n_layer")
# Whose heads for a problem have a hidden layer before the one that puts out the labels.
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
# Whose encoder has a pooler below that head; it is new, and trains, where the checkpoint has none.
_POOLED = {"albert", "bert", "big_bird", "fnet", "nomic_bert"}
POOLED = {
    Problem.CLASSIFICATION: _POOLED,
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

# Whose config says which state the head reads, by which key and what where it is left out.
POOLING = {
    "electra": ("summary_type", "first"),
    "modernbert": ("classifier_pooling", "cls"),
    "xlnet": ("summary_type", "last"),
}
FIRST_TOKEN = ("first", "cls")


@dataclass(frozen=True)
class EncoderShape:
    """An encoder's sizes; those that its config does not tell are None.

    ``blocks`` are the parameters of each block, bottom to top, and ``runs`` how often a forward
    pass runs each (ALBERT's share one). ``parameters`` are all of the encoder's, its pooler left
    out.
    """

    config: Mapping[str, Any]
    blocks: tuple[int, ...]
    parameters: int
    embeddings: int
    pooler: int
    runs: int = 1

    @property
    def model_type(self) -> str:
        """The architecture, as its config names it."""
        return str(self.config["model_type"])

    @property
    def hidden(self) -> int | None:
        """Width of a token's state."""
        return self._first(HIDDEN)

    @property
    def intermediate(self) -> int | None:
        """Width inside a feed-forward part."""
        return self._first(INTERMEDIATE)

    @property
    def heads(self) -> int | None:
        """Attention heads of a block."""
        return self._first(HEADS)

    def _first(self, names: tuple[str, ...]) -> int | None:
        found = (self.config.get(name) for name in names)
        return next((value for value in found if isinstance(value, int)), None)


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
    """How often a forward pass runs each block: ALBERT's share one."""
    if config["model_type"] != "albert":
        return 1
    depth = next((config[name] for name in DEPTH if name in config), 12)
    return int(depth) // int(config.get("num_hidden_groups", 1))


def head_parameters(shape: EncoderShape, problem: Problem, outputs: int) -> int | None:
    """What always trains: the head that transformers puts on this encoder, and a new pooler.

    ``outputs`` is one a class, or one. None where the config does not tell the width.
    """
    width = shape.hidden
    if width is None:
        return None
    dense = width * width + width
    deep = shape.model_type in DEEP_HEADS[problem]
    new_pooler = shape.model_type in POOLED[problem] and not shape.pooler
    return width * outputs + outputs + dense * deep + dense * new_pooler


def has_pooler(shape: EncoderShape, problem: Problem) -> bool:
    """Whether the model for the problem has the checkpoint's pooler."""
    return bool(shape.pooler) and shape.model_type in POOLED[problem]


def reads_first_token(shape: EncoderShape, problem: Problem) -> bool:
    """Whether the head for the problem reads no state but that of each sequence's first token."""
    if problem is Problem.TOKEN_CLASSIFICATION:
        return False
    if shape.model_type == "electra" and problem is not Problem.MULTIPLE_CHOICE:
        return True  # its classification head asks no config
    name, usual = POOLING.get(shape.model_type, ("", FIRST_TOKEN[0]))
    return shape.config.get(name, usual) in FIRST_TOKEN


def total_parameters(shape: EncoderShape, problem: Problem, outputs: int) -> int | None:
    """Of the model with its head. None where the config does not tell the width."""
    head = head_parameters(shape, problem, outputs)
    if head is None:
        return None
    return shape.parameters + shape.pooler * has_pooler(shape, problem) + head
