"""What `--arm` may say, and the arm that a request gets of it."""

from __future__ import annotations

from typing import Any

import pytest

from surgeon.commands.comparing.arms import arm_from
from surgeon.terminal.results.arms import NoCommand, arm_text
from surgery.schemas.jobs.comparison import ArmSpec, ComparisonSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.adapter import LORA_LEARNING_RATE

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("top_k=2", {"name": "top_k-2", "selection": {"policy": "top_k", "k": 2}}),
        ("top_k=2,learning_rate=1e-4", {
            "name": "top_k-2-1e-4", "selection": {"policy": "top_k", "k": 2},
            "learning_rate": 1e-4,
        }),
        ("layers=1,4,learning_rates=1e-4,3e-4", {
            "name": "layers-1-4-1e-4-3e-4", "selection": {"policy": "layers", "layers": [1, 4]},
            "learning_rates": [1e-4, 3e-4],
        }),
        ("tangent's: top-k=2,method=tangent", None),
        ("tangent: top-k=2,method=tangent", {
            "name": "tangent",
            "selection": {"policy": "top_k", "k": 2, "ranking": {"method": "tangent"}},
        }),
        ("all,include=embeddings,pooler", {
            "name": "all-embeddings-pooler",
            "selection": {"policy": "all", "include": ["embeddings", "pooler"]},
        }),
        ("random_k=2,seed=7,granularity=sublayer", {
            "name": "random_k-2-7-sublayer",
            "selection": {"policy": "random_k", "k": 2, "seed": 7, "granularity": "sublayer"},
        }),
        ("lora=4,alpha=8,dropout=0.1", {
            "name": "lora-4-8-0.1",
            "adapter": {"type": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1},
        }),
        ("gradual: last_k=2, unfreeze_every_epochs=1", {
            "name": "gradual", "selection": {"policy": "last_k", "k": 2},
            "layer_schedule": {"type": "gradual", "every_epochs": 1, "every_steps": None},
        }),
        ("all,lisa_interval=5,lisa_layers=2", {
            "name": "all-5-2", "selection": {"policy": "all"},
            "layer_schedule": {"type": "lisa", "layers": 2, "interval": 5},
        }),
        ("search,search=se_1", {
            "name": "search-se_1", "selection": {"policy": "search", "search": "se_1"},
        }),
        ("top_share=0.8,ranking=rk_1", {
            "name": "top_share-0.8-rk_1",
            "selection": {"policy": "top_share", "share": 0.8, "ranking": "rk_1"},
        }),
    ],
)  # fmt: skip
def test_an_arm_is_a_way_and_its_own_options(text: str, arm: Json | None) -> None:
    if arm is None:
        with pytest.raises(Exception, match="is no name"):
            arm_from(text)
        return
    assert arm_from(text) == arm
    ArmSpec.model_validate(arm)


def rates(training: Json, *arms: str) -> list[float | None]:
    """The learning rates of arms of their own, as a request says them with its defaults."""
    spec = ComparisonSpec.model_validate(
        {"model": "m", "dataset": "d", "arms": [arm_from(arm) for arm in arms],
         "training": training}
    )  # fmt: skip
    again = ComparisonSpec.model_validate(spec.model_dump(mode="json"))  # as a retry reads it
    assert again == spec
    return [arm.learning_rate for arm in spec.arms]


def test_lora_has_a_rate_of_its_own_unless_one_is_named() -> None:
    own = LORA_LEARNING_RATE
    assert rates({}, "lora=8", "bitfit", "all") == [own, None, None]
    assert rates({"epochs": 2}, "lora=8,learning_rate=1e-3") == [1e-3]
    assert rates({}, "lora=8,learning_rates=1e-4,1e-3") == [None]
    assert rates({"learning_rate": 5e-5}, "lora=8") == [None]  # named, though it is the default
    assert rates({"learning_rates": [1e-4, 1e-3]}, "lora=8") == [None]
    assert rates({"learning_rates": None}, "lora=8") == [own]


@pytest.mark.parametrize(
    ("adapter", "training", "rate"),
    [
        ({"type": "lora"}, {}, LORA_LEARNING_RATE),
        ({"type": "lora"}, {"epochs": 2}, LORA_LEARNING_RATE),
        ({"type": "lora"}, {"learning_rate": 5e-5}, 5e-5),  # named, though it is the default
        ({"type": "lora"}, {"learning_rates": [1e-4, 1e-3]}, 5e-5),
        ({"type": "bitfit"}, {}, 5e-5),
        (None, {}, 5e-5),
    ],
)
def test_a_finetune_by_lora_has_the_rate_of_an_arm(
    adapter: Json | None, training: Json, rate: float
) -> None:
    trained = {"adapter": adapter} if adapter else {"selection": {"policy": "all"}}
    body: Json = {"model": "m", "dataset": "d", **trained, "training": training}
    spec = FinetuneSpec.model_validate(body)
    assert spec.training.learning_rate == rate
    stored = spec.model_dump(mode="json")
    assert FinetuneSpec.model_validate(stored).model_dump(mode="json") == stored


@pytest.mark.parametrize(
    "text",
    [
        "all", "head_only", "top_k=2", "layers=1,4", "layers=encoder.layer.1,3", "top_share=0.8",
        "max_parameters=4000", "few:last_k=2", "lora", "lora=4,alpha=16.0,dropout=0.1", "bitfit",
        "top_k=2,method=tangent,learning_rate=0.0001", "all,learning_rates=0.0001,0.001",
        "best:top_k=1,ranking=rk_1", "search,search=se_1", "random_k=2,seed=3",
        "last_k=1,granularity=sublayer", "all,include=pooler,embeddings",
    ],
)  # fmt: skip
def test_an_arm_is_written_as_it_is_read(text: str) -> None:
    arm = arm_from(text)
    assert arm_text(arm) == text
    assert arm_from(arm_text(arm)) == arm


def test_what_an_arm_has_no_option_for_is_no_command() -> None:
    ranked: Json = {"policy": "top_k", "k": 1, "ranking": {"method": "fisher", "samples": 9}}
    for more in ({"layer_schedule": {"type": "gradual"}}, {"selection": ranked}):
        with pytest.raises(NoCommand):
            arm_text({"name": "a", "selection": {"policy": "all"}, **more})
