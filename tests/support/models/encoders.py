"""Tiny encoders of every supported architecture, drawn at random from small configs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from surgery.models.loading import HEAD_CLASSES
from surgery.schemas.enums import Problem

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40,
}  # fmt: skip
DISTIL = {
    "vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24,
    "max_position_embeddings": 40,
}  # fmt: skip
# A name may carry a variant after a space.
CONFIGS: dict[str, dict[str, object]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "distilbert": DISTIL,
    "electra": {**SIZES, "embedding_size": 8},
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "mpnet": SIZES,
    "deberta": {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {
        **SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm",
    },
    "modernbert": {
        **SIZES, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "cls_token_id": 1, "sep_token_id": 2,
    },
    "albert": {**SIZES, "embedding_size": 8},
    "albert groups": {
        **SIZES, "embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2,
        "inner_group_num": 2,
    },
    "nomic_bert": SIZES,
    "longformer": {**SIZES, "attention_window": 4},
    "big_bird": {**SIZES, "attention_type": "original_full", "sep_token_id": 2},
    "xlnet": {
        "vocab_size": 50, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 24,
        "use_mems_eval": False,
    },
    "fnet": {name: size for name, size in SIZES.items() if name != "num_attention_heads"},
    "funnel": {
        "vocab_size": 50, "block_sizes": [2, 1], "num_decoder_layers": 1, "d_model": 16,
        "n_head": 2, "d_head": 8, "d_inner": 24,
    },
}  # fmt: skip
LEFT_PADDED = {"xlnet"}
UNMASKED = {"fnet"}
NO_CHOICES = {"deberta", "nomic_bert"}  # no multiple-choice head in transformers
# These take a softmax, a norm or a rotation in float32, whatever the type of their weights.
FLOAT32_INSIDE = {"deberta", "funnel", "longformer", "modernbert"}
SEPARATOR = 2  # Longformer looks at three of them to find the end of a question


def tiny(
    kind: str,
    *,
    labels: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    problem: Problem = Problem.CLASSIFICATION,
) -> nn.Module:
    """A random task model whose weights are large enough for gradients to differ by layer."""
    config = AutoConfig.for_model(kind.split(maxsplit=1)[0], **CONFIGS[kind], num_labels=labels)
    torch.manual_seed(seed)
    model: nn.Module = HEAD_CLASSES[problem][type(config)](config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def rounding(kind: str) -> float:
    """The relative error that float64 models of this kind may show between two computations.

    How float32 rounds depends on the processor's vector instructions.
    """
    return 1e-6 if kind in FLOAT32_INSIDE else 1e-9


def padded_batch(
    lengths: list[int],
    *,
    labels: int = 2,
    seed: int = 0,
    types: bool = False,
    kind: str = "bert",
    problem: Problem = Problem.CLASSIFICATION,
    choices: int = 3,
) -> dict[str, Tensor]:
    """Random tokens of the given lengths, padded to the longest as ``kind`` is padded.

    Multiple choice: (N, ``choices``, T), one choice as long as said, the next ones up to two tokens
    shorter (Longformer's need four tokens). Token classification: labels (N, T), −100 on padding, on the first token and on
    every third. Several labels: zeros and ones (N, ``labels``).
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    own = torch.tensor(lengths)
    if problem is Problem.MULTIPLE_CHOICE:
        own = (own[:, None] - torch.arange(choices)[None] % 3).clamp_min(1)
    ids = torch.randint(5, 50, (*own.shape, longest), generator=generator)
    if problem is Problem.MULTIPLE_CHOICE and kind == "longformer":
        ids[..., [1, 2, 3]] = SEPARATOR
    places = torch.arange(longest)
    mask = (places >= longest - own[..., None]) if kind in LEFT_PADDED else places < own[..., None]
    ids = ids * mask
    if kind in UNMASKED:
        mask = torch.ones_like(mask)
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    if types:
        batch["token_type_ids"] = torch.zeros_like(ids)
    batch["labels"] = _labels(mask, labels, generator, problem, choices)
    return batch


def unequal_batches(kind: str, labels: int = 2) -> list[dict[str, Tensor]]:
    """Nine samples in three batches of unlike sizes and lengths; Funnel's need five tokens."""
    least = 5 if kind == "funnel" else 1
    return [
        padded_batch([max(least, n) for n in lengths], labels=labels, seed=seed, kind=kind)
        for seed, lengths in enumerate(([11, 5, 7], [9, 9], [3, 12, 5, 6]))
    ]


def _labels(
    mask: Tensor, labels: int, generator: torch.Generator, problem: Problem, choices: int
) -> Tensor:
    rows, tokens = mask.shape[0], mask.shape[-1]
    if problem is Problem.TOKEN_CLASSIFICATION:
        drawn = torch.randint(0, labels, (rows, tokens), generator=generator)
        number = mask.long().cumsum(1) - 1  # of the token in its row, whichever side is padded
        return torch.where((mask == 1) & (number % 3 != 0), drawn, -100)
    if problem is Problem.MULTIPLE_CHOICE:
        return torch.randint(0, choices, (rows,), generator=generator)
    if problem is Problem.MULTI_LABEL:
        return torch.randint(0, 2, (rows, labels), generator=generator).float()
    if labels == 1:
        return torch.randn(rows, generator=generator, dtype=torch.float64)
    return torch.randint(0, labels, (rows,), generator=generator)
