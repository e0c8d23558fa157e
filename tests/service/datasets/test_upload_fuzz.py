"""Broken uploads of every form: read, or refused as a problem that says where; never a 500.

Every run draws the same examples.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.service.problems import Json, upload

SECONDS = 20.0  # for one upload; usually it takes some milliseconds
GROWTH = 400 << 10  # KiB of resident memory that all of them together may add


def fuzzed(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def bounded_memory(api: TestClient) -> Any:
    """Over all uploads of this module."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH, f"{grown >> 10} MiB"


def answered(api: TestClient, content: bytes, name: str, spec: Json | None = None) -> Json:
    """What every answer keeps to; the body."""
    began = time.monotonic()
    answer = upload(api, content, name, spec)
    assert time.monotonic() - began < SECONDS
    body: Json = answer.json()
    if answer.status_code in {200, 201}:
        assert sum(body["rows"].values()) > 1
        return body
    assert answer.status_code in {413, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["detail"]
    assert body["errors"]
    for fault in body["errors"]:
        assert fault["detail"]
        assert fault.get("file") == name or fault.get("pointer"), fault
        assert fault.get("row", 1) >= 1
    return body


words = st.sampled_from(["a", "good", "", " ", "NaN", "1", "0", "-1", "1e999", "é", "true", "null"])
odd = st.sampled_from(
    ['"', '""', "\0", "\r", "\n", "\t", ",", ";", "\\", "\ufeff", "x" * 1_100_000]
)
cells = st.one_of(words, words, words, odd, st.text(max_size=8))
headers = st.sampled_from(
    [["text", "label"], ["idx", "sentence1", "sentence2", "label"], ["text"], ["a", "a"],
     ["choice1", "choice2", "label"], ["text", "score"], ["", "label"]]
)  # fmt: skip


@st.composite
def delimited(draw: st.DrawFn, mark: str) -> bytes:
    """Rows of the header's width, or ragged; quoted, or not; cut anywhere, in three encodings."""
    header = draw(headers)
    table = [header]
    for _ in range(draw(st.integers(0, 12))):
        width = len(header) if draw(st.integers(0, 9)) else draw(st.integers(0, 5))
        table.append([draw(cells) for _ in range(width)])
    quoted = draw(st.booleans())
    lines = [
        mark.join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in row)
        for row in table
    ]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "latin-1", "utf-16"]))
    content = text.encode(encoding, errors="replace")
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), cells),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
json_lines = st.one_of(
    st.fixed_dictionaries({"text": words, "label": st.integers(0, 1)}).map(json.dumps),
    st.fixed_dictionaries({"text": json_values, "label": json_values}).map(json.dumps),
    st.fixed_dictionaries(
        {"tokens": st.lists(json_values, max_size=3), "tags": st.lists(json_values, max_size=3)}
    ).map(json.dumps),
    json_values.map(json.dumps),
    st.sampled_from(["{", '{"a":' * 20_000, "[" * 50_000, "9" * 6000, '{"label": ' + "9" * 6000 + "}",
                     '{"text": "\\ud800", "label": 1}', '{"text": "a", "text": "b", "label": 0}']),
)  # fmt: skip
jsonl = st.lists(json_lines, max_size=12).map(lambda lines: "\n".join(lines).encode())

columns = st.sampled_from(
    [
        pa.array(["a", "b", None, "c"] * 5),
        pa.array([0, 1] * 10),
        pa.array([0.5, float("nan"), 1.0, 2.0] * 5),
        pa.array([True, False] * 10),
        pa.array([None] * 20),
        pa.array([b"\xff", b"a"] * 10, pa.binary()),
        pa.array([b"\xff", b"a"] * 10, pa.binary()).view(pa.string()),
        pa.array([["a", "b"], []] * 10),
        pa.array([{"a": 1}, None] * 10),
        pa.array([2**62, 1] * 10, pa.timestamp("us")),
        pa.array([2**62, 1] * 10, pa.duration("us")),
        pa.array(["x", "y"] * 10).dictionary_encode(),
        pa.array(["x" * 1_100_000, "y"] * 10),
    ]
)


