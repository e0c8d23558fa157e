"""A model's layers and their parts, found by the names of its tensors alone.

A checkpoint's file can use other names than the loaded model.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile

from surgery.errors import Fault, ModelUnsupported, SelectionMismatch
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.options.adapter import AdapterSpec
from surgery.schemas.resolved import LayerInfo, ModelInfo

Entries = dict[int, dict[str, int]]  # number in a list → rest of the tensor's name → parameters
BlockSizes = list[tuple[str, int]]  # names of blocks and their parameters, bottom to top

# Prefixes, inside the encoder, of the tensors that are not in the blocks.
BESIDE = {"embeddings": ("embeddings.", "word_embedding."), "pooler": ("pooler.",)}
# Prefixes inside the encoder: in the file → in the model.
RENAMED = {"nomic_bert": {"encoder.layers.": "layers.", "emb_ln.": "embeddings.LayerNorm."}}
# Old checkpoints call the weight and bias of a LayerNorm gamma and beta.
LEGACY = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
# Part of a name in the model → the same part in its checkpoint, in addition to RENAMED.
SAVED_AS = {
    "nomic_bert": {
        "self_attn.o_proj": "attn.out_proj",
        "up_proj": "fc11",
        "gate_proj": "fc12",
        "down_proj": "fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }
}
# Tensors that the checkpoint holds as one, with their rows one below the other in this order.
FUSED = {
    "nomic_bert": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn.Wqkv"),
}


def _inside(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


# The beginning of an attention tensor's name inside its block. FNet has Fourier transforms in the
# place of attention; sa_ is DistilBERT's norm of attention.
ATTENTION = r"(?i:sa_|[^.]*(?:att|fourier))"
SUBLAYERS = ("attention", "feed_forward")
_OUTPUT = (
    *_inside("attention.output", "dense", "LayerNorm"),
    "intermediate.dense",
    *_inside("output", "dense", "LayerNorm"),
)
# The order in which a block's class defines its tensors. A file of weights does not tell it, since
# it holds them in alphabetical order.
_ORDERS: tuple[tuple[str, ...], ...] = (
    (  # BERT, RoBERTa, ELECTRA, BigBird, Longformer, FNet
        *_inside("attention.self", "query", "key", "value"),
        *_inside("attention.self", "query_global", "key_global", "value_global"),
        "fourier.output.LayerNorm",
        *_OUTPUT,
    ),
    (  # DistilBERT
        *_inside("attention", "q_lin", "k_lin", "v_lin", "out_lin"),
        "sa_layer_norm",
        *_inside("ffn", "lin1", "lin2"),
        "output_layer_norm",
    ),
    (  # MPNet
        *_inside("attention.attn", "q", "k", "v", "o"),
        "attention.LayerNorm",
        "intermediate.dense",
        *_inside("output", "dense", "LayerNorm"),
    ),
    (  # DeBERTa: a module's own tensors come before those of its children
        *_inside("attention.self", "q_bias", "v_bias", "in_proj"),
        *_inside("attention.self", "head_logits_proj", "head_weights_proj"),
        *_inside("attention.self", "pos_proj", "pos_q_proj"),
        *_OUTPUT,
    ),
    (  # DeBERTa-v2 and v3
        *_inside("attention.self", "query_proj", "key_proj", "value_proj"),
        *_inside("attention.self", "pos_key_proj", "pos_query_proj"),
        *_OUTPUT,
    ),
    ("attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"),  # ModernBERT
    (  # ALBERT
        "full_layer_layer_norm",
        *_inside("attention", "query", "key", "value", "dense", "LayerNorm"),
        "ffn",
        "ffn_output",
    ),
    (  # Nomic BERT
        "post_attention_layernorm",
        *_inside("mlp", "gate_proj", "up_proj", "down_proj"),
        *_inside("self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
        "post_mlp_layernorm",
    ),
    (  # XLNet
        *_inside("rel_attn", "q", "k", "v", "o", "r", "r_r_bias", "r_s_bias", "r_w_bias"),
        *_inside("rel_attn", "seg_embed", "layer_norm"),
        *_inside("ff", "layer_norm", "layer_1", "layer_2"),
    ),
    (  # Funnel
        *_inside("attention", "r_w_bias", "r_r_bias", "r_kernel", "r_s_bias", "seg_embed"),
        *_inside("attention", "q_head", "k_head", "v_head", "post_proj", "layer_norm"),
        *_inside("ffn", "linear_1", "linear_2", "layer_norm"),
    ),
)
_PLACES = [{name: place for place, name in enumerate(order)} for order in _ORDERS]


def strip_prefix(name: str, prefix: str) -> str:
    """A tensor's name inside the encoder: ``encoder.layer.0…`` for ``bert.encoder.layer.0…``."""
    return name.removeprefix(f"{prefix}.")


