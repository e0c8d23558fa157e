"""Exactly what is selected trains: by identity, with nothing shared, and everything else hashed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.errors import SelectionMismatch, SurgeryError
from surgery.models.blocks import Unit, encoder_of, model_inputs
from surgery.models.layers import parts_of
from surgery.models.loading import LoadedModel
from surgery.models.source.resolve import inspect_model, local_model
from surgery.models.trainable import (
    freeze_all_but,
    frozen_digests,
    included_parameters,
    layers_of_model,
    named_layers,
)
from surgery.ranking.selection import choose_layers
from surgery.schemas.enums import Granularity, Policy
from surgery.schemas.jobs.selection import SelectionSpec, selection_from
from tests.support.models.checkpoints import loaded_from, offline, task, write_checkpoint
from tests.support.models.encoders import CONFIGS, padded_batch


def load(kind: str, folder: Path) -> LoadedModel:
    return loaded_from(write_checkpoint(folder / "m", kind), task())


def step(loaded: LoadedModel, kind: str, trained: dict[str, torch.nn.Parameter]) -> None:
    """One large step of plain gradient descent on what trains."""
    batch = padded_batch([9, 6], kind=kind)
    loaded.model(**model_inputs(loaded.model, batch)).logits.square().sum().backward()
    with torch.no_grad():
        for parameter in trained.values():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_but_the_selection_moves(
    kind: str, granularity: Granularity, tmp_path: Path
) -> None:
    loaded = load(kind, tmp_path)
    units = layers_of_model(loaded, granularity)
    chosen = units[1::3] or units
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    trained = freeze_all_but(loaded, chosen, [])
    expected = {name for unit in chosen for name in unit.members} | set(loaded.head)
    assert set(trained) == expected
    assert {n for n, p in loaded.model.named_parameters() if p.requires_grad} == expected
    digests = frozen_digests(loaded.model)
    step(loaded, kind, trained)
    assert frozen_digests(loaded.model) == digests
    after = loaded.model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved <= expected
    assert any(name in moved for unit in chosen for name in unit.members)
    assert set(digests) | expected == set(before)


def test_a_digest_is_the_sha256_of_the_bytes_and_tells_a_change(tmp_path: Path) -> None:
    loaded = load("bert", tmp_path)
    freeze_all_but(loaded, layers_of_model(loaded)[1:], [])
    digests = frozen_digests(loaded.model)
    name = "bert.encoder.layer.0.output.dense.weight"
    tensor = loaded.model.get_parameter(name)
    assert digests[name] == hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
    with torch.no_grad():
        tensor[0, 0] += 1e-6
    changed = frozen_digests(loaded.model)
    assert [key for key in digests if digests[key] != changed[key]] == [name]


def test_buffers_that_a_checkpoint_holds_are_hashed_too(tmp_path: Path) -> None:
    loaded = load("bert", tmp_path)
    loaded.model.register_buffer("counted", torch.zeros((), dtype=torch.bfloat16))
    loaded.model.register_buffer("passing", torch.zeros(2), persistent=False)
    before = frozen_digests(loaded.model)
    assert "counted" in before
    assert "passing" not in before
    loaded.model.get_buffer("counted").add_(1)
    assert frozen_digests(loaded.model) != before


def tie(loaded: LoadedModel, first: str, second: str) -> None:
    """Make two places of the encoder one parameter."""
    encoder = encoder_of(loaded.model)
    path, _, name = second.rpartition(".")
    setattr(encoder.get_submodule(path), name, encoder.get_parameter(first))


def part(loaded: LoadedModel, name: str) -> list[Unit]:
    every = [unit for kind in Granularity for unit in layers_of_model(loaded, kind)]
    return [next(unit for unit in every if unit.name == name)]


TWIN = "encoder.layer.0.attention.output.dense.twin"
LOWER, UPPER = "encoder.layer.0.output.dense.weight", "encoder.layer.2.output.dense.weight"


@pytest.mark.parametrize(
    ("tied", "selected"),
    [
        ((LOWER, UPPER), "encoder.layer.0"),
        ((LOWER, UPPER), "encoder.layer.2.feed_forward"),
        ((LOWER, UPPER), LOWER),
        ((LOWER, TWIN), TWIN),
        ((LOWER, TWIN), "encoder.layer.0.attention"),
        (
            ("embeddings.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.weight"),
            "encoder.layer.1",
        ),
    ],
)
def test_what_is_shared_with_the_unselected_is_refused(
    tied: tuple[str, str], selected: str, tmp_path: Path
) -> None:
    loaded = load("bert", tmp_path)
    tie(loaded, *tied)
    with pytest.raises(SelectionMismatch, match="is shared with") as refused:
        freeze_all_but(loaded, part(loaded, selected), [])
    assert refused.value.faults[0].detail == "select both, or neither"


def test_both_places_of_a_shared_parameter_or_neither(tmp_path: Path) -> None:
    loaded = load("bert", tmp_path)
    tie(loaded, LOWER, UPPER)
    layers = layers_of_model(loaded)
    trained = freeze_all_but(loaded, [layers[0], layers[2]], [])
    assert sum(parameter is trained[f"bert.{LOWER}"] for parameter in trained.values()) == 1
    assert f"bert.{LOWER}" not in freeze_all_but(loaded, [layers[1]], [])
    other = load("bert", tmp_path / "other")
    tie(other, "embeddings.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.weight")
    tie(other, LOWER, TWIN)
    assert f"bert.{TWIN}" in freeze_all_but(other, part(other, "encoder.layer.0"), [])
    whole = freeze_all_but(other, part(other, "encoder.layer.1"), ["embeddings"])
    assert "bert.embeddings.LayerNorm.weight" in whole


@pytest.mark.parametrize("granularity", Granularity)
def test_the_layers_of_an_albert_are_one(granularity: Granularity, tmp_path: Path) -> None:
    """Its block runs three times and is listed once: selected, it trains in every place."""
    loaded = load("albert", tmp_path)
    units = layers_of_model(loaded, granularity)
    assert {unit.index for unit in units} == {0}
    for unit in units:
        trained = freeze_all_but(loaded, [unit], [])
        assert set(trained) == {*unit.members, *loaded.head}


def test_included_parts_count_once(tmp_path: Path) -> None:
    loaded = load("bert", tmp_path)
    info = inspect_model(local_model(tmp_path / "m"), offline(tmp_path / "m"))
    for parts in (["embeddings"], ["pooler", "embeddings"], ["pooler", "pooler"]):
        counted = sum(p.numel() for p in included_parameters(loaded, parts))
        assert counted == sum(info.groups[name] for name in set(parts))
    with pytest.raises(SelectionMismatch, match="no pooler"):
        included_parameters(load("distilbert", tmp_path / "d"), ["pooler"])


def test_names_are_found_again_or_refused(tmp_path: Path) -> None:
    loaded = load("bert", tmp_path)
    names = ["encoder.layer.2.attention", "encoder.layer.0.feed_forward"]
    found = named_layers(loaded, names, Granularity.SUBLAYER)
    assert [unit.name for unit in found] == names
    with pytest.raises(SelectionMismatch, match="does not have all") as refused:
        named_layers(loaded, names, Granularity.TENSOR)
    assert len(refused.value.faults) == 2


def test_old_names_of_norms_are_those_of_the_model(tmp_path: Path) -> None:
    """Checkpoints as old as BERT's own write gamma and beta."""
    folder = write_checkpoint(tmp_path / "m", "bert")
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    info = inspect_model(local_model(folder), offline(folder))
    units = layers_of_model(loaded_from(folder, task()), Granularity.TENSOR)
    assert [part.name for part in info.at(Granularity.TENSOR)] == [unit.name for unit in units]


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2", "modernbert", "longformer"])
def test_variants_have_the_order_of_their_modules(kind: str, tmp_path: Path) -> None:
    """Tensors that only some configs have."""
    from transformers import AutoConfig, AutoModel

    changes: dict[str, dict[str, Any]] = {
        "deberta": {"talking_head": True},
        "deberta-v2": {"share_att_key": False},
        "modernbert": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
        "longformer": {},
    }
    model = AutoModel.from_config(AutoConfig.for_model(kind, **CONFIGS[kind] | changes[kind]))
    sizes = {name: tensor.numel() for name, tensor in sorted(model.named_parameters())}
    found = [part.name for part in parts_of(sizes, "none", Granularity.TENSOR)]
    blocks = {part.name for part in parts_of(sizes, "none", Granularity.LAYER)}
    inside = [n for n, _ in model.named_parameters() if any(n.startswith(f"{b}.") for b in blocks)]
    assert found == inside


