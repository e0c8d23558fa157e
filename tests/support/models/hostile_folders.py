"""Model folders that name files outside themselves, each by another key, link or index entry.

Every function changes a whole copy of the tiny encoder. ``Canaries`` are what none of them may
bring back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Canaries:
    """A text file beside the mirror, and the weights of another job's checkpoint."""

    text: Path
    weights: Path


Change = Callable[[Path, Canaries], object]


def edit(folder: Path, name: str, **keys: Any) -> None:
    """Set keys of a JSON file of a model, which need not be there yet."""
    path = folder / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(document | keys))


def relative(folder: Path, target: Path) -> str:
    """A path with as many steps up as it takes."""
    return "../" * len(folder.resolve().parts) + str(target.resolve()).lstrip("/")


def without_tokenizer(folder: Path) -> None:
    """Leave the vocabulary to the key that is set next."""
    (folder / "tokenizer.json").unlink()


def tokenizer_key(key: str, *, whole: bool = True) -> Change:
    """A key of tokenizer_config.json that is a path; ``whole``: with tokenizer.json beside it."""

    def change(folder: Path, canaries: Canaries) -> None:
        if not whole:
            without_tokenizer(folder)
        edit(folder, "tokenizer_config.json", **{key: str(canaries.text)})

    return change


def environment(folder: Path, canaries: Canaries) -> None:
    """What the issue of a token's worth begins with."""
    without_tokenizer(folder)
    edit(folder, "tokenizer_config.json", vocab="/proc/self/environ")


def relative_vocabulary(folder: Path, canaries: Canaries) -> None:
    edit(folder, "tokenizer_config.json", vocab=relative(folder, canaries.text))


def vocabulary_of(key: str) -> Change:
    """tokenizer.json whose model is a path where its own vocabulary belongs."""

    def change(folder: Path, canaries: Canaries) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        document["model"][key] = str(canaries.text)
        (folder / "tokenizer.json").write_text(json.dumps(document))

    return change


def index_entry(name: Callable[[Path, Canaries], str]) -> Change:
    """An index in the place of the weights, whose tensors lie in a file of this name."""

    def change(folder: Path, canaries: Canaries) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        shards = {
            "embeddings.word_embeddings.weight": name(folder, canaries),
            "pooler.dense.bias": "model-00001-of-00002.safetensors",
        }
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    return change


def pickled_shard(folder: Path, canaries: Canaries) -> None:
    (folder / "weights.bin").write_bytes(b"\x80\x04canary")
    index_entry(lambda _folder, _canaries: "weights.bin")(folder, canaries)


def link(name: str) -> Change:
    """A file of the model that is a link to a canary."""

    def change(folder: Path, canaries: Canaries) -> None:
        target = canaries.weights if name.endswith("safetensors") else canaries.text
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def template(folder: Path, canaries: Canaries) -> None:
    (folder / "chat_template.jinja").symlink_to(canaries.text)
    edit(folder, "tokenizer_config.json", chat_template=f"{{% include '{canaries.text}' %}}")


FOLDERS: dict[str, Change] = {
    "vocab-environ": environment,
    "vocab-absolute": tokenizer_key("vocab", whole=False),
    "vocab-relative": relative_vocabulary,
    "vocab-beside-tokenizer": tokenizer_key("vocab"),
    "merges": tokenizer_key("merges"),
    "gguf-file": tokenizer_key("gguf_file", whole=False),
    "vocab-file": tokenizer_key("vocab_file"),
    "merges-file": tokenizer_key("merges_file"),
    "tokenizer-file": tokenizer_key("tokenizer_file"),
    "special-tokens-file": tokenizer_key("special_tokens_map_file"),
    "name-or-path": tokenizer_key("name_or_path"),
    "fast-tokenizer-files": lambda folder, canaries: edit(
        folder, "tokenizer_config.json", fast_tokenizer_files=[relative(folder, canaries.text)]
    ),
    "sentencepiece": lambda folder, canaries: edit(
        folder, "tokenizer_config.json", sp_model_kwargs={"model_file": str(canaries.text)}
    ),
    "init-inputs": lambda folder, canaries: edit(
        folder, "tokenizer_config.json", init_inputs=[str(canaries.text)]
    ),
    "special-tokens-vocab": lambda folder, canaries: edit(
        folder, "special_tokens_map.json", vocab=str(canaries.text)
    ),
    "special-tokens-merges": lambda folder, canaries: edit(
        folder, "special_tokens_map.json", merges=str(canaries.text)
    ),
    "tokenizer-json-vocab": vocabulary_of("vocab"),
    "tokenizer-json-merges": vocabulary_of("merges"),
    "chat-template": template,
    "config-name": lambda folder, canaries: edit(
        folder, "config.json", _name_or_path=str(canaries.text), tokenizer_class=str(canaries.text)
    ),
    "config-weights": lambda folder, canaries: edit(
        folder, "config.json", transformers_weights=str(canaries.weights)
    ),
    "config-code": lambda folder, canaries: edit(
        folder, "config.json", auto_map={"AutoConfig": f"{canaries.text}--x.Y"}
    ),
    "index-absolute": index_entry(lambda _, canaries: str(canaries.weights)),
    "index-relative": index_entry(lambda folder, canaries: relative(folder, canaries.weights)),
    "index-scheme": index_entry(lambda _, canaries: f"file://{canaries.weights}"),
    "index-pickle": pickled_shard,
    "link-config": link("config.json"),
    "link-tokenizer": link("tokenizer.json"),
    "link-vocabulary": link("vocab.txt"),
    "link-added-tokens": link("added_tokens.json"),
    "link-special-tokens": link("special_tokens_map.json"),
    "link-tokenizer-config": link("tokenizer_config.json"),
    "link-weights": link("model.safetensors"),
    "link-index": link(INDEX),
}  # fmt: skip
# What honest savers write too: left out without a word, and the model runs.
HARMLESS = {
    "vocab-file", "merges-file", "tokenizer-file", "special-tokens-file", "name-or-path",
    "chat-template", "config-name", "config-weights", "config-code",
}  # fmt: skip
LATE = {
    "tokenizer-json-merges"
}  # a large tokenizer.json: the worker checks it, before it copies it