def encoder_sizes(sizes: dict[str, int], prefix: str) -> dict[str, int]:
    """The encoder's tensors by their names inside it.

    A checkpoint of a task model names them ``<prefix>.…``, unlike the tensors of its head; one of
    an encoder alone has no prefix.
    """
    inside = {name: size for name, size in sizes.items() if name.startswith(f"{prefix}.")}
    return {strip_prefix(name, prefix): size for name, size in (inside or sizes).items()}


def sizes_beside(sizes: Mapping[str, int]) -> dict[str, int]:
    """The numbers of parameters of the embeddings and the pooler among an encoder's tensors."""
    return {
        part: sum(size for name, size in sizes.items() if name.startswith(starts))
        for part, starts in BESIDE.items()
    }


def in_decoder(name: str) -> bool:
    """Whether a module or tensor belongs to a decoder, as Funnel's upsampling layers do."""
    return "decoder" in name.split(".")


def layers_of(sizes: dict[str, int], prefix: str) -> list[LayerInfo]:
    """The blocks, from tensor names alone; ``find_blocks`` finds the same among modules.

    ``sizes`` maps tensor name to number of parameters; ``prefix`` is the name under which a task
    model holds the encoder. Raises ModelUnsupported if nothing is numbered from 0.
    """
    lists = _numbered(encoder_sizes(sizes, prefix))
    stacks = {path: _flattened(path, entries) for path, entries in lists.items()}
    best = max(stacks, key=lambda path: _precedence(stacks[path]), default=None)
    if best is None or not _from_zero(lists[best]):
        raise ModelUnsupported(
            "the checkpoint has no list of repeated blocks to rank; layers must be numbered "
            "from 0, as in encoder.layer.0"
        )
    return [
        LayerInfo(name=name, index=index, parameters=size)
        for index, (name, size) in enumerate(stacks[best])
    ]


def _precedence(stack: BlockSizes) -> tuple[bool, int, int]:
    return not in_decoder(stack[0][0]), len(stack), sum(size for _, size in stack)


def _from_zero(numbers: Collection[int]) -> bool:
    return set(numbers) == set(range(len(numbers)))


def _numbered(sizes: dict[str, int]) -> dict[str, Entries]:
    """The path of each outermost list, with its final dot → the list's entries."""
    lists: dict[str, Entries] = defaultdict(lambda: defaultdict(dict))
    for name, size in sizes.items():
        match = re.match(r"(|.+?\.)(\d+)\.(.+)", name)
        if match:
            lists[match[1]][int(match[2])][match[3]] = size
    return lists


def _flattened(path: str, entries: Entries) -> BlockSizes:
    stack: BlockSizes = []
    for index, tensors in sorted(entries.items()):
        inner = _inner_list(tensors)
        if inner is None:
            stack.append((f"{path}{index}", sum(tensors.values())))
        else:
            stack += _flattened(f"{path}{index}.{inner[0]}", inner[1])
    return stack


def _inner_list(tensors: dict[str, int]) -> tuple[str, Entries] | None:
    """The list that holds all tensors of an entry, if there is one and its entries are alike."""
    lists = _numbered(tensors)
    if len(lists) != 1:
        return None
    [(path, entries)] = lists.items()
    kinds = {frozenset(inner) for inner in entries.values()}
    whole = sum(len(inner) for inner in entries.values()) == len(tensors)
    return (path, entries) if whole and len(kinds) == 1 and _from_zero(entries) else None