def test_options_of_a_command_line_make_one_selection(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys([p.value for p in Policy])
    for given, expected in (
        ({"top_k": 2}, {"policy": "top_k", "k": 2}),
        ({"bottom_k": 1, "granularity": "tensor"},
         {"policy": "bottom_k", "k": 1, "granularity": "tensor"}),
        ({"top_share": 0.5}, {"policy": "top_share", "share": 0.5}),
        ({"max_parameters": 9, "include": "embeddings, pooler"},
         {"policy": "max_parameters", "max_parameters": 9, "include": ["embeddings", "pooler"]}),
        ({"layers": "0, encoder.layer.1"},
         {"policy": "layers", "layers": [0, "encoder.layer.1"]}),
        ({"random_k": 2, "seed": 7}, {"policy": "random_k", "k": 2, "seed": 7}),
        ({"head_only": True, "all": False}, {"policy": "head_only"}),
        ({"top_k": 0}, {"policy": "top_k", "k": 0}),
    ):  # fmt: skip
        assert selection_from(nothing | given) == expected
        assert selection_from(nothing | given, Policy.ALL) == expected
    assert selection_from(nothing, Policy.ALL) == {"policy": "all"}
    for wrong in ({}, {"top_k": 1, "all": True}):
        with pytest.raises(SurgeryError, match="exactly one of --top-k, --top-share"):
            selection_from(nothing | wrong)
    loaded = load("bert", tmp_path)
    named = SelectionSpec.model_validate(selection_from(nothing | {"layers": "1"}))
    assert [unit.index for unit in choose_layers(named, layers_of_model(loaded))] == [1]
