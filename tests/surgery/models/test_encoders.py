"""Every encoder from its checkpoint to logits: loading, padding, heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from surgery.data.tokens.dataset import Batch, TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import ModelUnsupported
from surgery.models.blocks import encoder_of, head_parameters, model_inputs, part_of
from surgery.models.loading import LoadedModel, renew_head
from surgery.models.source.resolve import ENCODERS, inspect_model, local_model
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.enums import Granularity, Problem
from tests.support.collected import one_in
from tests.support.models.checkpoints import LABELS, loaded_from, offline, task, write_checkpoint
from tests.support.models.encoders import CONFIGS, NO_CHOICES, padded_batch, tiny

# Its blocks halve the tokens by averaging neighbours: the last token of a row is averaged with the
# padding after it, and where the halves fall depends on the padded length.
MIXES_PADDING = {"funnel"}
PROBLEMS = [
    (kind, problem)
    for kind in CONFIGS
    for problem in Problem
    if not (problem is Problem.MULTIPLE_CHOICE and kind in NO_CHOICES)
]


@pytest.mark.parametrize(("kind", "problem"), one_in(3, PROBLEMS))
def test_a_row_alone_equals_the_row_in_a_batch(kind: str, problem: Problem, tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), task(problem))
    for pairs in (False, True):
        check_rows(kind, loaded, task(problem, pairs=pairs))


def check_rows(kind: str, loaded: LoadedModel, data: TaskData) -> None:
    problem = data.problem
    encoded = encode(data.train, loaded.tokenizer, 16)

    def batch_and_logits(rows: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        batch = encoded.batch(rows)
        with torch.no_grad():
            return batch, loaded.model(**model_inputs(loaded.model, batch)).logits

    batch, together = batch_and_logits(range(len(encoded)))
    assert len({tuple(row.flatten().tolist()) for row in together}) == 6  # the text has a say
    classes = 2 if problem is Problem.MULTIPLE_CHOICE else data.outputs
    numbered = (len(encoded),) if problem is Problem.MULTI_LABEL else batch["labels"].shape
    assert together.shape == (*numbered, classes)
    for row in range(len(encoded)):
        own, alone = batch_and_logits([row])
        whole = batch["input_ids"].shape == (6, *own["input_ids"].shape[1:])
        if kind in MIXES_PADDING and not whole:
            continue
        expected = together[row : row + 1]
        if problem is Problem.TOKEN_CLASSIFICATION:
            alone, expected = alone[own["labels"] >= 0], expected[batch["labels"][[row]] >= 0]
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [None, Problem.CLASSIFICATION], ids=["encoder", "task"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_headers_tell_what_is_loaded(kind: str, head: Problem | None, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", kind, head)
    source = local_model(folder)
    info = inspect_model(source, offline(folder))
    loaded = loaded_from(folder, task())
    for granularity in Granularity:
        units = [(u.name, u.index, u.parameters) for u in layers_of_model(loaded, granularity)]
        told = info.at(granularity)
        assert [(part.name, part.index, part.parameters) for part in told] == units
    assert info.hidden_size == 16
    assert ENCODERS[info.model_type] == loaded.model.base_model_prefix
    for part, size in info.groups.items():
        module = part_of(loaded.model, part)
        parameters = [] if module is None else list(module.parameters())
        assert size == sum(parameter.numel() for parameter in parameters)
    assert info.groups["embeddings"] > 0


@pytest.mark.parametrize(("kind", "problem"), one_in(3, PROBLEMS))
def test_a_new_head_is_drawn_from_its_seed(kind: str, problem: Problem, tmp_path: Path) -> None:
    folder, data = write_checkpoint(tmp_path / "m", kind), task(problem)
    first, second = loaded_from(folder, data, seed=1), loaded_from(folder, data, seed=2)
    head = head_parameters(first.model)
    assert set(head) <= set(first.new)
    drawn = {name for name, tensor in head.items() if tensor.unique().numel() > 1}
    assert drawn  # biases are zero and norms are one whatever the seed

    def state(loaded: LoadedModel) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}

    one, two = state(first), state(second)
    differ = {name for name in one if not torch.equal(one[name], two[name])}
    assert drawn <= differ <= set(first.new)
    assert set(renew_head(second.model, 1)) == set(head)
    again = state(second)
    assert all(torch.equal(again[name], one[name]) for name in head)
    assert all(torch.equal(again[name], two[name]) for name in two.keys() - head.keys())


@pytest.mark.parametrize(("kind", "problem"), one_in(3, PROBLEMS))
def test_a_head_that_fits_is_kept(kind: str, problem: Problem, tmp_path: Path) -> None:
    labels = max(1, len(LABELS[problem]))
    folder = write_checkpoint(tmp_path / "m", kind, problem, labels)
    loaded = loaded_from(folder, task(problem))
    assert loaded.new == []
    saved = tiny(kind, dtype=torch.float32, problem=problem, labels=labels)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    batch = model_inputs(saved, padded_batch([9, 6], labels=3, kind=kind, problem=problem))
    torch.testing.assert_close(saved(**batch).logits, loaded.model(**batch).logits)
    anew = loaded_from(folder, task(problem), head="new")
    assert anew.new == sorted(head_parameters(anew.model))


@pytest.mark.parametrize(
    ("saved", "wanted"),
    [
        (Problem.TOKEN_CLASSIFICATION, Problem.CLASSIFICATION),
        (Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE),
        (Problem.REGRESSION, Problem.MULTIPLE_CHOICE),
        (Problem.MULTIPLE_CHOICE, Problem.REGRESSION),
    ],
)
def test_a_head_of_another_problem_is_not_kept(
    saved: Problem, wanted: Problem, tmp_path: Path
) -> None:
    """Its tensors may have the names and shapes of the wanted one's."""
    folder = write_checkpoint(
        tmp_path / "m", "bert", saved, 1 if saved is Problem.REGRESSION else 2
    )
    assert {"classifier.weight", "classifier.bias"} <= set(loaded_from(folder, task(wanted)).new)


