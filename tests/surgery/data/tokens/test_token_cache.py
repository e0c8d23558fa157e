"""Tokenised splits on disk: the same as fresh ones, whole or not at all."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.tokens import cache
from surgery.data.tokens.cache import encode_split, token_key
from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import TokenChunk, encode, token_chunks
from surgery.schemas.enums import Problem
from tests.support.models.tokenizers import tokenizer_of
from tests.support.rows.encoded import ROWS, same

LENGTH = 8


def data_of(rows: list[dict[str, Any]], tokens: Path | None, copies: int = 1) -> TaskData:
    """The rows in both splits; validation has them backwards."""
    table = Dataset.from_list(rows * copies)
    backwards = table.select(range(len(table) - 1, -1, -1))
    return TaskData(table, backwards, Problem.CLASSIFICATION, [], (), "sha256:0", tokens)


def refuse(*_: object) -> None:
    """In place of what must not be called."""
    raise AssertionError("tokenised again")


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlnet", "mpnet"])
def test_cached_tokens_are_those_of_a_fresh_pass(
    kind: str, model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.data.tokens.tokenize.TOKENIZE_ROWS", 3)  # several chunks
    tokenizer = tokenizer_of(model_type)
    data = data_of(ROWS[kind], tmp_path, copies=5)
    fresh = {"train": encode(data.train, tokenizer, LENGTH)}
    fresh["validation"] = encode(data.validation, tokenizer, LENGTH)
    for _ in range(2):
        assert same(encode_split(data, "train", tokenizer, LENGTH), fresh["train"])
        assert same(encode_split(data, "validation", tokenizer, LENGTH), fresh["validation"])
        monkeypatch.setattr(cache, "token_chunks", refuse)
    assert len(list(tmp_path.iterdir())) == 2
    rows = [4, 1, 3]
    monkeypatch.setattr(cache, "encode", refuse)
    some = encode_split(data, "train", tokenizer, LENGTH, rows)
    assert same(some, encode(data.train, tokenizer, LENGTH, rows))


def _new_word(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.add_tokens(["abc"])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "truncation_side", "left"),
        lambda t: setattr(t, "padding_side", "left"),
        lambda t: setattr(t, "model_input_names", ["input_ids", "attention_mask"]),
        lambda t: setattr(t, "model_max_length", 17),
        _new_word,
    ],
    ids=["truncation side", "padding side", "inputs", "longest", "vocabulary"],
)
def test_another_tokenizer_is_another_key(change: Callable[[Any], None]) -> None:
    tokenizer = tokenizer_of("bert")
    key = token_key("sha256:0", "train", tokenizer, 8)
    assert token_key("sha256:0", "train", tokenizer_of("bert"), 8) == key
    tokenizer("a b", truncation=True, max_length=4, padding="max_length")
    assert token_key("sha256:0", "train", tokenizer, 8) == key, "how it was last called is no part"
    change(tokenizer)
    assert token_key("sha256:0", "train", tokenizer, 8) != key


def test_another_dataset_split_or_length_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of("bert")
    keys = {
        token_key(dataset, split, tokenizer, length)
        for dataset in ("sha256:0", "sha256:1")
        for split in ("train", "validation")
        for length in (8, 16)
    }  # fmt: skip
    assert len(keys) == 8
    monkeypatch.setattr(cache, "TOKENS_FORMAT", cache.TOKENS_FORMAT + 1)
    assert token_key("sha256:0", "train", tokenizer, 8) not in keys


def _truncated(folder: Path) -> None:
    path = folder / "ids.npy"
    path.write_bytes(path.read_bytes()[:-4])


def _changed(folder: Path) -> None:
    path = folder / "ids.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _unlisted(folder: Path) -> None:
    path = folder / "manifest.json"
    files = json.loads(path.read_text())["files"]
    del files["ids.npy"]
    path.write_text(json.dumps({"files": files}))
    (folder / "ids.npy").unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": _truncated,
    "a bit": _changed,
    "array gone": lambda folder: (folder / "offsets.npy").unlink(),
    "array neither there nor listed": _unlisted,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"files": {'),
    "another manifest": lambda folder: (folder / "manifest.json").write_text('{"files": []}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_written_anew(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer, data = tokenizer_of("bert"), data_of(ROWS["pair"], tmp_path)
    fresh = encode(data.train, tokenizer, LENGTH)
    encode_split(data, "train", tokenizer, LENGTH)
    (folder,) = tmp_path.iterdir()
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert same(encode_split(data, "train", tokenizer, LENGTH), fresh)
    assert "damaged, tokenising again" in caplog.text
    assert list(tmp_path.iterdir()) == [folder]
    caplog.clear()
    damage(folder)
    some = encode_split(data, "train", tokenizer, LENGTH, [1])
    assert same(some, encode(data.train, tokenizer, LENGTH, [1]))
    assert "damaged" in caplog.text


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, data = tokenizer_of("bert"), data_of(ROWS["text"], tmp_path / "tokens")

    def breaks_off(*given: Any) -> Iterator[TokenChunk]:
        yield from token_chunks(*given)
        refuse()

    monkeypatch.setattr(cache, "token_chunks", breaks_off)
    with pytest.raises(AssertionError):
        encode_split(data, "train", tokenizer, LENGTH)
    assert list((tmp_path / "tokens").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        encode_split(replace(data, tokens=tmp_path / "file"), "train", tokenizer, LENGTH)


def test_arrays_are_mapped_and_never_read_whole(tmp_path: Path) -> None:
    tokenizer, data = tokenizer_of("bert"), data_of(ROWS["pair"], tmp_path)
    found = encode_split(data, "train", tokenizer, LENGTH)
    for array in (found.ids, found.types, found.offsets, found.labels, found.whole):
        assert array is not None
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    batch = found.batch([0, 2])
    batch["labels"] += 1  # a copy of its own
    assert found.labels.tolist() == [0, 1, 1, 1]


def test_without_a_cache_or_a_fingerprint_nothing_is_written(tmp_path: Path) -> None:
    tokenizer, data = tokenizer_of("bert"), data_of(ROWS["text"], tmp_path)
    for uncached in (replace(data, tokens=None), replace(data, fingerprint=None)):
        found = encode_split(uncached, "train", tokenizer, LENGTH)
        assert same(found, encode(data.train, tokenizer, LENGTH))
    encode_split(data, "train", tokenizer, LENGTH, [0])  # some rows are no reason to write all
    assert list(tmp_path.iterdir()) == []


def test_each_use_marks_a_split_as_used(tmp_path: Path) -> None:
    tokenizer, data = tokenizer_of("bert"), data_of(ROWS["text"], tmp_path)
    for rows in (None, [0]):
        encode_split(data, "train", tokenizer, LENGTH)
        (folder,) = tmp_path.iterdir()
        os.utime(folder, (0, 0))
        encode_split(data, "train", tokenizer, LENGTH, rows)
        assert time.time() - folder.stat().st_mtime < 60


def _write_at_once(folder: Path, barrier: Any, answers: Any) -> None:
    data = data_of(ROWS["pair"], folder, copies=50)
    tokenizer = tokenizer_of("bert")
    write = cache._write

    def together(*given: Any) -> None:
        barrier.wait(60)  # both have found nothing
        write(*given)

    cache._write = together  # type: ignore[assignment]
    answers.put(encode_split(data, "train", tokenizer, LENGTH).ids.tolist())


def test_two_processes_write_the_same_split_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # which need not import torch anew
    barrier, answers = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=_write_at_once, args=(tmp_path, barrier, answers)) for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [answers.get(timeout=120) for _ in both]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    fresh = encode(data_of(ROWS["pair"], None, copies=50).train, tokenizer_of("bert"), LENGTH)
    assert found == [fresh.ids.tolist()] * 2
    assert len(list(tmp_path.iterdir())) == 1
