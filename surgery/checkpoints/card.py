"""Write what describes a checkpoint: a record for programs and a model card for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from surgery.checkpoints.merge import RECORD
from surgery.schemas.enums import Problem

TAGS = ["layer-surgeon", "surgical-fine-tuning"]

CheckpointForm = Literal["delta", "full", "adapter"]

CARD_FILE = "README.md"


def card_data(record: Mapping[str, Any], pipeline_tag: str) -> str:
    """The card's YAML: the base model, the dataset, and each defined metric in the model index."""
    from huggingface_hub import ModelCardData

    base, hub = record["base"]["id"], record["dataset"].get("hub")
    index: dict[str, Any] = {}
    results = _results(record, pipeline_tag)
    if results:
        index = {"model_name": f"{base.rpartition('/')[2]} fine-tuned", "eval_results": results}
    data = ModelCardData(
        base_model=base,
        base_model_relation="finetune",
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=TAGS,
        datasets=[hub] if hub else None,
        metrics=list(record["metrics"]) or None,
        **index,
    )
    return data.to_yaml()


def _results(record: Mapping[str, Any], pipeline_tag: str) -> list[Any]:
    from huggingface_hub import EvalResult

    dataset = record["dataset"]
    name = dataset.get("name", "validation rows")
    return [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=dataset.get("hub") or name,
            dataset_name=name,
            dataset_config=dataset.get("config"),
            dataset_revision=dataset.get("revision"),
            dataset_split=dataset.get("split"),
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in record["metrics"].items()
        if value is not None
    ]


@dataclass(frozen=True)
class HeadUsage:
    """How to load and use a model with a head for a problem, in the terms of transformers."""

    auto_class: str
    pipeline_tag: str
    use: str


TEXTS = "Encode the texts with the tokenizer, a pair as its two texts"
HEAD_USAGE = {
    Problem.CLASSIFICATION: HeadUsage(
        "AutoModelForSequenceClassification",
        "text-classification",
        f"{TEXTS}; `logits` has one entry a label, in the order of `id2label` in `config.json`.",
    ),
    Problem.MULTI_LABEL: HeadUsage(
        "AutoModelForSequenceClassification",
        "text-classification",
        f"{TEXTS}; the sigmoid of `logits` is the probability of each label, in the order of\n"
        "`id2label` in `config.json`. A text has the labels whose probability is at least their\n"
        "threshold, in `label_thresholds` of `config.json`; the metrics above were measured so.\n"
        '`pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)` gives all\n'
        "probabilities.",
    ),
    Problem.REGRESSION: HeadUsage(
        "AutoModelForSequenceClassification",
        "text-classification",
        f"{TEXTS}; `logits[:, 0]` are the predicted values.",
    ),
    Problem.MULTIPLE_CHOICE: HeadUsage(
        "AutoModelForMultipleChoice",
        "multiple-choice",
        "Encode each choice as the pair of the text and the choice, with the question, where there "
        "is one,\nand a space before it. The model takes tensors of shape (rows, choices, tokens); "
        "`logits` of\nshape (rows, choices) has one score a choice.",
    ),
    Problem.TOKEN_CLASSIFICATION: HeadUsage(
        "AutoModelForTokenClassification",
        "token-classification",
        "`logits` has one entry a token and tag, tags in the order of `id2label` in `config.json`. "
        "A word's\ntag is the one at its first token: the others were not trained.",
    ),
}
CARD = """---
{data}
---

# {name}, fine-tuned {how}

Trained with Layer Surgeon {version}: only {changed}, the head{included} changed; every
other tensor has the values of {others}.

| metric | value | a constant prediction |
|---|--:|--:|
{metrics}
{warnings}
{recipe}

{use}
{onnx}"""
FULL_RECIPE = """```python
from transformers import AutoTokenizer, {auto_class}

model = {auto_class}.from_pretrained("<this folder>")
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```"""
DELTA_RECIPE = """This folder is a delta: `delta.safetensors` holds what was trained. Load it with
safetensors alone:

```python
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, {auto_class}

config = AutoConfig.from_pretrained("<this folder>")
model = {auto_class}.from_pretrained(
    {base}, config=config, ignore_mismatched_sizes=True
)
model.load_state_dict(load_file("<this folder>/delta.safetensors"), strict=False)
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```

or `surgery.load("<folder of the base model>", "<this folder>")`, which checks every name."""