@pytest.mark.parametrize("kind", sorted(NO_CHOICES))
def test_no_head_for_the_problem(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match=r"multiple_choice.*classification.*token_class"):
        loaded_from(write_checkpoint(tmp_path / "m", kind), task(Problem.MULTIPLE_CHOICE))


def test_big_bird_attends_to_everything_whatever_the_lengths(tmp_path: Path) -> None:
    folder, data = write_checkpoint(tmp_path / "m", "big_bird"), task()
    config = json.loads((folder / "config.json").read_text())
    sparse = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
    (folder / "config.json").write_text(json.dumps(config | sparse))
    loaded = loaded_from(folder, data)
    batch = padded_batch([38])
    before = loaded.model(**model_inputs(loaded.model, batch)).logits
    loaded.model(**model_inputs(loaded.model, padded_batch([5])))
    assert torch.equal(loaded.model(**model_inputs(loaded.model, batch)).logits, before)
    assert loaded.model.config.attention_type == "original_full"


@pytest.mark.parametrize("kind", ["bert", "xlnet", "funnel"])
def test_a_config_cannot_change_what_the_forward_returns(kind: str, tmp_path: Path) -> None:
    folder, data = write_checkpoint(tmp_path / "m", kind), task()
    config = json.loads((folder / "config.json").read_text())
    odd = {
        "return_dict": False, "output_hidden_states": True, "output_attentions": True,
        "use_mems_eval": True, "use_return_dict": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | odd))
    loaded = loaded_from(folder, data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 1])
    assert set(loaded.model(**model_inputs(loaded.model, batch))) == {"logits"}


@pytest.mark.parametrize("kind", ["bert", "xlnet", "albert", "funnel"])
@pytest.mark.parametrize("lost", ["block", "embeddings"])
def test_weights_that_lack_part_of_the_encoder(kind: str, lost: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", kind)
    loaded = loaded_from(folder, task())
    names = dict(encoder_of(loaded.model).named_parameters())
    module = loaded.blocks[0].module if lost == "block" else part_of(loaded.model, "embeddings")
    assert module is not None
    gone = next(name for name in names if names[name] is next(module.parameters()))
    weights = load_file(folder / "model.safetensors")
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=gone):
        loaded_from(folder, task())


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_embeddings_can_train_beside_the_head(kind: str, tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), task())
    trained = freeze_all_but(loaded, [], ["embeddings"])
    embeddings = part_of(loaded.model, "embeddings")
    assert isinstance(embeddings, nn.Module)
    wanted = {id(p) for p in embeddings.parameters()} | {id(p) for p in loaded.head.values()}
    assert {id(parameter) for parameter in trained.values()} == wanted