@st.composite
def parquet(draw: st.DrawFn) -> bytes:
    """A table of odd columns, whole, cut, or with a few bytes changed."""
    names = draw(
        st.sampled_from([["text", "label"], ["tokens", "tags"], ["choices", "label"], ["text"]])
    )
    written = io.BytesIO()
    pq.write_table(pa.table({name: draw(columns) for name in names}), written)
    content = bytearray(written.getvalue())
    if draw(st.booleans()):
        for _ in range(draw(st.integers(0, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return (
        bytes(content[: draw(st.integers(0, len(content)))])
        if draw(st.booleans())
        else bytes(content)
    )


specs = st.sampled_from(
    [
        {}, {}, {"problem": "regression"}, {"problem": "token_classification"},
        {"problem": "multiple_choice"}, {"labels": ["0", "1"]},
        {"columns": {"text": "text", "label": "label"}},
        {"columns": {"text": "label", "label": "text"}},
    ]
)  # fmt: skip


@given(content=delimited(","), spec=specs)
@fuzzed(80)
def test_any_csv(api: TestClient, content: bytes, spec: Json) -> None:
    answered(api, content, "t.csv", spec)


@given(content=delimited("\t"), spec=specs)
@fuzzed(80)
def test_any_tsv(api: TestClient, content: bytes, spec: Json) -> None:
    answered(api, content, "t.tsv", spec)


@given(content=jsonl, spec=specs)
@fuzzed(80)
def test_any_jsonl(api: TestClient, content: bytes, spec: Json) -> None:
    answered(api, content, "t.jsonl", spec)


@given(content=parquet(), spec=specs)
@fuzzed(16)
def test_any_parquet(api: TestClient, content: bytes, spec: Json) -> None:
    answered(api, content, "t.parquet", spec)


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.tsv.zst", "t.xlsx", "t"]),
    magic=st.sampled_from(
        [b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"]
    ),
)
@fuzzed(60)
def test_any_bytes(api: TestClient, content: bytes, name: str, magic: bytes) -> None:
    answered(api, magic + content, name)


@given(data=st.data(), name=st.sampled_from(["t.csv.gz", "t.csv.zst"]))
@fuzzed(40)
def test_any_compressed(api: TestClient, data: st.DataObject, name: str) -> None:
    content = data.draw(delimited(","))
    packed = bytearray(gzip.compress(content) if name.endswith("gz") else zstd.compress(content))
    if data.draw(st.booleans()):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(packed))) if data.draw(st.booleans()) else len(packed)
    answered(api, bytes(packed[:cut]), name)


BREAKS: dict[str, bytes] = {
    "ragged": b"x\n",
    "too wide": b"x,1,2\n",
    "no label": b"x,\n",
    "NaN label": b"x,nan\n",
    "no text": b",1\n",
    "no UTF-8": b"caf\xe9,1\n",
    "NUL": b"a\0b,1\n",
    "huge": b"x" * 1_100_000 + b",1\n",
    "quotes": b'"a" b,1\n',
}


@given(data=st.data(), kind=st.sampled_from(sorted(BREAKS)))
@fuzzed(50)
def test_the_broken_row_is_the_one_named(api: TestClient, data: st.DataObject, kind: str) -> None:
    count = data.draw(st.integers(4, 12))
    at = data.draw(st.integers(1, count))
    lines = [b'"row\n%d",%d\n' % (n, n % 2) for n in range(count)]
    lines[at - 1] = BREAKS[kind]
    content = b"text,label\n" + b"".join(lines)
    name, pack = data.draw(
        st.sampled_from(
            [("t.csv", bytes), ("t.csv.gz", gzip.compress), ("t.csv.zst", zstd.compress)]
        )
    )
    [fault] = answered(api, pack(content), name)["errors"]
    assert (fault["file"], fault["row"]) == (name, at)
