"""Models whose files are no plain files, or hold JSON of an unexpected shape."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path], object]


def sparse(name: str, size: int) -> Change:
    """A file of any size that takes no room on the disk."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def pipe(name: str) -> Change:
    """A named pipe: to open it waits for a writer."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    """A link in the place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def folder_as(name: str) -> Change:
    """A folder in the place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def config(**keys: object) -> Change:
    """Other values in config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def text(name: str, content: bytes) -> Change:
    """Other bytes in a file."""
    return lambda folder: (folder / name).write_bytes(content)


def crowded(keys: int) -> bytes:
    """An object of so many keys, whose values are of a wrong kind."""
    return b"{" + b",".join(b'"%d":""' % number for number in range(keys)) + b"}"


GIB = 1 << 30
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors")
ODD: dict[str, Change] = {
    **{f"pipe-{name}": pipe(name) for name in FILES},
    **{f"folder-{name}": folder_as(name) for name in FILES},
    **{f"sparse-{name}": sparse(name, 8 * GIB) for name in FILES},
    "sparse-60-weights": sparse("model.safetensors", 60 * GIB),
    "sparse-60-config": sparse("config.json", 60 * GIB),
    **{f"dangling-{name}": link(name, "nowhere-at-all") for name in FILES},
    **{f"looping-{name}": link(name, name) for name in FILES},
    **{f"leaving-{name}": link(name, "/etc/hostname") for name in FILES},
    "device-config": link("config.json", "/dev/zero"),
    "type-list": config(model_type=["bert"]),
    "type-object": config(model_type={"a": 1}),
    "type-number": config(model_type=7),
    "type-null": config(model_type=None),
    "architectures-number": config(architectures=5),
    "architectures-object": config(architectures={"0": "BertModel"}),
    "architectures-nested": config(architectures=[["BertModel"]]),
    "hidden-text": config(hidden_size="many"),
    "hidden-huge": config(hidden_size=10**30),
    "config-list": text("config.json", b"[]"),
    "config-deep": text("config.json", b"[" * 100_000),
    "config-empty": text("config.json", b""),
    "config-binary": text("config.json", b"\xff\xfe\x00"),
    "tokenizer-config-list": text("tokenizer_config.json", b"[1]"),
    "tokenizer-list": text("tokenizer.json", b"[]"),
    "tokenizer-crowded": text("tokenizer.json", b"[" + b"[]," * 60_000 + b"[]]"),
    "config-crowded": text("config.json", b"[" + b"[]," * 160_000 + b"[]]"),
    "added-tokens-crowded": text("added_tokens.json", crowded(17_000)),
    "special-tokens-text": text("special_tokens_map.json", b'"x"'),
    "added-tokens-text": text("added_tokens.json", b'{"a": "b"}'),
}


def write_odd(models: Path, whole: Path) -> list[str]:
    """Each of them as ``models/odd/<name>``, copied from a model that is whole; their ids."""
    for name, change in ODD.items():
        folder = models / "odd" / name
        shutil.copytree(whole, folder)
        change(folder)
    return [f"odd/{name}" for name in ODD]
