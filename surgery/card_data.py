"""The metadata of a model card, as the Hugging Face Hub reads it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TAGS = ["layer-surgeon", "surgical-fine-tuning"]


def card_data(record: Mapping[str, Any], pipeline_tag: str) -> str:
    """YAML: the base model, the dataset, and each defined metric as an entry of the model index."""
    from huggingface_hub import ModelCardData

    base, hub = record["base"]["id"], record["dataset"].get("hub")
    given: dict[str, Any] = {}
    results = _results(record, pipeline_tag)
    if results:
        given = {"model_name": f"{base.rpartition('/')[2]} fine-tuned", "eval_results": results}
    data = ModelCardData(
        base_model=base, base_model_relation="finetune", library_name="transformers",
        pipeline_tag=pipeline_tag, tags=TAGS, datasets=[hub] if hub else None,
        metrics=list(record["metrics"]) or None, **given,
    )  # fmt: skip
    return data.to_yaml()


def _results(record: Mapping[str, Any], pipeline_tag: str) -> list[Any]:
    from huggingface_hub import EvalResult

    dataset = record["dataset"]
    name = dataset.get("name", "validation rows")
    return [
        EvalResult(
            task_type=pipeline_tag, dataset_type=dataset.get("hub") or name, dataset_name=name,
            dataset_config=dataset.get("config"), dataset_revision=dataset.get("revision"),
            dataset_split=dataset.get("split"), metric_type=metric, metric_value=value,
        )
        for metric, value in record["metrics"].items()
        if value is not None
    ]  # fmt: skip