ADAPTER_RECIPE = """This folder is an adapter of PEFT's: `adapter_model.safetensors` holds the
low-rank matrices and the head. Load it with PEFT:

```python
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, {auto_class}

config = AutoConfig.from_pretrained("<this folder>")
base = {auto_class}.from_pretrained(
    {base}, config=config, ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, "<this folder>").eval()
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```

or `surgery.load("<folder of the base model>", "<this folder>")`, which adds the updates to the
weights: its `save_pretrained` writes a plain transformers folder."""
ONNX_RECIPE = """
`model.onnx` is the whole model for onnxruntime; its logits differ from torch's by at most
{max_abs_difference:.1e} on {rows} validation rows:

```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("<this folder>")
session = onnxruntime.InferenceSession("<this folder>/model.onnx")
rows = tokenizer(["a first text", "another"], padding=True, return_tensors="np")
[logits] = session.run(None, {{i.name: rows[i.name]{choices} for i in session.get_inputs()}})
```
"""
RECIPES = {"full": FULL_RECIPE, "delta": DELTA_RECIPE, "adapter": ADAPTER_RECIPE}


def record_format(form: CheckpointForm) -> str:
    """The record's ``format``: the form of the checkpoint, and the version of the record."""
    return f"layer-surgeon/{form}/1"


def documents(record: Mapping[str, Any]) -> dict[str, str]:
    """The files that describe a checkpoint, its record and its card, as file name → text."""
    return {RECORD: json.dumps(record, indent=1), CARD_FILE: card(record)}


def full_documents(record: Mapping[str, Any]) -> dict[str, str]:
    """`documents` for the full form of the checkpoint with this ``record``."""
    return documents({**record, "format": record_format("full")})


def card(record: Mapping[str, Any]) -> str:
    """A model card in Markdown: what was trained, the metrics, and how to load the model."""
    base, head = record["base"], HEAD_USAGE[Problem(record["problem"])]
    form, adapter = record["format"].split("/")[1], record.get("adapter")
    pinned = json.dumps(base["id"])
    if base["revision"]:
        pinned += f", revision={json.dumps(base['revision'])}"
    recipe = RECIPES[form].format(auto_class=head.auto_class, base=pinned)
    return CARD.format(
        data=card_data(record, head.pipeline_tag),
        name=base["id"],
        others=_others(record),
        how=_how(record),
        changed=_CHANGED[adapter["type"]] if adapter else "the layers above",
        included="".join(f", the {part}" for part in record["included"]),
        version=record["versions"]["surgery"],
        metrics=_metrics(record),
        warnings="".join(
            f"\n> **Warning**: {_told(each)}\n" for each in record.get("warnings", ())
        ),
        recipe=recipe,
        use=head.use,
        onnx=_onnx(record),
    )


def _metrics(record: Mapping[str, Any]) -> str:
    """The rows of the table of metrics; records of early versions have no constant's."""
    constant = record.get("baseline", {})
    return "\n".join(
        f"| {name} | {_number(value)} | {_number(constant.get(name))} |"
        for name, value in record["metrics"].items()
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _told(warning: Mapping[str, Any]) -> str:
    remedy = warning["remedy"]
    return f"{warning['message']}." + (f" To try: {remedy}." if remedy else "")


_CHANGED = {"lora": "the low-rank updates of the blocks' linear maps", "bitfit": "the biases"}


def _how(record: Mapping[str, Any]) -> str:
    adapter = record.get("adapter")
    if adapter is None:
        return "on " + (", ".join(record["layers"]) or "the head alone")
    return f"by LoRA of rank {adapter['rank']}" if adapter["type"] == "lora" else "by BitFit"


def _others(record: Mapping[str, Any]) -> str:
    """Where the values of the frozen tensors come from, in words."""
    base = record["base"]
    version = f"(revision {base['revision'] or 'of the mirror'}, {base['fingerprint']})"
    if record["parent"] is None:
        return f"the base model's {version}"
    parent = f"checkpoint {record['parent']}, which this run went on from and whose base is"
    return f"{parent}\n{base['id']} {version}"


def _onnx(record: Mapping[str, Any]) -> str:
    if record.get("onnx") is None:
        return ""
    choices = "[None]" if record["problem"] == Problem.MULTIPLE_CHOICE else ""
    return ONNX_RECIPE.format(choices=choices, **record["onnx"])
