"""Labels that are commonly meant otherwise than as a class of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgery.schemas.data.dataset import DatasetReport, Finding
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, refused


def labelled(values: list[Any], count: int = 40, rare: Any = None) -> Rows:
    """Rows with these labels in turn; every tenth row has the rare one where there is one."""
    return [
        {"text": f"text {n}", "label": rare if rare is not None and n % 10 == 3 else
         values[n % len(values)]}
        for n in range(count)
    ]  # fmt: skip


def tagged(*tags: Any) -> Rows:
    return [{"tokens": [f"w{n}", *("x" * (len(tags) - 1))], "tags": list(tags)} for n in range(40)]


def codes(report: DatasetReport) -> list[str]:
    return [found.code for found in report.findings]


def finding(report: DatasetReport, code: str) -> Finding:
    [found] = [found for found in report.findings if found.code == code]
    return found


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        ([0, 1, 2], -1), ([0, 1], -1), ([0, 1], -100), ([0, 1, 2], 99), (["yes", "no"], "-"),
        (["yes", "no"], "NULL"), (["yes", "no"], "N/A"), (["yes", "no"], "\\N"),
        (["yes", "no"], "None"), ([0, 1], "null"), ([1.0, 2.0, 3.0], -1.0),
    ],
)  # fmt: skip
def test_a_mark_of_no_label_is_told_with_its_rows(
    tmp_path: Path, values: list[Any], mark: Any
) -> None:
    found = finding(ingested(tmp_path, labelled(values, rare=mark)), "missing_label_marks")
    assert (found.count, [place.row for place in found.examples]) == (4, [4, 14, 24, 34])


@pytest.mark.parametrize(
    "values", [[-1, 0, 1], [-1, 1], [-2, -1, 0, 1, 2], ["+", "-"], [0, 1, 2], ["nope", "a-b"]]
)
def test_classes_that_are_meant_are_no_marks(tmp_path: Path, values: list[Any]) -> None:
    assert "missing_label_marks" not in codes(ingested(tmp_path, labelled(values)))


def test_a_mark_that_labels_name_is_a_class(tmp_path: Path) -> None:
    report = ingested(tmp_path, labelled(["yes", "no"], rare="none"), labels=["no", "yes", "none"])
    assert "missing_label_marks" not in codes(report)


def test_a_mark_among_scores_and_tags_is_told(tmp_path: Path) -> None:
    scores = labelled([0.5, 3.0, 2.5], rare=-1)
    found = finding(ingested(tmp_path, scores, out="a"), "missing_label_marks")
    assert (found.count, found.examples[0].row) == (4, 4)
    assert codes(ingested(tmp_path, labelled([0.5, -1, -0.5]), out="b")) == []
    found = finding(ingested(tmp_path, tagged(1, 0, -100), out="c"), "missing_label_marks")
    assert (found.count, found.examples[0].row) == (40, 1)


def test_spellings_of_one_label_are_told(tmp_path: Path) -> None:
    report = ingested(tmp_path, labelled(["Good", "bad", "good ", "BAD"]))
    found = finding(report, "similar_labels")
    assert found.count == 4
    assert "'BAD', 'bad'; 'Good', 'good'" in found.detail
    assert "similar_labels" in codes(ingested(tmp_path, labelled(["01", "1"]), out="codes"))
    fault = refused(tmp_path / "out", labelled(["Good", "bad"]), labelled(["good"], 2))
    assert "train has 'Good'" in fault.detail


@pytest.mark.parametrize(
    ("one", "other"), [(("1", "0"), ("1.0", "0.0")), (("TRUE", "FALSE"), ("true", "False"))]
)
def test_two_ways_to_write_a_class_are_one(
    tmp_path: Path, one: tuple[str, str], other: tuple[str, str]
) -> None:
    def table(*labels: str) -> str:
        return "text,label\n" + "".join(f"a {n},{labels[n % len(labels)]}\n" for n in range(40))

    mixed = ingested(tmp_path, table(*one, *other), out="mixed")
    assert len(mixed.labels) == 2
    assert mixed.warnings == []
    reports = [ingested(tmp_path, table(*pair), out=pair[0]) for pair in (one, other)]
    assert {report.fingerprint for report in reports} == {mixed.fingerprint}
    typed = [{"0": 0.0, "1": 1.0}.get(label, label == "TRUE") for label in one]
    rows: Rows = [{"text": f"a {n}", "label": typed[n % 2]} for n in range(40)]
    assert ingested(tmp_path, rows, out="typed").fingerprint == mixed.fingerprint


def test_codes_and_versions_stay_apart(tmp_path: Path) -> None:
    report = ingested(
        tmp_path, labelled(["007", "1.10", "1.1"]), problem=Problem.CLASSIFICATION
    )  # fmt: skip
    assert report.labels == ["1.1", "1.10", "007"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["0,5", "1,5", "2"], "a decimal comma"),
        (["1,200", "3,400"], "separators"),
        (["10%", "20 %"], "other signs"),
    ],
)
def test_numbers_written_as_people_do_are_told(
    tmp_path: Path, values: list[str], words: str
) -> None:
    found = finding(ingested(tmp_path, labelled(values)), "numbers_as_words")
    assert words in found.detail
    assert found.examples[0].row == 1
    fault = refused(tmp_path / "out", labelled([0.5, 1.5], rare=values[0])[:10])
    assert "write 0,5 as 0.5" in fault.detail


def test_many_whole_numbers_are_told(tmp_path: Path) -> None:
    rows = labelled(list(range(30)), 300)
    found = finding(ingested(tmp_path, rows, out="a"), "many_numbers")
    assert found.count == 30
    assert "regression" in found.detail
    named = ingested(tmp_path, rows, problem=Problem.CLASSIFICATION, out="b")
    assert "many_numbers" not in codes(named)


def test_a_class_a_row_is_refused(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t {n}", "label": f"x{n}"} for n in range(60)]
    assert "60 different labels in 60 rows: is this the column" in refused(tmp_path, rows).detail
    rows = [{"text": f"t {n}", "label": n} for n in range(60)]
    assert "regression" in refused(tmp_path, rows).detail


def test_f1_of_the_frequent_class_is_told(tmp_path: Path) -> None:
    rows = labelled(["legit"], 60, rare="fraud")
    found = finding(ingested(tmp_path, rows, out="a"), "f1_of_frequent_class")
    assert "f1 is of the second label, 'legit'" in found.detail
    assert "macro_f1" in found.detail
    ordered = ingested(tmp_path, rows, labels=["legit", "fraud"], out="b")
    assert "f1_of_frequent_class" not in codes(ordered)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ((1, 0, 2), "numbers without names"),
        (("B-PER", "O", "0"), "letter O"),
        (("B-LOC", "E-LOC", "O"), "E-, L- and M- as I-"),
        (("U-LOC", "B-LOC", "O"), "W- as B-"),
        (("B_PER", "I_PER", "O"), "as O, B-"),
        (("PER-B", "PER-I", "O"), "as O, B-"),
        (("b-per", "i-per", "o"), "as O, B-"),
    ],
)
def test_entities_that_are_not_measured_are_told(
    tmp_path: Path, tags: tuple[Any, ...], words: str
) -> None:
    assert words in finding(ingested(tmp_path, tagged(*tags)), "unmeasured_entities").detail


@pytest.mark.parametrize("tags", [("I-PER", "O", "O"), ("NNP", "VBD", "-LRB-"), ("ADJ", "X", "O")])
def test_other_tags_are_as_they_are(tmp_path: Path, tags: tuple[str, ...]) -> None:
    assert codes(ingested(tmp_path, tagged(*tags))) == []


def test_a_class_called_nan_is_one_where_labels_name_it(tmp_path: Path) -> None:
    rows = labelled(["deu", "nan", "eng"])
    report = ingested(tmp_path, rows, labels=["deu", "eng", "nan"])
    assert report.label_counts is not None
    assert report.label_counts["train"]["nan"] > 0
    tags = ingested(tmp_path, tagged("PRT", "INF"), labels=["PRT", "INF"], out="tags")
    assert tags.labels == ["PRT", "INF"]
    rows = labelled(["deu", "eng"])
    rows[3]["label"] = "nan"
    assert "name all classes in labels" in refused(tmp_path / "out", rows, rows[:2]).detail
    rows[3]["label"] = float("nan")
    assert "leave the row out" in refused(
        tmp_path / "out", rows, rows[:2], labels=["deu", "eng", "nan"]
    ).detail  # fmt: skip
