"""The process that shows rows as a model will see them: ``python -m surgery.models.preview``.

It reads an order on its standard input and writes a report on its standard output, both JSON. It
loads the tokenizer as the process that trains does, and neither a model nor torch. The
tokenizer is somebody else's: it gets so much memory and so much of a processor's time, and no more.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from surgery.data.tokens.sequences import (
    IGNORED,
    Text,
    at_first_tokens,
    check_known,
    kept_tokens,
    loses_spaces,
    texts_of,
    token_columns,
    unlimited,
    usable_length,
)
from surgery.errors import ModelUnsupported, SurgeryError
from surgery.io.library_errors import blamed_on_model
from surgery.models.inputs import ModelInputs, inputs_of
from surgery.models.lengths import TOKEN_BINS, count_lengths, most_tokens, suggested_length
from surgery.schemas.data.preview import (
    MAX_CUT,
    Preview,
    PreviewReport,
    PreviewRow,
    PreviewSequence,
    SampledLengths,
)
from surgery.schemas.enums import Problem

MEMORY_BYTES = 4 << 30  # of address space: the libraries alone map more than one
CPU_SECONDS = 30
NAMED = {Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE}


class PreviewOrder(BaseModel):
    """What to tokenise, and with which tokenizer."""

    model: str
    folder: Path  # with the checked files of the model, but its weights
    dataset: str
    split: Literal["train", "validation"]
    problem: Problem
    labels: list[str]
    total: int  # rows of the split
    rows: list[dict[str, Any]]  # as they are stored; the first ``shown`` are the split's first
    shown: int
    max_length: int


def load_tokenizer(folder: Path, model: str) -> tuple[Any, Any, ModelInputs]:
    """The tokenizer as it is when the model is loaded, the model's config and its inputs."""
    from transformers import AutoConfig, AutoTokenizer

    entries = json.loads((folder / "config.json").read_bytes())
    with blamed_on_model(f"config.json of {model!r} does not describe a model"):
        kind = entries["model_type"]
        known = AutoConfig.for_model(kind).to_dict().keys() - {"model_type"}
        known -= {"id2label", "label2id", "num_labels"}
        config = AutoConfig.for_model(kind, **{n: v for n, v in entries.items() if n in known})
    with blamed_on_model(f"the tokenizer of {model!r} does not load", folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if tokenizer.pad_token_id is None:
        raise ModelUnsupported(
            f"the tokenizer of {model!r} has no token for padding, so its rows cannot be batched; "
            "name one as pad_token in its tokenizer_config.json"
        )
    inputs = inputs_of(config, tokenizer.model_input_names)
    tokenizer.embedding_rows = inputs.vocabulary
    tokenizer.model_max_length = min(int(tokenizer.model_max_length), inputs.positions)
    return tokenizer, config, inputs


def preview(order: PreviewOrder) -> Preview:
    """Tokenise the rows of an order. Raises ModelUnsupported."""
    tokenizer, config, inputs = load_tokenizer(order.folder, order.model)
    limit = usable_length(tokenizer, order.max_length)
    tagged = order.problem is Problem.TOKEN_CLASSIFICATION
    chunk = {name: [row[name] for row in order.rows] for name in order.rows[0]}
    texts = texts_of(chunk, spaced=tagged and loses_spaces(tokenizer))
    columns, whole = token_columns(tokenizer, texts, limit, words=tagged)
    check_known(tokenizer, max((max(ids, default=0) for ids in columns["ids"]), default=0))
    choices = len(texts) // len(order.rows)
    longest = whole.reshape(-1, choices).max(1)
    rows = []
    for place, row in enumerate(order.rows[: order.shown]):
        own = slice(place * choices, (place + 1) * choices)
        part = {name: values[own] for name, values in columns.items()}
        part["types"] = part["type_ids"] if inputs.types else [None] * choices
        sequences = _sequences(tokenizer, texts[own], part, whole[own].tolist(), limit)
        rows.append(_labelled(row["label"], place, sequences, part, order))
    counted = count_lengths(longest, limit)
    return Preview(
        model=order.model,
        dataset=order.dataset,
        split=order.split,
        problem=order.problem,
        labels=order.labels,
        max_length=limit,
        rows=rows,
        lengths=SampledLengths(
            rows=order.total,
            sampled=counted.rows,
            bins=list(TOKEN_BINS),
            counts=counted.counts,
            longest=counted.longest,
            truncated=counted.truncated,
            suggested_max_length=suggested_length(longest, most_tokens(tokenizer, config)),
        ),
    )


def _sequences(
    tokenizer: Any, texts: Sequence[Text], part: dict[str, Any], whole: list[int], limit: int
) -> list[PreviewSequence]:
    return [
        PreviewSequence(
            tokens=tokenizer.convert_ids_to_tokens(ids),
            input_ids=ids,
            token_type_ids=types,
            length=length,
            truncated=length > limit,
            cut=_cut(tokenizer, text, limit) if length > limit else [],
        )
        for text, ids, types, length in zip(texts, part["ids"], part["types"], whole, strict=True)
    ]


def _cut(tokenizer: Any, text: Text, limit: int) -> list[str]:
    """The first tokens that truncation cuts off a text."""
    with unlimited(tokenizer) as backend:
        (encoding,) = backend.encode_batch([text], is_pretokenized=isinstance(text, list))
    left = tokenizer.truncation_side == "left"
    kept = set(kept_tokens(encoding.sequence_ids, limit, left=left))
    return [token for at, token in enumerate(encoding.tokens) if at not in kept][:MAX_CUT]


def _labelled(
    label: Any,
    place: int,
    sequences: list[PreviewSequence],
    part: dict[str, Any],
    order: PreviewOrder,
) -> PreviewRow:
    tags = None
    if order.problem is Problem.TOKEN_CLASSIFICATION:
        aligned = at_first_tokens(part["word_ids"][0], label).tolist()
        tags = [None if tag == IGNORED else tag for tag in aligned]
    several = None
    if order.problem is Problem.MULTI_LABEL:
        several = [name for name, mark in zip(order.labels, label, strict=True) if mark]
    return PreviewRow(
        row=place + 1,
        sequences=sequences,
        label=None if isinstance(label, list) else label,
        label_name=order.labels[label] if order.problem in NAMED else None,
        label_names=several,
        token_labels=tags,
    )


def main() -> None:
    """Answer one order."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    order = PreviewOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        report = PreviewReport(preview=preview(order))
    except SurgeryError as error:
        report = PreviewReport(detail=error.detail)
    sys.stdout.write(report.model_dump_json())


if __name__ == "__main__":
    main()
