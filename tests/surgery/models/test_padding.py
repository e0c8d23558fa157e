"""Rows reach each encoder padded, masked and typed as it was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from surgery.data.tokens.tokenize import encode
from surgery.errors import ModelUnsupported
from surgery.models.blocks import model_inputs
from tests.support.models.checkpoints import loaded_from, task, write_checkpoint
from tests.support.models.tokenizers import tokenizer_of


def test_xlnet_is_padded_on_the_left(tmp_path: Path) -> None:
    data = task(pairs=True)
    loaded = loaded_from(write_checkpoint(tmp_path / "m", "xlnet"), data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 2])
    assert batch["attention_mask"][1].tolist() == [0] * 5 + [1] * 8
    assert batch["input_ids"][1].tolist()[:5] == [loaded.tokenizer.pad_token_id] * 5
    assert (batch["input_ids"][:, -1] == loaded.tokenizer.cls_token_id).all()
    assert batch["token_type_ids"][1].tolist()[5:] == [0] * 5 + [1] * 2 + [2]


@pytest.mark.parametrize("own", [True, False], ids=["its own tokenizer", "a general one"])
def test_fnet_sees_all_of_its_padding(own: bool, tmp_path: Path) -> None:
    folder, data = write_checkpoint(tmp_path / "m", "fnet"), task()
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
def test_second_texts_are_told_apart(kind: str, tmp_path: Path) -> None:
    data = task(pairs=True)
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), data)
    batch = encode(data.train, loaded.tokenizer, 16).batch([0])
    inputs = model_inputs(loaded.model, batch)
    told = loaded.model(**inputs).logits
    untold = loaded.model(**inputs | {"token_type_ids": inputs["token_type_ids"] * 0}).logits
    assert not torch.allclose(told, untold)


@pytest.mark.parametrize("kind", ["roberta", "camembert"])
def test_token_types_without_an_embedding_are_left_out(kind: str, tmp_path: Path) -> None:
    """Some such checkpoints come with BERT's tokenizer, which gives types the model cannot take."""
    folder, data = write_checkpoint(tmp_path / "m", kind), task(pairs=True)
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


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "bert")
    tokenizer = tokenizer_of("bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    with pytest.raises(ModelUnsupported, match=r"no token for padding.*pad_token"):
        loaded_from(folder, task())
