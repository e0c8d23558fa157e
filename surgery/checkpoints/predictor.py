"""Predicts with a full checkpoint's folder, as its metrics were measured.

This file is copied into models for MLflow and runs where Layer Surgeon is not installed, so it
imports nothing of it: transformers, torch and pandas are enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

SETTINGS = "predictor.json"
BATCH_ROWS = 32
Json = dict[str, Any]
Array = np.ndarray[Any, Any]


class Predictor:
    """A model with its tokenizer, and how rows become its inputs and its outputs labels."""

    def __init__(self, folder: Path) -> None:
        self._settings: Json = json.loads((folder / SETTINGS).read_text())
        kind = getattr(transformers, self._settings["auto_class"])
        self._model: Any = kind.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._names = set(self._tokenizer.model_input_names)
        self._length = min(self._settings["max_length"], int(self._tokenizer.model_max_length))
        self._backend: Any = self._tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.encode_special_tokens = self._tokenizer.split_special_tokens
        self._spaced = self._loses_spaces()
        self._backend.enable_truncation(
            self._length, strategy="longest_first", direction=self._tokenizer.truncation_side
        )

    def predict(self, model_input: Any, params: Json | None = None) -> pd.DataFrame:  # noqa: ARG002
        """One row of answers for each row of a table with the columns that the model reads."""
        rows = pd.DataFrame(model_input).to_dict("records")
        answers: list[Json] = []
        for start in range(0, len(rows), BATCH_ROWS):
            answers += self._answered(rows[start : start + BATCH_ROWS])
        return pd.DataFrame(answers)

    # How a row is read.

    def _loses_spaces(self) -> bool:
        """Whether words need the space before them, as byte-level tokenizers do."""
        self._backend.no_truncation()
        text = self._backend.encode("a b").ids
        words, spaced = (
            self._backend.encode(split, is_pretokenized=True).ids
            for split in (["a", "b"], ["a", " b"])
        )
        return bool(words != text and spaced == text)

    def _cell(self, row: Json, part: str) -> str:
        value = row[self._settings["columns"][part]]
        return "" if value is None or value != value else str(value)  # noqa: PLR0124  # NaN

    def _texts(self, row: Json) -> list[Any]:
        """The tokenizer's input for each sequence of a row: a text, two of them, or words."""
        columns = self._settings["columns"]
        if "tokens" in columns:
            words = [str(word) for word in row[columns["tokens"]]]
            return [[words[0], *(f" {word}" for word in words[1:])] if self._spaced else words]
        if "choices" not in columns:
            text = self._cell(row, "text")
            return [(text, self._cell(row, "text_pair")) if "text_pair" in columns else text]
        named = columns["choices"]
        choices = [row[name] for name in named] if isinstance(named, list) else list(row[named])
        question = self._cell(row, "text_pair") if "text_pair" in columns else ""
        question = self._settings["questions"].get(question, question)
        seconds = [f"{question} {choice}" if question else str(choice) for choice in choices]
        if "text" not in columns:
            return seconds
        return [(self._cell(row, "text"), second) for second in seconds]

    def _encoded(self, rows: Sequence[Json]) -> tuple[dict[str, torch.Tensor], list[Any]]:
        """The model's inputs, and the tokenizer's encodings."""
        texts = [text for row in rows for text in self._texts(row)]
        tagged = "tokens" in self._settings["columns"]
        found = self._backend.encode_batch(texts, is_pretokenized=tagged)
        longest = max(len(each) for each in found)
        if "attention_mask" not in self._names:  # the model sees the padding: always as much of it
            longest = self._length
        tokenizer = self._tokenizer
        columns = {
            "input_ids": self._padded([e.ids for e in found], longest, tokenizer.pad_token_id),
            "token_type_ids": self._padded(
                [e.type_ids for e in found], longest, tokenizer.pad_token_type_id
            ),
            "attention_mask": self._padded([[1] * len(e) for e in found], longest, 0),
        }
        tensors = {name: tensor for name, tensor in columns.items() if name in self._names}
        if "choices" in self._settings["columns"]:
            tensors = {n: t.reshape(len(rows), -1, longest) for n, t in tensors.items()}
        return tensors, found

    def _padded(self, sequences: Sequence[Any], longest: int, filling: int) -> torch.Tensor:
        left = self._tokenizer.padding_side == "left"
        whole = [
            [filling] * (longest - len(each)) + list(each)
            if left
            else list(each) + [filling] * (longest - len(each))
            for each in sequences
        ]
        return torch.tensor(whole, dtype=torch.long)

    # How its outputs are answered.

    @torch.no_grad()
    def _answered(self, rows: Sequence[Json]) -> Iterator[Json]:
        """The answers to some rows."""
        tensors, found = self._encoded(rows)
        logits: Array = self._model(**tensors).logits.float().numpy().astype(np.float64)
        problem, labels = self._settings["problem"], self._settings["labels"]
        if problem == "regression":
            return iter([{"value": float(value)} for value in logits[:, 0]])
        if problem == "multi_label":
            limits = np.array([self._settings["thresholds"].get(name, 0.5) for name in labels])
            return (_label_set(row, labels, limits) for row in 1 / (1 + np.exp(-logits)))
        if problem == "token_classification":
            left = self._tokenizer.padding_side == "left"
            spans = [each[-len(e) :] if left else each for each, e in zip(logits, found)]  # noqa: B905
            return (
                _words(_softmax(own), e.word_ids, len(self._texts(row)[0]), labels)
                for own, e, row in zip(spans, found, rows, strict=True)
            )
        names = labels if problem == "classification" else [str(n) for n in range(logits.shape[1])]
        return (_label(row, names) for row in _softmax(logits))


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _label(scores: Array, labels: Sequence[str]) -> Json:
    best = int(scores.argmax())
    return {
        "label": labels[best],
        "probability": float(scores[best]),
        "probabilities": scores.tolist(),
    }


def _label_set(scores: Array, labels: Sequence[str], limits: Array) -> Json:
    chosen = [name for name, own in zip(labels, scores >= limits, strict=True) if own]
    return {"labels": chosen, "probabilities": scores.tolist()}


def _words(
    scores: Array, word_ids: Sequence[int | None], count: int, labels: Sequence[str]
) -> Json:
    """The label of each word, at its first token; None for a word that was not read."""
    names: list[str | None] = [None] * count
    sure: list[float | None] = [None] * count
    before = None
    for place, word in enumerate(word_ids):
        if word is not None and word != before:
            best = int(scores[place].argmax())
            names[word], sure[word] = labels[best], float(scores[place][best])
        before = word
    return {"labels": names, "probabilities": sure}


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls to load the model."""
    return Predictor(Path(path))
