"""What a checkpoint's file calls the tensors of the model that is made of it. Torch-free."""

from __future__ import annotations

from surgery.headers import strip_prefix

# Beginnings, inside the encoder: in the file → in the model.
RENAMED = {"nomic_bert": {"encoder.layers.": "layers.", "emb_ln.": "embeddings.LayerNorm."}}
# Old checkpoints write gamma and beta for a LayerNorm.
LEGACY = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
# Part of a name in the model → in its checkpoint, beside what RENAMED says of the beginnings.
SAVED_AS = {
    "nomic_bert": {
        "self_attn.o_proj": "attn.out_proj", "up_proj": "fc11", "gate_proj": "fc12",
        "down_proj": "fc2", "post_attention_layernorm": "norm1", "post_mlp_layernorm": "norm2",
    }
}  # fmt: skip
# Tensors whose rows stand one below the other, in this order, in one tensor of the checkpoint.
FUSED = {
    "nomic_bert": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn.Wqkv"),
}


def sizes_in_model(sizes: dict[str, int], prefix: str, model_type: str) -> dict[str, int]:
    """Tensor → number of parameters, by the names of the file, by those of the model instead.

    ``prefix`` is the name under which a task model holds the encoder.
    """
    found: dict[str, int] = {}
    parts, whole = FUSED.get(model_type, ((), ""))
    for saved, size in sizes.items():
        name = _in_model(saved, prefix, model_type)
        if whole and whole in name:
            found |= {name.replace(whole, part): size // len(parts) for part in parts}
        else:
            found[name] = size
    return found


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
