"""Models for the service's tests: a tiny encoder that trains in milliseconds, and broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

REAL_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = "tiny/bert"
TINY_LAYERS = 4
_SIZES = {
    "vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": TINY_LAYERS,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
}  # fmt: skip


def write_models(folder: Path, real: Path) -> None:
    """Write every model under ``folder/<owner>/<name>``."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **_SIZES))
    tiny = folder / TINY
    model.bert.save_pretrained(tiny)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(real / name, tiny / name)
    _break(tiny, folder)


def _break(tiny: Path, folder: Path) -> None:
    """Copies of the tiny model, each wrong in one way."""
    pickled = _copy(tiny, folder / "broken" / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    truncated = _copy(tiny, folder / "broken" / "truncated")
    weights = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(weights[:-100])
    decoder = _copy(tiny, folder / "broken" / "decoder")
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    other = _copy(tiny, folder / "tiny" / "other")
    torch.manual_seed(1)
    sizes = {**_SIZES, "num_hidden_layers": 2}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **sizes))
    model.bert.save_pretrained(other)


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
