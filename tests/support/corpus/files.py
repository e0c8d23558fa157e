"""Data files of strangers: bombs, other formats, texts that only look like rows."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

Made = Callable[[], bytes]
GOOD = b"text,label\n" + b"".join(b"some words %d,%d\n" % (n, n % 2) for n in range(20))


def parquet(columns: dict[str, Any], **options: Any) -> Made:
    """A file of these columns."""

    def make() -> bytes:
        written = io.BytesIO()
        pq.write_table(pa.table(columns), written, **options)
        return written.getvalue()

    return make


def changed(make: Made, change: Callable[[bytes], bytes]) -> Made:
    """The bytes of another one, changed."""
    return lambda: change(make())


def lines(*rows: Any) -> Made:
    """JSON Lines."""
    return lambda: "\n".join(json.dumps(row) for row in rows).encode()


def bytes_of(content: bytes) -> Made:
    return lambda: content


def _zip() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.csv", GOOD)
    return written.getvalue()


def _nested(depth: int) -> bytes:
    return b'{"text":' * depth + b"1" + b"}" * depth


def _nested_list(depth: int) -> pa.Array:
    kind: pa.DataType = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.nulls(4, kind)


PLAIN = parquet({"text": ["a", "b"] * 10, "label": [0, 1] * 10})
# What it is called, and how it is made.
FILES: dict[str, tuple[str, Made]] = {
    "empty": ("t.csv", bytes_of(b"")),
    "spaces": ("t.csv", bytes_of(b" \n \n")),
    "header-alone": ("t.csv", bytes_of(b"text,label\n")),
    "one-row": ("t.csv", bytes_of(b"text,label\na,1\n")),
    "one-class": ("t.csv", bytes_of(b"text,label\n" + b"a,1\n" * 20)),
    "each-its-own-class": ("t.csv", bytes_of(
        b"text,label\n" + b"".join(b"a%d,c%d\n" % (n, n) for n in range(3_000)))),
    "no-label": ("t.csv", bytes_of(b"text,other\na,b\nc,d\n")),
    "same-columns": ("t.csv", bytes_of(b"text,text\na,b\nc,d\n")),
    "wide": ("t.csv", bytes_of(b",".join(b"c%d" % n for n in range(100_000)) + b"\n")),
    "wide-row": ("t.csv", bytes_of(b"text,label\n" + b"," * 2_000_000)),
    "line-long": ("t.csv", bytes_of(b"text,label\n" + b"x" * 5_000_000 + b",1\n")),
    "quote-open": ("t.csv", bytes_of(b'text,label\n"' + b"x,1\n" * 400_000)),
    "quotes-odd": ("t.csv", bytes_of(b'text,label\na"b"c,1\n"d"e,0\n')),
    "nul": ("t.csv", bytes_of(b"text,label\na\0b,1\nc,0\n")),
    "utf-16": ("t.csv", bytes_of(GOOD.decode().encode("utf-16"))),
    "utf-32": ("t.csv", bytes_of(GOOD.decode().encode("utf-32"))),
    "latin-1": ("t.csv", bytes_of(b"text,label\ncaf\xe9,1\nb,0\n")),
    "overlong-utf-8": ("t.csv", bytes_of(b"text,label\n\xc0\xaf,1\nb,0\n")),
    "surrogates": ("t.csv", bytes_of(b"text,label\n\xed\xa0\x80,1\nb,0\n")),
    "formula": ("t.xlsx", _zip),
    "html": ("t.csv", bytes_of(b"<html><body>Sign in</body></html>")),
    "pdf": ("t.csv", bytes_of(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")),
    "elf": ("t.csv", bytes_of(b"\x7fELF\x02\x01\x01" + bytes(200))),
    "pickle": ("t.csv", bytes_of(b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94.")),
    "pickle-named": ("t.pkl", bytes_of(b"\x80\x04.")),
    "numpy": ("t.npy", bytes_of(b"\x93NUMPY\x01\0")),
    "zip-as-csv": ("t.csv", _zip),
    "zip": ("t.zip", _zip),
    "tar": ("t.tar", bytes_of(b"x" * 1024)),
    "tar-gz": ("t.tar.gz", changed(bytes_of(GOOD), gzip.compress)),
    "bz2": ("t.csv.bz2", bytes_of(b"BZh9")),
    "sqlite": ("t.csv", bytes_of(b"SQLite format 3\0" + bytes(100))),
    "arrow": ("t.arrow", bytes_of(b"ARROW1\0\0")),
    "no-suffix": ("t", bytes_of(GOOD)),
    "suffix-twice": ("t.csv.csv.exe", bytes_of(GOOD)),
    "gzip-empty": ("t.csv.gz", bytes_of(b"")),
    "gzip-cut": ("t.csv.gz", changed(bytes_of(GOOD), lambda raw: gzip.compress(raw)[:-8])),
    "gzip-of-nothing": ("t.csv.gz", changed(bytes_of(b""), gzip.compress)),
    "gzip-twice": ("t.csv.gz", changed(bytes_of(GOOD), lambda r: gzip.compress(gzip.compress(r)))),
    "gzip-wrong": ("t.csv.gz", changed(bytes_of(GOOD), lambda r: gzip.compress(r)[:-8] + b"x" * 8)),
    "gzip-then-more": ("t.csv.gz", changed(bytes_of(GOOD), lambda r: gzip.compress(r) + b"more")),
    "gzip-plain": ("t.csv.gz", bytes_of(GOOD)),
    "gzip-bomb": ("t.csv.gz", lambda: gzip.compress(b"text,label\n" + b"x" * 50_000_000)),
    "gzip-bomb-lines": ("t.csv.gz", lambda: gzip.compress(b"text,label\n" + b"\n" * 20_000_000)),
    "gzip-name": ("../../evil.csv.gz", changed(bytes_of(b"a"), gzip.compress)),
    "zstd-cut": ("t.csv.zst", changed(bytes_of(GOOD), lambda raw: zstd.compress(raw)[:-4])),
    "zstd-plain": ("t.csv.zst", bytes_of(GOOD)),
    "zstd-bomb": ("t.csv.zst", lambda: zstd.compress(b"text,label\n" + b"x" * 100_000_000)),
    "zstd-window": ("t.csv.zst", bytes_of(b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(20))),
    "json-open": ("t.jsonl", bytes_of(b"{")),
    "json-deep": ("t.jsonl", lambda: _nested(100_000)),
    "json-lists-deep": ("t.jsonl", bytes_of(b"[" * 1_000_000)),
    "json-number-long": ("t.jsonl", bytes_of(b'{"text": "a", "label": ' + b"9" * 100_000 + b"}")),
    "json-keys-many": ("t.jsonl", lambda: json.dumps(
        {f"k{n}": n for n in range(100_000)}).encode()),
    "json-keys-twice": ("t.jsonl", bytes_of(b'{"text":"a","text":"b","label":1}\n' * 4)),
    "json-half-character": ("t.jsonl", bytes_of(b'{"text": "\\ud800", "label": 1}\n')),
    "json-nul": ("t.jsonl", bytes_of(b'{"text": "\\u0000", "label": 1}\n')),
    "json-nan": ("t.jsonl", bytes_of(b'{"text": "a", "label": NaN}\n{"text": "b", "label": 1}\n')),
    "json-infinity": ("t.jsonl", bytes_of(b'{"text": "a", "label": 1e999}\n')),
    "json-array": ("t.jsonl", lambda: json.dumps([{"text": "a", "label": 1}] * 4).encode()),
    "json-texts": ("t.jsonl", lines("a", "b")),
    "json-null": ("t.jsonl", lines(None, None)),
    "json-objects": ("t.jsonl", lines({"text": {"a": 1}, "label": {"b": 2}})),
    "json-labels-mixed": ("t.jsonl", lines(*({"text": "a", "label": each}
                                             for each in (1, "1", True, None, 1.5, [1])))),
    "json-without-keys": ("t.jsonl", lines({}, {})),
    "json-late-keys": ("t.jsonl", lines({"text": "a", "label": 1}, {"label": 0}, {"x": 1})),
    "json-comment": ("t.jsonl", bytes_of(b'// no\n{"text": "a", "label": 1}\n')),
    "json-python": ("t.jsonl", bytes_of(b"{'text': 'a', 'label': 1}\n")),
    "json-line-long": ("t.jsonl", lambda: b'{"text": "' + b"x" * 5_000_000 + b'", "label": 1}\n'),
    "json-proto": ("t.jsonl", lines({"__proto__": 1, "__class__": "x"})),
    "json-bom-16": ("t.jsonl", bytes_of('{"text": "a"}'.encode("utf-16"))),
    "tags-uneven": ("t.jsonl", lines({"tokens": ["a", "b"], "tags": ["O"]})),
    "tags-of-objects": ("t.jsonl", lines({"tokens": [{"a": 1}], "tags": [["O"]]})),
    "tags-none": ("t.jsonl", lines({"tokens": [], "tags": []})),
    "tags-many": ("t.jsonl", lines({"tokens": ["a"] * 200_000, "tags": ["O"] * 200_000})),
    "choices-one": ("t.jsonl", lines({"choices": ["a"], "label": 0})),
    "choices-many": ("t.jsonl", lines({"choices": ["a"] * 10_000, "label": 0})),
    "choices-beyond": ("t.jsonl", lines({"choices": ["a", "b"], "label": 7})),
    "parquet-empty": ("t.parquet", bytes_of(b"")),
    "parquet-magic": ("t.parquet", bytes_of(b"PAR1PAR1")),
    "parquet-plain": ("t.parquet", bytes_of(GOOD)),
    "parquet-footer-long": ("t.parquet", changed(
        PLAIN, lambda raw: raw[:-8] + (1 << 31).to_bytes(4, "little") + b"PAR1")),
    "parquet-footer-0": ("t.parquet", changed(PLAIN, lambda raw: raw[:-8] + bytes(4) + b"PAR1")),
    "parquet-cut": ("t.parquet", changed(PLAIN, lambda raw: raw[: len(raw) // 2])),
    "parquet-encrypted": ("t.parquet", changed(PLAIN, lambda raw: raw[:-4] + b"PARE")),
    "parquet-metadata-random": ("t.parquet", changed(
        PLAIN, lambda raw: raw[:-200] + bytes(range(192)) + raw[-8:])),
    "parquet-without-rows": ("t.parquet", parquet({"text": [], "label": []})),
    "parquet-without-columns": ("t.parquet", parquet({})),
    "parquet-nulls": ("t.parquet", parquet({"text": pa.nulls(20), "label": pa.nulls(20)})),
    "parquet-binary": ("t.parquet", parquet({"text": [b"\xff"] * 20, "label": [0, 1] * 10})),
    "parquet-deep": ("t.parquet", parquet({"text": _nested_list(60), "label": [0, 1] * 2})),
    "parquet-wide": ("t.parquet", parquet({f"c{n}": [0] for n in range(1_200)})),
    "parquet-bomb": ("t.parquet", lambda: parquet(
        {"text": pa.array(["x" * 1_000] * 100_000).dictionary_encode(), "label": [0, 1] * 50_000},
        compression="zstd")()[:-20]),
    "parquet-cell-long": ("t.parquet", parquet({"text": ["x" * 5_000_000, "y"] * 2,
                                                "label": [0, 1] * 2})),
    "tsv-with-commas": ("t.tsv", bytes_of(GOOD)),
    "csv-with-tabs-only": ("t.csv", bytes_of(GOOD.replace(b",", b"\t\t"))),
    "carriage-returns": ("t.csv", bytes_of(b"text,label\r" + b"a,1\r,\r" * 4)),
    "marks-of-order": ("t.csv", bytes_of(b"\xef\xbb\xbf\xef\xbb\xbftext,label\na,1\n")),
}  # fmt: skip
FILE_NAMES = (
    *("../../evil.csv", "/etc/passwd.csv", "..\\evil.csv", "a\0b.csv", "a\nb.csv", "C:evil.csv"),
    *("x" * 300 + ".csv", ".csv", "..csv", "con.csv", "%2e%2e%2fx.csv", "\u202egnp.csv", "~.csv"),
)
"""Names under which a good file may come: they are shown, and never a path."""
