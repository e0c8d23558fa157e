"""Whose fault a failure of the forward pass is: the model's config, this package, or the device."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from surgery.io.library_errors import failure_of_model
from surgery.models.blocks import model_inputs
from tests.support.models.encoders import CONFIGS, padded_batch
from worker.child.failures import unexpected
from worker.protocol import RankingOrder


def failure(kind: str = "bert", hook: Callable[..., Any] | None = None, **keys: Any) -> Exception:
    """What a forward pass of a model with these keys in its config raises."""
    config = AutoConfig.for_model(kind, **CONFIGS[kind] | keys)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    if hook is not None:
        model.get_submodule("bert.encoder.layer.0").register_forward_hook(hook)
    with pytest.raises(Exception) as raised:  # noqa: PT011  # each library has its own
        model(**model_inputs(model, padded_batch([12, 9], kind=kind)))
    return raised.value


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("bert", {"chunk_size_feed_forward": 7}),
        ("bert", {"type_vocab_size": 0}),
        ("roberta", {"max_position_embeddings": 4}),
        ("mpnet", {"relative_attention_num_buckets": 1}),
        ("deberta-v2", {"conv_kernel_size": 2}),
        ("longformer", {"attention_window": [4, 4, 2]}),
    ],
    ids=["chunks", "types", "positions", "buckets", "convolution", "window"],
)
def test_sizes_that_do_not_fit_are_the_models_fault(kind: str, keys: dict[str, Any]) -> None:
    problem = unexpected(failure(kind, **keys), RankingOrder.model_construct()).as_problem()
    assert problem["code"] == "model_unsupported"
    assert f"modeling_{kind.replace('-', '_')}) fails on a batch: " in problem["detail"]


def test_a_fault_of_a_hook_is_none_of_the_model() -> None:
    def broken(*_: object) -> None:
        raise ValueError("of this package")

    names = {"__name__": "surgery.gradients.hooks", "ValueError": ValueError}
    hook = FunctionType(broken.__code__, names)
    error = failure(hook=hook)
    assert failure_of_model(error) is None
    assert unexpected(error, RankingOrder.model_construct()).as_problem()["code"] == "internal"


class Broken(torch.autograd.Function):
    """What a model may hold that is no use when gradients are asked for."""

    @staticmethod
    def forward(_: Any, states: torch.Tensor) -> torch.Tensor:
        return states.clone()

    @staticmethod
    def backward(_: Any, *__: Any) -> Any:
        raise RuntimeError("shapes differ")


def test_a_backward_pass_that_fails_is_the_models_fault() -> None:
    with pytest.raises(RuntimeError) as raised:
        Broken.apply(torch.ones(2, requires_grad=True)).sum().backward()
    failed = failure_of_model(raised.value)
    assert failed is not None
    assert failed.detail.startswith("the model's own code (backward) fails on a batch: ")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("x"), RuntimeError("CUDA error: an illegal memory access")],
    ids=["memory", "device"],
)
def test_what_the_device_says_is_none_of_the_model(error: Exception) -> None:
    def raises(*_: object) -> None:
        raise error

    assert failure_of_model(failure(hook=raises)) is None
