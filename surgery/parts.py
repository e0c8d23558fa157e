"""The parts of a block by the names of its tensors alone, as its modules order them. Torch-free."""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile

from surgery.headers import encoder_sizes, layers_of
from surgery.results import LayerInfo, RankingResult
from surgery.terms import Granularity

# Of a tensor's name inside its block. FNet mixes tokens by Fourier; DistilBERT's sa_ is a norm's.
ATTENTION = r"(?i:sa_|[^.]*(?:att|fourier))"
SUBLAYERS = ("attention", "feed_forward")
_OUTPUT = (
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
    "output.LayerNorm",
)  # fmt: skip
# The order in which a block's class defines its tensors. Names alone do not tell it: a file of
# weights holds them by alphabet.
_ORDERS: tuple[tuple[str, ...], ...] = (
    (  # BERT, RoBERTa, ELECTRA, BigBird, Longformer, FNet
        "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.self.query_global", "attention.self.key_global", "attention.self.value_global",
        "fourier.output.LayerNorm", *_OUTPUT,
    ),
    (  # DistilBERT
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
        "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
    ),
    (  # MPNet
        "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o",
        "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
    ),
    (  # DeBERTa: a module's own tensors come before those of the modules in it
        "attention.self.q_bias", "attention.self.v_bias", "attention.self.in_proj",
        "attention.self.head_logits_proj", "attention.self.head_weights_proj",
        "attention.self.pos_proj", "attention.self.pos_q_proj", *_OUTPUT,
    ),
    (  # DeBERTa-v2 and v3
        "attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj",
        "attention.self.pos_key_proj", "attention.self.pos_query_proj", *_OUTPUT,
    ),
    ("attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"),  # ModernBERT
    (  # ALBERT
        "full_layer_layer_norm", "attention.query", "attention.key", "attention.value",
        "attention.dense", "attention.LayerNorm", "ffn", "ffn_output",
    ),
    (  # Nomic BERT
        "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "post_mlp_layernorm",
    ),
    (  # XLNet
        "rel_attn.q", "rel_attn.k", "rel_attn.v", "rel_attn.o", "rel_attn.r", "rel_attn.r_r_bias",
        "rel_attn.r_s_bias", "rel_attn.r_w_bias", "rel_attn.seg_embed", "rel_attn.layer_norm",
        "ff.layer_norm", "ff.layer_1", "ff.layer_2",
    ),
    (  # Funnel
        "attention.r_w_bias", "attention.r_r_bias", "attention.r_kernel", "attention.r_s_bias",
        "attention.seg_embed", "attention.q_head", "attention.k_head", "attention.v_head",
        "attention.post_proj", "attention.layer_norm", "ffn.linear_1", "ffn.linear_2",
        "ffn.layer_norm",
    ),
)  # fmt: skip
_PLACES = [{name: place for place, name in enumerate(order)} for order in _ORDERS]


def part_of_block(inner: str, granularity: Granularity) -> str:
    """The part of its block that a tensor belongs to, by its name inside; "" for the whole."""
    if granularity is Granularity.LAYER:
        return ""
    if granularity is Granularity.TENSOR:
        return inner
    return SUBLAYERS[0] if re.match(ATTENTION, inner) else SUBLAYERS[1]


def in_module_order(names: Iterable[str]) -> list[str]:
    """Names inside one block, of tensors or of sublayers, bottom to top.

    Names that no known block has come last, by alphabet.
    """
    modules = {name: _module(name) for name in names}
    if modules.keys() <= set(SUBLAYERS):
        return sorted(modules)
    known = max(_PLACES, key=lambda places: sum(m in places for m in modules.values()))

    def place(name: str) -> tuple[int, str, bool]:
        module = modules[name]
        return known.get(module, len(known)), module, not name.endswith(".weight")

    return sorted(modules, key=place)


def _module(name: str) -> str:
    """The module of a weight or bias; a tensor by another name stands for itself."""
    return re.sub(r"\.(weight|bias)$", "", name)


def parts_of(sizes: dict[str, int], prefix: str, granularity: Granularity) -> list[LayerInfo]:
    """The parts of a checkpoint's blocks, bottom to top, as ``units_of`` finds them in a model.

    ``sizes`` maps names of tensors, as the model has them, to their number of parameters.
    """
    layers = layers_of(sizes, prefix)
    if granularity is Granularity.LAYER:
        return layers
    starts = sorted(f"{layer.name}." for layer in layers)
    held: dict[str, dict[str, int]] = {start: defaultdict(int) for start in starts}
    for name, size in encoder_sizes(sizes, prefix).items():
        start = starts[bisect(starts, name) - 1]  # no layer is inside another
        if name.startswith(start):
            held[start][part_of_block(name.removeprefix(start), granularity)] += size
    return [
        LayerInfo(name=f"{layer.name}.{part}", index=layer.index, parameters=parts[part])
        for layer in layers
        for parts in [held[f"{layer.name}."]]
        for part in in_module_order(parts)
    ]


def ranked_parts(ranking: RankingResult) -> list[LayerInfo]:
    """What a ranking ranks, in the order of the model."""
    blocks: dict[int, dict[str, LayerInfo]] = defaultdict(dict)
    for layer in ranking.layers:
        part = LayerInfo(name=layer.name, index=layer.index, parameters=layer.parameters)
        blocks[part.index][part.name] = part
    found = []
    for _, held in sorted(blocks.items()):
        start = _common_path(held)
        names = {name.removeprefix(start): part for name, part in held.items()}
        found += [names[name] for name in in_module_order(names)]
    return found


def _common_path(names: Iterable[str]) -> str:
    """The path of the module that holds all of these, with its dot."""
    steps = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{step[0]}." for step in takewhile(lambda step: len(set(step)) == 1, steps))
