"""Every encoder from its checkpoint to logits: loading, padding, heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from encoders import CONFIGS, NO_CHOICES, padded_batch, tiny
from safetensors.torch import load_file, save_file
from tokenizers_of import tokenizer_of
from torch import nn
from transformers import PreTrainedTokenizerFast

from surgery.architecture import encoder_of, head_parameters, model_inputs, part_of
from surgery.data import TaskData, encode
from surgery.errors import ModelUnsupported
from surgery.loading import LoadedModel, load_model, renew_head
from surgery.models import ENCODERS, inspect_model, local_model
from surgery.selection import freeze_all_but, layers_of_model
from surgery.sources import Sources
from surgery.spec import Problem

TEXTS = ["a b c d e f g h", "a", "b d f h", "o n m l k j", "c a", "e e e"]
SECONDS = ["b c", "d e f g", "h", "a a a", "k l m n o", "f"]
LABELS = {
    Problem.CLASSIFICATION: ["no", "yes"],
    Problem.REGRESSION: [],
    Problem.MULTIPLE_CHOICE: [],
    Problem.TOKEN_CLASSIFICATION: ["O", "B", "I"],
}
# Its blocks halve the tokens by averaging neighbours: the last token of a row is averaged with the
# padding after it, and where the halves fall depends on the padded length.
MIXES_PADDING = {"funnel"}
PROBLEMS = [
    (kind, problem)
    for kind in CONFIGS
    for problem in Problem
    if not (problem is Problem.MULTIPLE_CHOICE and kind in NO_CHOICES)
]
OTHER_PROBLEMS = [
    (kind, problem)
    for kind, problem in PROBLEMS
    if problem in {Problem.MULTIPLE_CHOICE, Problem.TOKEN_CLASSIFICATION}
]
Write = Callable[..., Path]


def task(problem: Problem = Problem.CLASSIFICATION, *, pairs: bool = False) -> TaskData:
    columns: dict[str, Any] = {"text": TEXTS, "label": [0, 1, 0, 1, 1, 0]}
    if pairs:
        columns["text_pair"] = SECONDS
    table = Dataset.from_dict(columns)
    return TaskData(
        train=table, validation=table, problem=problem, labels=LABELS[problem], metrics=()
    )


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Write a checkpoint: the encoder alone, or with the head of ``head``; its folder."""

    def write(kind: str, head: Problem | None = None, labels: int = 2) -> Path:
        folder = tmp_path / f"{kind.replace(' ', '-')}-{head}"
        model = tiny(
            kind, dtype=torch.float32, problem=head or Problem.CLASSIFICATION, labels=labels
        )
        (model if head else encoder_of(model)).save_pretrained(folder)
        tokenizer_of(kind).save_pretrained(folder)
        return folder

    return write


def loaded_from(folder: Path, data: TaskData, seed: int = 0, head: str = "auto") -> LoadedModel:
    sources = Sources(mirrors=(), cache=folder.parent / "cache", offline=True)
    return load_model(local_model(folder), sources, data, seed=seed, head=head)


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_row_alone_equals_the_row_in_a_batch(kind: str, pairs: bool, written: Write) -> None:
    data = task(pairs=pairs)
    loaded = loaded_from(written(kind), data)
    encoded = encode(data.train, loaded.tokenizer, 16)
    rows = range(len(TEXTS))
    if kind in MIXES_PADDING:
        rows = [row for row in rows if encoded.lengths[row] == encoded.lengths[0]]
    with torch.no_grad():
        batch = model_inputs(loaded.model, encoded.batch(rows))
        together = loaded.model(**batch).logits
        for place, row in enumerate(rows):
            alone = loaded.model(**model_inputs(loaded.model, encoded.batch([row]))).logits
            torch.testing.assert_close(together[place : place + 1], alone, rtol=0, atol=1e-5)
    assert len(set(together[:, 0].tolist())) == len(rows)  # the text has a say
    whole = loaded.model(**model_inputs(loaded.model, encoded.batch(range(len(TEXTS))))).logits
    assert whole.shape == (6, 2)
    assert whole.isfinite().all()


