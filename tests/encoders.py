"""Tiny encoders of several architectures, drawn at random from small configs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40,
}  # fmt: skip
DISTIL = {
    "vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24,
    "max_position_embeddings": 40,
}  # fmt: skip
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
}  # fmt: skip


def tiny(
    model_type: str, *, labels: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """A random task model whose weights are large enough for gradients to differ by layer."""
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type], num_labels=labels)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def padded_batch(
    lengths: list[int], *, labels: int = 2, seed: int = 0, types: bool = False
) -> dict[str, Tensor]:
    """Random tokens of the given lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(5, 50, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if types:
        batch["token_type_ids"] = torch.zeros_like(ids)
    if labels == 1:
        batch["labels"] = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    else:
        batch["labels"] = torch.randint(0, labels, (len(lengths),), generator=generator)
    return batch
