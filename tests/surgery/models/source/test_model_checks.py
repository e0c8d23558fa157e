"""Checkpoints as other tools save them: told at submission what is wrong, or loaded rightly."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, BertForSequenceClassification

from surgery.data.tokens.tokenize import encode
from surgery.errors import ModelNotFound, ModelUnsupported, SurgeryError, UnsafeWeights
from surgery.io.sources import Sources
from surgery.models.source.checks import wrapper_of
from surgery.models.source.resolve import inspect_model, local_model, resolve_model
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import LABELS, loaded_from, task, write_checkpoint
from tests.support.models.encoders import CONFIGS
from tests.support.models.mirror import TINY

NOWHERE = Sources((), Path("cache"), offline=True)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = Mapping[str, Tensor]


@pytest.fixture
def model(mirror: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT to change."""
    return Path(shutil.copytree(mirror / "models" / TINY, tmp_path / "model"))


def configure(model: Path, **keys: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def rewrite(model: Path, change: Callable[[Tensors], dict[str, Tensor]]) -> None:
    save_file(change(load_file(model / WEIGHTS)), model / WEIGHTS, metadata={"format": "pt"})


def refused(model: Path) -> SurgeryError:
    """What a submission is told of a folder."""
    with pytest.raises(SurgeryError) as caught:
        inspect_model(local_model(model), NOWHERE)
    return caught.value


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "0.auto_model.", "model.", "a.b.c."])
def test_a_wrapper_in_front_of_the_names_is_named(model: Path, wrapper: str) -> None:
    rewrite(model, lambda tensors: {wrapper + name: each for name, each in tensors.items()})
    error = refused(model)
    assert isinstance(error, ModelUnsupported)
    assert f"save them without {wrapper!r}" in error.detail


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", [None, Problem.CLASSIFICATION], ids=["encoder", "task"])
def test_the_names_of_no_encoder_look_wrapped(
    kind: str, head: Problem | None, tmp_path: Path
) -> None:
    source = local_model(write_checkpoint(tmp_path / "m", kind, head))
    assert wrapper_of(load_file(tmp_path / "m" / WEIGHTS), source.prefix) == ""
    assert inspect_model(source, NOWHERE).layers


@pytest.mark.parametrize("layers", [3, 5])
def test_another_number_of_layers_in_the_config_is_an_error(model: Path, layers: int) -> None:
    configure(model, num_hidden_layers=layers)
    assert f"speaks of {layers} layers and the weights hold 4" in refused(model).detail


@pytest.mark.parametrize(
    "keys", [{"is_decoder": True}, {"add_cross_attention": True}, {"attn_type": "uni"}],
    ids=lambda keys: next(iter(keys)),
)  # fmt: skip
def test_a_model_that_looks_back_alone_is_no_encoder(model: Path, keys: dict[str, Any]) -> None:
    configure(model, **keys)
    assert next(iter(keys)) in refused(model).detail
    configure(model, is_decoder=False, add_cross_attention=None, attn_type="bi")
    assert inspect_model(local_model(model), NOWHERE).layers


def test_positions_by_distance_are_not_dropped_in_silence(model: Path) -> None:
    configure(model, position_embedding_type="relative_key_query")
    assert "position_embedding_type 'relative_key_query'" in refused(model).detail
    configure(model, position_embedding_type="absolute")
    name = "encoder.layer.0.attention.self.distance_embedding.weight"
    rewrite(model, lambda tensors: {**tensors, name: torch.zeros(3, 4)})
    assert name in refused(model).detail


def test_a_tensor_that_the_model_has_no_place_for_is_an_error(model: Path) -> None:
    name = "encoder.layer.1.attention.self.gate.weight"
    rewrite(model, lambda tensors: {**tensors, name: torch.zeros(3, 4)})
    with pytest.raises(ModelUnsupported, match=name):
        loaded_from(model, task())


def test_buffers_that_are_computed_anew_are_none(model: Path) -> None:
    name = "encoder.layer.1.attention.self.rotary_emb.inv_freq"
    rewrite(model, lambda tensors: {**tensors, name: torch.zeros(3)})
    assert loaded_from(model, task()).blocks


def test_quantised_weights_are_refused(model: Path) -> None:
    configure(model, quantization_config={"load_in_8bit": True})
    assert "quantised" in refused(model).detail


def test_a_config_without_a_type_says_what_to_add(model: Path) -> None:
    document = json.loads((model / "config.json").read_text())
    del document["model_type"]
    (model / "config.json").write_text(json.dumps(document))
    assert '"model_type": "bert"' in refused(model).detail


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "weights.safetensors"])
def test_weights_of_another_format_are_named(model: Path, name: str) -> None:
    (model / WEIGHTS).rename(model / name)
    error = refused(model)
    assert isinstance(error, UnsafeWeights)
    assert f"it has {name}" in error.detail


def in_parts(model: Path) -> list[str]:
    """Save the weights in two files and an index."""
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    held = {name: names[number % 2] for number, name in enumerate(sorted(tensors))}
    for part in names:
        own = {name: tensors[name] for name, file in held.items() if file == part}
        save_file(own, model / part, metadata={"format": "pt"})
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": held}))
    return names


def test_weights_in_parts_are_the_same_model(model: Path) -> None:
    whole = loaded_from(model, task()).model.state_dict()
    in_parts(model)
    parts = loaded_from(model, task()).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_missing_part_is_named(model: Path) -> None:
    _, second = in_parts(model)
    (model / second).unlink()
    assert f"lacks {second}" in refused(model).detail


def test_a_missing_index_is_named(model: Path) -> None:
    in_parts(model)
    (model / INDEX).unlink()
    assert f"lacks {INDEX}" in refused(model).detail