@pytest.mark.parametrize("head", [None, Problem.CLASSIFICATION], ids=["encoder", "task"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_headers_tell_what_is_loaded(kind: str, head: Problem | None, written: Write) -> None:
    folder = written(kind, head)
    source = local_model(folder)
    info = inspect_model(source, Sources(mirrors=(), cache=folder.parent / "cache", offline=True))
    loaded = loaded_from(folder, task())
    assert info.layers == layers_of_model(loaded)
    assert info.hidden_size == 16
    assert ENCODERS[info.model_type] == loaded.model.base_model_prefix
    for part, size in info.groups.items():
        module = part_of(loaded.model, part)
        parameters = [] if module is None else list(module.parameters())
        assert size == sum(parameter.numel() for parameter in parameters)
    assert info.groups["embeddings"] > 0


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_a_new_head_is_drawn_from_its_seed(kind: str, problem: Problem, written: Write) -> None:
    folder, data = written(kind), task(problem)
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


@pytest.mark.parametrize(("kind", "problem"), PROBLEMS)
def test_a_head_that_fits_is_kept(kind: str, problem: Problem, written: Write) -> None:
    labels = max(1, len(LABELS[problem]))
    folder = written(kind, problem, labels)
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
    saved: Problem, wanted: Problem, written: Write
) -> None:
    """Its tensors may have the names and shapes of the wanted one's."""
    folder = written("bert", saved, 1 if saved is Problem.REGRESSION else 2)
    assert {"classifier.weight", "classifier.bias"} <= set(loaded_from(folder, task(wanted)).new)


@pytest.mark.parametrize("kind", NO_CHOICES)
def test_no_head_for_the_problem(kind: str, written: Write) -> None:
    with pytest.raises(ModelUnsupported, match=r"multiple_choice.*classification.*token_class"):
        loaded_from(written(kind), task(Problem.MULTIPLE_CHOICE))


@pytest.mark.parametrize(("kind", "problem"), OTHER_PROBLEMS)
def test_loaded_models_answer_each_problem(kind: str, problem: Problem, written: Write) -> None:
    loaded = loaded_from(written(kind), task(problem))
    batch = padded_batch([9, 6], labels=3, kind=kind, problem=problem)
    logits = loaded.model(**model_inputs(loaded.model, batch)).logits
    assert logits.shape == (*batch["labels"].shape, 3)
    assert loaded.blocks


def test_xlnet_is_padded_on_the_left(written: Write) -> None:
    data = task(pairs=True)
    loaded = loaded_from(written("xlnet"), data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 2])
    assert batch["attention_mask"][1].tolist() == [0] * 5 + [1] * 8
    assert batch["input_ids"][1].tolist()[:5] == [loaded.tokenizer.pad_token_id] * 5
    assert (batch["input_ids"][:, -1] == loaded.tokenizer.cls_token_id).all()
    assert batch["token_type_ids"][1].tolist()[5:] == [0] * 5 + [1] * 2 + [2]


@pytest.mark.parametrize("own", [True, False], ids=["its own tokenizer", "a general one"])
def test_fnet_sees_all_of_its_padding(own: bool, written: Write) -> None:
    folder, data = written("fnet"), task()
    if not own:
        tokenizer = tokenizer_of("fnet")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>"
        ).save_pretrained(folder)
    loaded = loaded_from(folder, data)
    encoded = encode(data.train, loaded.tokenizer, 12)
    batch = encoded.batch([1, 4])
    assert batch["input_ids"].shape == (2, 12)
    assert batch["input_ids"][0].tolist()[3:] == [3] * 9
    assert batch["attention_mask"].min() == 1
    assert encoded.lengths.tolist() == [12] * 6


@pytest.mark.parametrize("kind", ["albert", "funnel", "xlnet", "bert", "electra", "nomic_bert"])
def test_second_texts_are_told_apart(kind: str, written: Write) -> None:
    data = task(pairs=True)
    loaded = loaded_from(written(kind), data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0])
    inputs = model_inputs(loaded.model, batch)
    told = loaded.model(**inputs).logits
    untold = loaded.model(**inputs | {"token_type_ids": inputs["token_type_ids"] * 0}).logits
    assert not torch.allclose(told, untold)


@pytest.mark.parametrize("kind", ["roberta", "camembert"])
def test_token_types_without_an_embedding_are_left_out(kind: str, written: Write) -> None:
    """Some such checkpoints come with BERT's tokenizer, which gives types the model cannot take."""
    folder, data = written(kind), task(pairs=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "token_type_embeddings" in name]:
        weights[name] = weights[name][:1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for old in ("tokenizer.json", "tokenizer_config.json"):
        (folder / old).unlink()
    tokenizer_of("bert").save_pretrained(folder)
    loaded = loaded_from(folder, data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 1])
    assert "token_type_ids" not in batch
    assert loaded.model(**model_inputs(loaded.model, batch)).logits.shape == (2, 2)


def test_big_bird_attends_to_everything_whatever_the_lengths(written: Write) -> None:
    folder, data = written("big_bird"), task()
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
def test_a_config_cannot_change_what_the_forward_returns(kind: str, written: Write) -> None:
    folder, data = written(kind), task()
    config = json.loads((folder / "config.json").read_text())
    odd = {
        "return_dict": False, "output_hidden_states": True, "output_attentions": True,
        "use_mems_eval": True, "use_return_dict": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | odd))
    loaded = loaded_from(folder, data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 1])
    assert set(loaded.model(**model_inputs(loaded.model, batch))) == {"logits"}


def test_a_tokenizer_without_padding_is_refused(written: Write) -> None:
    folder = written("bert")
    tokenizer = tokenizer_of("bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    with pytest.raises(ModelUnsupported, match=r"no token for padding.*pad_token"):
        loaded_from(folder, task())


@pytest.mark.parametrize("kind", ["bert", "xlnet", "albert", "funnel"])
@pytest.mark.parametrize("lost", ["block", "embeddings"])
def test_weights_that_lack_part_of_the_encoder(kind: str, lost: str, written: Write) -> None:
    folder = written(kind)
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
def test_embeddings_can_train_beside_the_head(kind: str, written: Write) -> None:
    loaded = loaded_from(written(kind), task())
    trained = freeze_all_but(loaded, [], ["embeddings"])
    embeddings = part_of(loaded.model, "embeddings")
    assert isinstance(embeddings, nn.Module)
    wanted = {id(p) for p in embeddings.parameters()} | {id(p) for p in loaded.head.values()}
    assert {id(parameter) for parameter in trained.values()} == wanted
