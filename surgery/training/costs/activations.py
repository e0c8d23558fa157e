"""Formulas for the activations that autograd keeps from the forward to the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

from surgery.models.shape import EncoderShape

# Activation function → how many tensors of the intermediate width its backward pass needs.
# Functions that are written in Python keep one for each of their operations.
FUNCTIONS = {
    "gelu": 1,
    "relu": 1,
    "silu": 1,
    "gelu_pytorch_tanh": 1,
    "quick_gelu": 2,
    "gelu_new": 4,
    "gelu_fast": 7,
}


@dataclass(frozen=True)
class Activations:
    """The tensors that autograd keeps of one block of an architecture, and its default options.

    It keeps ``states`` tensors of the hidden width whether the block trains or not, ``dropouts``
    more with dropout, and ``inputs`` more if the block trains. A ``gated`` block keeps two more
    products of the intermediate width. ``fused`` attention without dropout keeps no probabilities.
    """

    states: int = 5
    dropouts: int = 2
    inputs: int = 3
    function: str = "gelu"
    dropout: float = 0.1
    attention: bool = True
    fused: bool = True
    gated: bool = False


_BERT = Activations()
ACTIVATIONS: dict[str, Activations] = {
    "albert": Activations(function="gelu_new", dropout=0.0),
    "bert": _BERT,
    "big_bird": Activations(function="gelu_new", fused=False),
    "camembert": _BERT,
    "distilbert": Activations(dropouts=1),
    "electra": _BERT,
    "fnet": Activations(states=1, inputs=1, function="gelu_new", attention=False),
    "modernbert": Activations(
        states=7, dropout=0.0, gated=True
    ),  # values keep queries and keys alive
    "mpnet": _BERT,
    "nomic_bert": Activations(function="silu", dropout=0.0, gated=True),
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}
ACTIVATION = ("hidden_activation", "hidden_act", "activation")
DROPOUT = ("hidden_dropout_prob", "dropout")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def block_activations(shape: EncoderShape, tokens: int, *, trained: bool) -> int | None:
    """How many numbers one run of a block keeps for each token of a row of ``tokens``.

    None for an architecture without a formula (DeBERTa, Funnel, Longformer, XLNet), for an unknown
    activation function, and if the config does not contain the sizes.
    """
    form = ACTIVATIONS.get(shape.model_type)
    width, inner, heads = shape.hidden, shape.intermediate, shape.heads or 0
    if form is None or width is None or inner is None:
        return None
    function = _option(shape, ACTIVATION, form.function)
    if function not in FUNCTIONS or (form.attention and not heads):
        return None
    products = FUNCTIONS[function] + 2 * form.gated
    states = form.states + form.dropouts * bool(_option(shape, DROPOUT, form.dropout))
    probabilities = 0
    inputs = form.inputs
    if form.attention and _option(shape, ATTENTION_DROPOUT, form.dropout):
        probabilities = 3 * heads * tokens
    elif form.attention and not form.fused:
        probabilities = heads * tokens
    elif form.attention:
        # Its output and log-sums, and the mask; the output is also the input of the next layer.
        states, inputs, probabilities = states + 1, inputs - 1, heads + tokens
    total = states * width + products * inner + probabilities
    if trained:
        total += inputs * width + inner * (function != "relu")
    return total


def without_dropout(shape: EncoderShape) -> EncoderShape:
    """The shape of an encoder whose config has no dropout."""
    off = dict.fromkeys((*DROPOUT, *ATTENTION_DROPOUT), 0.0)
    return replace(shape, config={**shape.config, **off})


def _option(shape: EncoderShape, names: tuple[str, ...], default: object) -> object:
    return next((shape.config[name] for name in names if name in shape.config), default)