def test_a_token_beyond_the_embedding_is_named(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["[PRODUCT]"])
    tokenizer.save_pretrained(model)
    loaded = loaded_from(model, task())
    encode(task().train, loaded.tokenizer, 16)  # no text of it holds the token
    rows = task().train.map(lambda row: {"text": row["text"] + " [PRODUCT]"})
    with pytest.raises(ModelUnsupported, match=r"'\[product\]' the id 30522.*30522 rows") as error:
        encode(rows, loaded.tokenizer, 16)
    assert "resize_token_embeddings" in error.value.detail


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "BertweetTokenizer", "KoBertTokenizer"])
def test_a_tokenizer_of_code_of_its_own_is_refused(model: Path, name: str) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": name, "word_tokenizer_type": "mecab"}))
    assert loaded_from(model, task()).tokenizer("a b")["input_ids"]  # tokenizer.json tells all
    (model / "tokenizer.json").unlink()
    assert f"{name}, which is not a tokenizer of the tokenizers library" in refused(model).detail


@pytest.mark.parametrize(
    "labels",
    [["no", "yes"], {"no": 0, "yes": 1}, {"LABEL_0": "no"}, {"0": "LABEL_0", "1": "LABEL_1"}, None],
    ids=["list", "reversed", "names", "generic", "none"],
)
def test_a_head_that_does_not_say_its_labels_is_made_anew(tmp_path: Path, labels: object) -> None:
    folder = write_checkpoint(tmp_path / "m", "bert", Problem.CLASSIFICATION)
    configure(folder, id2label=labels)
    assert "classifier.weight" in loaded_from(folder, task()).new
    configure(folder, id2label=dict(enumerate(LABELS[Problem.CLASSIFICATION])))
    assert loaded_from(folder, task()).new == []


def mirrored(tmp_path: Path, name: str) -> tuple[Path, Sources]:
    folder = tmp_path / "mirror" / "models" / "me" / name
    folder.mkdir(parents=True)
    return folder, Sources((tmp_path / "mirror",), tmp_path / "cache", offline=True)


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    folder, sources = mirrored(tmp_path, "adapter")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}')
    with pytest.raises(ModelUnsupported, match=r"a PEFT adapter of me/base.*merge"):
        resolve_model("me/adapter", sources)


def test_the_folder_in_which_the_model_lies_is_named(model: Path, tmp_path: Path) -> None:
    folder, sources = mirrored(tmp_path, "sentences")
    shutil.copytree(model, folder / "0_Transformer")
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ModelUnsupported, match="the model lies in its folder 0_Transformer"):
        resolve_model("me/sentences", sources)


def test_a_mirror_holds_no_revisions(model: Path, tmp_path: Path) -> None:
    folder, sources = mirrored(tmp_path, "own")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    assert resolve_model("me/own", sources).revision is None
    with pytest.raises(ModelNotFound, match="its mirror holds no revisions, so leave"):
        resolve_model("me/own@v1", sources)


def record(folder: Path, name: str, commit: str) -> None:
    """As `hf download --local-dir` writes it beside what it fetches."""
    path = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\netag\n{(folder / name).stat().st_mtime}\n")


def test_a_mirror_has_the_revision_that_was_downloaded(model: Path, tmp_path: Path) -> None:
    folder, sources = mirrored(tmp_path, "own")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    weights = [path.name for path in folder.glob("*.safetensors")]
    for name in ("config.json", *weights):
        record(folder, name, "a" * 40)
    found = resolve_model(f"me/own@{'a' * 40}", sources)
    assert (found.origin, found.revision) == ("mirror", "a" * 40)
    assert resolve_model("me/own", sources) == found
    for other in ("main", "b" * 40, "a" * 39):
        with pytest.raises(ModelNotFound, match=rf"'{other}'.*has revision '{'a' * 40}' only"):
            resolve_model(f"me/own@{other}", sources)
    record(folder, weights[0], "b" * 40)  # files of several commits are of none
    with pytest.raises(ModelNotFound, match="its mirror holds no revisions"):
        resolve_model(f"me/own@{'a' * 40}", sources)
    assert resolve_model("me/own", sources).revision is None
    record(folder, weights[0], "a" * 40)
    os.utime(folder / "config.json", (2e9, 2e9))  # changed since it was downloaded
    assert resolve_model("me/own", sources).revision is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a\nb\nc\n", b"x" * 5000])
def test_a_record_that_cannot_be_read_is_none(content: bytes, model: Path, tmp_path: Path) -> None:
    folder, sources = mirrored(tmp_path, "own")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    record(folder, "config.json", "a" * 40)
    (folder / ".cache/huggingface/download/config.json.metadata").write_bytes(content)
    assert resolve_model("me/own", sources).revision is None


@pytest.mark.parametrize(
    "claim", [{"vocab_size": 3_000_000}, {"max_position_embeddings": 3_000_000}]
)
def test_sizes_that_the_weights_lack_are_told_before_memory_is_taken(
    model: Path, claim: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the model's fault: another try would meet the same."""
    configure(model, **claim)
    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", None)
    with pytest.raises(
        ModelUnsupported, match=r"describes blocks and embeddings of 4\d,"
    ) as caught:
        loaded_from(model, task())
    assert not caught.value.retriable


def test_a_model_that_no_job_has_the_memory_for_is_told_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000_000, resource.RLIM_INFINITY))
    with pytest.raises(
        ModelUnsupported, match=r"takes [12],\d.* jobs of this worker have 1,000,000"
    ):
        loaded_from(model, task())
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100_000_000, resource.RLIM_INFINITY))
    assert loaded_from(model, task()).blocks