def sizes_in_model(sizes: dict[str, int], prefix: str, model_type: str) -> dict[str, int]:
    """Tensor → number of parameters, with the file's names replaced by the model's.

    ``prefix`` is the name under which a task model holds the encoder.
    """
    renamed: dict[str, int] = {}
    parts, whole = FUSED.get(model_type, ((), ""))
    for saved, size in sizes.items():
        name = _in_model(saved, prefix, model_type)
        if whole and whole in name:
            renamed |= {name.replace(whole, part): size // len(parts) for part in parts}
        else:
            renamed[name] = size
    return renamed


def _in_model(name: str, prefix: str, model_type: str) -> str:
    short = strip_prefix(name, prefix)
    start = name.removesuffix(short)
    for old, new in RENAMED.get(model_type, {}).items():
        if short.startswith(old):
            short = f"{new}{short.removeprefix(old)}"
            break
    for new, old in (LEGACY | SAVED_AS.get(model_type, {})).items():
        short = short.replace(old, new)
    return start + short


def part_of_block(inner: str, granularity: Granularity) -> str:
    """The part of its block that a tensor belongs to, by its name inside the block.

    It is "" for granularity layer, where the whole block is one part.
    """
    if granularity is Granularity.LAYER:
        return ""
    if granularity is Granularity.TENSOR:
        return inner
    return SUBLAYERS[0] if re.match(ATTENTION, inner) else SUBLAYERS[1]


def in_module_order(names: Iterable[str]) -> list[str]:
    """Sort names of tensors or sublayers inside one block, bottom to top.

    Names that no known kind of block has come last, in alphabetical order.
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
    """The module of a weight or bias; for a tensor with another name, the tensor itself."""
    return re.sub(r"\.(weight|bias)$", "", name)


def parts_of(sizes: dict[str, int], prefix: str, granularity: Granularity) -> list[LayerInfo]:
    """The parts of a checkpoint's blocks, bottom to top; ``units_of`` finds them in a model.

    ``sizes`` maps the model's tensor names to their numbers of parameters.
    """
    layers = layers_of(sizes, prefix)
    if granularity is Granularity.LAYER:
        return layers
    starts = sorted(f"{layer.name}." for layer in layers)
    inside: dict[str, dict[str, int]] = {start: defaultdict(int) for start in starts}
    for name, size in encoder_sizes(sizes, prefix).items():
        start = starts[bisect(starts, name) - 1]  # no layer is inside another
        if name.startswith(start):
            inside[start][part_of_block(name.removeprefix(start), granularity)] += size
    return [
        LayerInfo(name=f"{layer.name}.{part}", index=layer.index, parameters=parts[part])
        for layer in layers
        for parts in [inside[f"{layer.name}."]]
        for part in in_module_order(parts)
    ]


def ranked_parts(ranking: RankingResult) -> list[LayerInfo]:
    """The layers or parts of a ranking, in the order of the model."""
    blocks: dict[int, dict[str, LayerInfo]] = defaultdict(dict)
    for layer in ranking.layers:
        part = LayerInfo(name=layer.name, index=layer.index, parameters=layer.parameters)
        blocks[part.index][part.name] = part
    ordered = []
    for _, parts in sorted(blocks.items()):
        start = _common_path(parts)
        names = {name.removeprefix(start): part for name, part in parts.items()}
        ordered += [names[name] for name in in_module_order(names)]
    return ordered


def merged_parts(
    chosen: Collection[str], parts: Sequence[LayerInfo], granularity: Granularity
) -> list[str]:
    """The chosen ones of all ``parts`` of a model, in which a whole replaces all of its parts.

    Choices of the same tensors are equal so, whatever their granularity: both sublayers of a block
    become the block, all tensors of a sublayer the sublayer.
    """
    if granularity is Granularity.LAYER:
        return [part.name for part in parts if part.name in chosen]
    blocks: dict[int, list[str]] = defaultdict(list)
    for part in parts:
        blocks[part.index].append(part.name)
    return [name for names in blocks.values() for name in _merged(names, chosen, granularity)]


def _merged(names: Sequence[str], chosen: Collection[str], granularity: Granularity) -> list[str]:
    """What is chosen of one block, whose parts have these names."""
    start, taken = _common_path(names), [name for name in names if name in chosen]
    if len(taken) == len(names):
        return [start.removesuffix(".")]
    if granularity is Granularity.SUBLAYER:
        return taken
    merged = []
    for part in SUBLAYERS:
        own, sub = (
            [n for n in some if part_of_block(n.removeprefix(start), Granularity.SUBLAYER) == part]
            for some in (names, taken)
        )
        merged += [f"{start}{part}"] if sub and len(sub) == len(own) else sub
    return merged


def _common_path(names: Iterable[str]) -> str:
    """The path of the innermost module that holds all of these, with its final dot."""
    steps = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{step[0]}." for step in takewhile(lambda step: len(set(step)) == 1, steps))


def check_adapter(adapter: AdapterSpec, info: ModelInfo) -> None:
    """Raise SelectionMismatch if the model has no biases (BitFit) or is too narrow (LoRA)."""
    if adapter.type == "bitfit":
        if not any(is_bias(tensor.name) for tensor in info.at(Granularity.TENSOR)):
            raise no_biases(info.id)
    elif info.hidden_size is not None and adapter.rank > info.hidden_size:
        raise SelectionMismatch(
            f"an update of rank {adapter.rank} has a higher rank than the weights it is added to, "
            f"which are {info.hidden_size} wide",
            [Fault(f"at most {info.hidden_size}", pointer="/adapter/rank")],
        )


def is_bias(name: str) -> bool:
    """Whether a tensor is a bias, by its name: ``bias``, or for example DeBERTa's ``q_bias``."""
    own = name.rpartition(".")[2]
    return own == "bias" or own.endswith("_bias")


def no_biases(model: str) -> SelectionMismatch:
    """The error for adapter type bitfit on a model whose blocks have no biases."""
    return SelectionMismatch(
        f"the blocks of {model} have no biases; use adapter type lora, or a selection of layers",
        [Fault("the model has no biases", pointer="/adapter/type")],
    )
