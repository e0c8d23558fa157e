"""Numbers on disk read as they were appended, and little of them in memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from surgery.data.ingest.repeats import find_repeats, repeated_rows, repeated_values
from surgery.data.ingest.spool import CHUNK_ROWS, Spool
from tests.support.rows.ingested import ingested


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 40])
def test_rows_come_back_in_order(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.data.ingest.spool.CHUNK_ROWS", 8)
    numbers, pairs = Spool("i"), Spool("q", width=2)
    for row in range(rows):
        numbers.append(row - 3)
        pairs.append_bytes(np.array([row, -row], np.int64).tobytes())
        if row % 5 == 0:  # reading between writing moves the file's own place
            assert (numbers[row], numbers[0]) == (row - 3, -3)
    assert len(numbers) == len(pairs) == rows
    assert list(numbers) == [row - 3 for row in range(rows)]
    chunks = list(pairs.chunks())
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in numbers.chunks()]
    assert [tuple(row) for chunk in chunks for row in chunk] == [(r, -r) for r in range(rows)]
    between = [number for chunk in numbers.chunks(2, 9) for number in chunk.tolist()]
    assert between == [row - 3 for row in range(2, min(rows, 9))]
    with pytest.raises(IndexError):
        numbers[rows]


def peak(rows: int, distinct: int) -> int:
    """Bytes that so many rows of so few contents take at most, from first to last."""
    chance = random.Random(0)
    hashes, labels, ids = Spool("q", width=2), Spool("i"), Spool("q")
    known = [chance.randbytes(16) for _ in range(distinct)]
    tracemalloc.start()
    for row in range(rows):
        hashes.append_bytes(known[row % distinct])
        labels.append(row % 2)
        ids.append(row // 2)
    mask = repeated_rows(hashes)
    held = bytes(row % 10 == 0 for row in range(rows))
    found = find_repeats(hashes, mask, held, labels)
    count, _ = repeated_values(ids, 0, rows)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows // 2
    assert found.counts.within_train > 0
    return most


@pytest.mark.parametrize("distinct", [3, 10_000])
def test_memory_does_not_grow_with_the_rows(distinct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.data.ingest.spool.CHUNK_ROWS", 1 << 11)
    monkeypatch.setattr("surgery.data.ingest.repeats.AT_ONCE", 1 << 12)
    few, many = peak(20_000, distinct), peak(60_000, distinct)
    # Two masks of a byte a row and what folding has at hand; the rows themselves are 28 bytes.
    assert many - few < 10 * 40_000, (few, many)


def test_a_dataset_over_a_chunk_is_read_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": n // 2, "text": f"t {n % 50}", "label": n % 3} for n in range(200)]
    whole = ingested(tmp_path, rows)
    assert len(rows) < CHUNK_ROWS
    monkeypatch.setattr("surgery.data.ingest.spool.CHUNK_ROWS", 16)
    monkeypatch.setattr("surgery.data.ingest.repeats.AT_ONCE", 8)
    assert ingested(tmp_path, rows, out="again") == whole
    assert {"repeated_ids", "conflicting_labels", "repeated_texts"} <= {
        finding.code for finding in whole.findings
    }
