"""Delimited files without a header, with two, or with a line of Excel's before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.schemas.data.dataset import Columns
from tests.support.rows.files import fault_of, rows_of, written
from tests.support.rows.ingested import ingested, refused

MAILS = "".join(f"{['ham', 'spam'][n % 2]}\tmessage {n} for you\n" for n in range(20))


@pytest.mark.parametrize(
    "text",
    [
        MAILS,
        "".join(f"a text of {n}\t{n % 2}\n" for n in range(20)),
        "".join(f"first {n}\tsecond {n}\t{n / 2}\n" for n in range(20)),
        "".join(f"2024-01-{n:02}\tsome text {n}\n" for n in range(1, 20)),
        "".join(f"{['question', 'review'][n % 2]}\tsome text {n}\n" for n in range(20)),
    ],
)
def test_a_first_line_that_is_a_row_is_refused(tmp_path: Path, text: str) -> None:
    fault = fault_of(written(tmp_path, text), "tsv")
    assert "looks like a row and not like a header" in fault.detail
    assert fault.row is None
    comma = text.replace("\t", ",")
    assert "not like a header" in fault_of(written(tmp_path, comma), "csv").detail


def test_naming_its_texts_as_columns_does_not_help(tmp_path: Path) -> None:
    table = MAILS.replace("\t", ",")
    fault = refused(tmp_path, table, columns=Columns(text="message 0 for you", label="ham"))
    assert "not like a header" in fault.detail


def test_a_label_far_below_shows_it_too(tmp_path: Path) -> None:
    table = "".join(f"class {n % 150},some text {n}\n" for n in range(300))
    fault = refused(tmp_path, table, columns=Columns(text="some text 0", label="class 0"))
    assert "not like a header" in fault.detail
    assert fault.column == "class 0"


@pytest.mark.parametrize(
    "header",
    ["message,spam", "text,1", "0,1", "1,2", "Wie war es?,Urteil", "sms,kind"],
)
def test_headers_are_headers(tmp_path: Path, header: str) -> None:
    text = header + "\n" + "".join(f"a text {n},{['spam', 'ham'][n % 2]}\n" for n in range(20))
    assert len(rows_of(written(tmp_path, text), "csv")) == 20


def test_a_class_may_be_called_as_its_column(tmp_path: Path) -> None:
    table = "message,spam\n" + "".join(f"a text {n},{['spam', 'ham'][n % 2]}\n" for n in range(20))
    report = ingested(tmp_path, table, columns=Columns(text="message", label="spam"))
    assert report.labels == ["ham", "spam"]


def test_the_advice_for_columns_names_no_text(tmp_path: Path) -> None:
    table = "".join(f"a sentence {n},another one {n}\n" for n in range(20))
    fault = refused(tmp_path, table)
    assert fault.pointer == "/columns/label"
    assert '{"label": "…"}' in fault.detail
    assert "write a line with names before it" in fault.detail


def test_a_header_in_the_midst_is_told(tmp_path: Path) -> None:
    part = "text,label\n" + "".join(f"a {n},{n % 2}\n" for n in range(5))
    fault = refused(tmp_path, part * 2)
    assert fault.row == 6
    assert "repeats the header" in fault.detail


def test_excels_line_is_skipped_or_named(tmp_path: Path) -> None:
    plain = "text,label\na,1\nb,0\n"
    expected = rows_of(written(tmp_path, plain), "csv")
    assert rows_of(written(tmp_path, "\ufeffsep=,\r\n" + plain), "csv") == expected
    fault = fault_of(written(tmp_path, "sep=;\ntext;label\na;1\n"), "csv")
    assert "Excel's own" in fault.detail
    assert "commas" in fault.detail


def test_a_separator_between_commas_is_named(tmp_path: Path) -> None:
    text = "id;text, raw;label\n1;a, b;0\n"
    assert "separated by semicolons" in fault_of(written(tmp_path, text), "csv").detail


def test_equal_cells_of_a_first_row_may_be_no_header(tmp_path: Path) -> None:
    assert "without a header" in fault_of(written(tmp_path, "x,1,1\ny,0,1\n"), "csv").detail
