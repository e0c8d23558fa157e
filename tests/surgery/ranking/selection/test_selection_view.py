"""Each format of a selection, read as the tool reads it for which it is written."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from surgery.errors import SelectionEmpty, SelectionMismatch
from surgery.models.blocks import encoder_of, find_blocks, units_of
from surgery.ranking.selection import matched_tensors, selection_view, tensors_of
from surgery.schemas.enums import Granularity
from surgery.schemas.resolved import LayerInfo
from tests.support.models.encoders import CONFIGS, tiny
from tests.support.outside.axolotl_patterns import unfrozen


def infos(kind: str, granularity: Granularity) -> tuple[Any, list[LayerInfo], list[Any]]:
    model = tiny(kind)
    units = units_of(model, find_blocks(model), granularity)
    parts = [LayerInfo(name=u.name, index=u.index or 0, parameters=u.parameters) for u in units]
    return model, parts, units


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_expression_matches_exactly_what_is_chosen(kind: str, granularity: Granularity) -> None:
    model, parts, units = infos(kind, granularity)
    every = list(range(len(parts)))
    subsets = [every[:1], every[-1:], every[::2], random.Random(0).sample(every, len(every) // 2)]
    for places in filter(None, subsets):
        expected = {name for place in places for name in units[place].members}
        some = [parts[place] for place in places]
        pattern = re.compile(selection_view(some, "regex", granularity)["regex"])
        several = selection_view(some, "axolotl", granularity)["unfrozen_parameters"]
        for prefix, module in (("", model), ("base_model.model.", model)):
            names = [f"{prefix}{name}" for name, _ in module.named_parameters()]
            told = {prefix + name for name in expected}
            for apply in (pattern.match, pattern.fullmatch, pattern.search):
                assert {name for name in names if apply(name)} == told
            assert unfrozen(several, names) == told
            assert matched_tensors({"unfrozen_parameters": several}, "axolotl", names) == told
        bare = str(model.base_model_prefix) + "."
        inside = {name.removeprefix(bare) for name in expected}
        names = [name for name, _ in encoder_of(model).named_parameters()]
        for apply in (pattern.match, pattern.fullmatch, pattern.search):
            assert {name for name in names if apply(name)} == inside
        assert tensors_of(some, granularity, names) == inside


def test_the_first_layer_is_not_the_eleventh() -> None:
    layers = [LayerInfo(name=f"encoder.layer.{n}", index=n, parameters=1) for n in range(12)]
    pattern = selection_view([layers[1]], "regex")["regex"]
    assert re.match(pattern, "bert.encoder.layer.1.output.dense.weight")
    assert not re.match(pattern, "bert.encoder.layer.11.output.dense.weight")
    assert not re.match(pattern, "bert.other.layer.1.output.dense.weight")
    tensor = LayerInfo(name="encoder.layer.1.output.dense.weight", index=1, parameters=1)
    pattern = selection_view([tensor], "regex", Granularity.TENSOR)["regex"]
    assert re.match(pattern, "encoder.layer.1.output.dense.weight")
    assert not re.match(pattern, "encoder.layer.1.output.dense.weight_norm")
    assert not re.match(pattern, "encoder.layer.1.attention.output.dense.weight")


def test_peft_names_layers_of_one_list_only() -> None:
    _, parts, _ = infos("bert", Granularity.LAYER)
    view = selection_view(parts[1:], "peft")
    assert view == {"layers_to_transform": [1, 2], "layers_pattern": "layer"}
    _, funnel, _ = infos("funnel", Granularity.LAYER)
    assert selection_view(funnel[2:], "peft") == {
        "layers_to_transform": [0],
        "layers_pattern": "blocks.1",
    }
    with pytest.raises(SelectionMismatch, match="one list"):
        selection_view(funnel, "peft")
    _, tensors, _ = infos("bert", Granularity.TENSOR)
    with pytest.raises(SelectionMismatch, match="whole layers"):
        selection_view(tensors, "peft", Granularity.TENSOR)
    for form in ("regex", "peft", "axolotl"):
        with pytest.raises(SelectionEmpty):
            selection_view([], form)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", CONFIGS)
def test_peft_adapts_exactly_the_layers_that_are_named(kind: str) -> None:
    _, parts, _ = infos(kind, Granularity.LAYER)
    for part in parts:
        model, _, units = infos(kind, Granularity.LAYER)
        (unit,) = (unit for unit in units if unit.name == part.name)
        linear = {name for name, each in model.named_modules() if isinstance(each, nn.Linear)}
        inside = {name for unit in units for name in linear if f"{name}.weight" in unit.members}
        targets = sorted({name.rpartition(".")[2] for name in inside})
        config = LoraConfig(target_modules=targets, **selection_view([part], "peft"))
        adapted = inject_adapter_in_model(config, model)
        found = adapters(adapted)
        assert found == {name for name in linear if f"{name}.weight" in unit.members}


def adapters(model: nn.Module) -> set[str]:
    """The modules that got an adapter."""
    return {n.partition(".lora_")[0] for n, _ in model.named_parameters() if ".lora_A" in n}


# PEFT itself asks transformers for the old name.
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@PEFT
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_adapts_is_what_is_said_to_match(kind: str, bare: bool) -> None:
    """As its users call it: get_peft_model on a task model, and on an encoder alone."""
    _, parts, _ = infos(kind, Granularity.LAYER)
    for part in parts:
        model, _, units = infos(kind, Granularity.LAYER)
        (unit,) = (unit for unit in units if unit.name == part.name)
        base = encoder_of(model) if bare else model
        names = [name for name, _ in base.named_parameters()]
        linear = {f"{n}.weight" for n, each in base.named_modules() if isinstance(each, nn.Linear)}
        view = selection_view([part], "peft")
        matched = matched_tensors(view, "peft", names)
        prefix = f"{model.base_model_prefix}."
        assert matched == {n.removeprefix(prefix) if bare else n for n in unit.members}
        targets = sorted({name.split(".")[-2] for name in matched & linear})
        adapted = get_peft_model(base, LoraConfig(target_modules=targets, **view))
        found = {name.removeprefix("base_model.model.") for name in adapters(adapted)}
        assert {f"{name}.weight" for name in found} == matched & linear


@PEFT
def test_the_real_encoder_gets_adapters_where_they_were_chosen(real_model: Path) -> None:
    names = [f"encoder.layer.{n}" for n in (1, 4)]
    chosen = [LayerInfo(name=name, index=int(name[-1]), parameters=1) for name in names]
    for head in (AutoModel, AutoModelForSequenceClassification):
        model = head.from_pretrained(real_model)
        view = selection_view(chosen, "peft")
        config = LoraConfig(target_modules=["query", "value", "dense"], **view)
        found = adapters(get_peft_model(model, config))
        assert len(found) == 2 * 5  # query, value and three modules called dense
        assert all(any(f".{name}." in each for name in names) for each in found)


@pytest.mark.parametrize(
    ("kind", "targets"), [("bert", ["query", "dense"]), ("funnel", ["q_head"])]
)
def test_peft_adapts_the_chosen_layers(kind: str, targets: list[str]) -> None:
    model, parts, _ = infos(kind, Granularity.LAYER)
    view = selection_view(parts[1:2], "peft")
    adapted = inject_adapter_in_model(LoraConfig(target_modules=targets, **view), model)
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert names
    assert all(f".{parts[1].name}." in name for name in names)
