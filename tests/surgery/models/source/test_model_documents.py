"""The keys of a model's JSON files that are kept, and that nothing a model needs is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from surgery.errors import ModelUnsupported, UnsafeFiles
from surgery.models.blocks import encoder_of
from surgery.models.loading import UNDECLARED_KEYS
from surgery.models.source.documents import (
    CONFIG_KEYS,
    clean_config,
    clean_special_tokens,
    clean_tokenizer,
    clean_tokenizer_config,
)
from surgery.models.source.resolve import ENCODERS
from tests.support.models.checkpoints import TEXTS, loaded_from, task, write_checkpoint
from tests.support.models.encoders import CONFIGS

# Declared by every config class, and never taken from a stranger's: labels are checked apart, the
# rest names code, folders or number formats.
NEVER_TAKEN = {"_name_or_path", "dtype", "id2label", "label2id"}


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_key_that_an_encoder_declares_is_known(kind: str) -> None:
    declared = AutoConfig.for_model(kind).to_dict().keys() - NEVER_TAKEN
    assert declared - CONFIG_KEYS.keys() == set()
    assert UNDECLARED_KEYS.get(kind, set()) - CONFIG_KEYS.keys() == set()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_defaults_of_every_encoder_pass(kind: str) -> None:
    config = AutoConfig.for_model(kind.split(maxsplit=1)[0], **CONFIGS[kind])
    declared = json.loads(config.to_json_string(use_diff=False))
    kept = clean_config(json.dumps(declared).encode(), "m")
    wanted = declared.keys() - NEVER_TAKEN
    assert {key: declared[key] for key in wanted} == {key: kept[key] for key in wanted}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_copy_is_the_model_and_the_tokenizer_of_the_folder(kind: str, tmp_path: Path) -> None:
    """Against transformers on the untouched folder: every weight's bits, every token."""
    folder = write_checkpoint(tmp_path / "m", kind)
    loaded = loaded_from(folder, task())
    plain = AutoModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    own = encoder_of(loaded.model).state_dict()
    shared = plain.keys() & own.keys()
    assert {name for name in own if not name.startswith("pooler.")} <= shared
    assert all(torch.equal(plain[name], own[name]) for name in shared if "pooler" not in name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for given in (
        TEXTS,
        list(zip(TEXTS, reversed(TEXTS), strict=True)),
        ["A B  c é 日本 zz [SEP]"],
    ):
        assert tokenizer(given)["input_ids"] == loaded.tokenizer(given)["input_ids"]


def test_the_real_tokenizer_loses_nothing(real_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(real_model, tmp_path / "real")
    loaded = loaded_from(tmp_path / "real", task())
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    texts = ["Hello, WORLD! naïve café", "日本語 text", "[MASK] [PAD] x", "a" * 300]
    assert tokenizer(texts)["input_ids"] == loaded.tokenizer(texts)["input_ids"]
    assert loaded.tokenizer.special_tokens_map == tokenizer.special_tokens_map


TOKEN = {"content": "[X]", "lstrip": True, "normalized": False, "path": "/etc/passwd"}


def test_tokens_keep_their_own_keys_alone() -> None:
    given = {
        "mask_token": {"__type": "AddedToken", **TOKEN}, "pad_token": "[PAD]",
        "additional_special_tokens": ["<a>", TOKEN], "own_token": "<own>",
        "added_tokens_decoder": {"5": TOKEN}, "add_bos_token": True, "unheard_of": {"a": 1},
    }  # fmt: skip
    token = {"content": "[X]", "lstrip": True, "normalized": False}
    assert clean_tokenizer_config(json.dumps(given).encode(), "m") == {
        "mask_token": {"__type": "AddedToken", **token}, "pad_token": "[PAD]",
        "additional_special_tokens": ["<a>", token], "own_token": "<own>",
        "added_tokens_decoder": {"5": token}, "add_bos_token": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("clean", "given", "key"),
    [
        (clean_config, {"hidden_size": "16"}, "hidden_size"),
        (clean_config, {"hidden_act": "../gelu"}, "hidden_act"),
        (clean_config, {"vocab_size": True}, "vocab_size"),
        (clean_config, {"num_attention_heads": -1}, "num_attention_heads is -1"),
        (clean_config, {"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
        (clean_config, {"max_position_embeddings": 10**10}, "max_position_embeddings"),
        (clean_config, {"block_repeats": [1, 10**7]}, "block_repeats"),
        (clean_config, {"layer_norm_eps": float("inf")}, "layer_norm_eps"),
        (clean_config, {"rope_parameters": {"rope_type": "/etc/x"}}, "rope_parameters"),
        (clean_tokenizer_config, {"model_max_length": "512"}, "model_max_length"),
        (clean_tokenizer_config, {"tokenizer_class": "a/b--C"}, "tokenizer_class"),
        (clean_tokenizer_config, {"mask_token": ["x"]}, "mask_token"),
        (clean_tokenizer_config, {"added_tokens_decoder": {"x": "y"}}, "added_tokens_decoder"),
        (clean_special_tokens, {"cls_token": 5}, "cls_token"),
        (clean_tokenizer, {"model": {"vocab": "/etc/passwd"}}, "vocab"),
        (clean_tokenizer, {"model": {"vocab": {"a": 0}, "merges": "m.txt"}}, "merges"),
        (clean_tokenizer, {"model": {"vocab": {}}, "added_tokens": ["a"]}, "added_tokens"),
        (clean_tokenizer, {"model": "/etc/passwd"}, "model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_value_of_another_kind_is_refused_by_its_key(
    clean: Callable[[bytes, str], Any], given: dict[str, Any], key: str
) -> None:
    with pytest.raises(ModelUnsupported, match=key):
        clean(json.dumps(given).encode(), "m")


@pytest.mark.parametrize(
    "given",
    [
        {"vocab": {"a": 1}}, {"init_inputs": ["/x"]}, {"fast_tokenizer_files": ["../t.json"]},
        {"sp_model_kwargs": {"model_proto": "x"}}, {"sp_model_kwargs": "x"}, {"gguf_file": "x"},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_a_key_that_opens_a_file_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UnsafeFiles) as refused:
        clean_tokenizer_config(json.dumps(given).encode(), "m")
    [fault] = refused.value.faults
    assert fault.file == "tokenizer_config.json"
    assert str(fault.column).startswith(next(iter(given)))


@pytest.mark.parametrize(
    "given",
    [
        {"vocab": None}, {"init_inputs": []}, {"sp_model_kwargs": {"alpha": 0.1}},
        {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.json"]},
    ],
    ids=["vocab", "init_inputs", "sp_model_kwargs", "fast_tokenizer_files"],
)  # fmt: skip
def test_what_honest_savers_write_is_left_out(given: dict[str, Any]) -> None:
    assert clean_tokenizer_config(json.dumps(given).encode(), "m") == {}


def test_names_of_labels_in_another_form_are_left_out() -> None:
    for labels in (["neg", "pos"], {"neg": 0}, {"LABEL_0": "neg"}, "x", {"0": ["neg"]}):
        assert clean_config(json.dumps({"id2label": labels}).encode(), "m") == {}
    good = {"0": "neg", "1": "pos"}
    assert clean_config(json.dumps({"id2label": good}).encode(), "m") == {"id2label": good}
