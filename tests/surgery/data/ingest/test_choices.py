"""Multiple choice: what is stored, what is inferred, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import Columns, HubDataset
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, lines, refused, stored


def asked(count: int = 20, **changes: Any) -> Rows:
    """Questions of two choices; ``changes`` are made to the third row."""
    rows = [
        {
            "premise": f"It rained {n}.", "question": "Why?", "choices": [f"wet {n}", "dry"],
            "label": n % 2,
        }
        for n in range(count)
    ]  # fmt: skip
    rows[2].update(changes)
    return rows


def test_choices_become_a_list_and_a_place(tmp_path: Path) -> None:
    report = ingested(tmp_path, asked())
    assert report.problem is Problem.MULTIPLE_CHOICE
    assert report.inferred == ["columns", "problem", "validation"]
    assert report.columns == Columns(
        text="premise", text_pair="question", choices="choices", label="label"
    )
    assert report.labels == ["0", "1"]
    assert report.rows == {"train": 18, "validation": 2}
    assert report.label_counts is not None
    assert report.label_counts["validation"] == {"0": 1, "1": 1}, "stratified by the right place"
    assert report.text_lengths.train == [18, *[0] * 9]
    assert report.warnings == []
    assert stored(tmp_path / "out")[0] == {
        "text": "It rained 0.", "text_pair": "Why?", "choices": ["wet 0", "dry"], "label": 0,
    }  # fmt: skip


def test_choices_in_columns_of_a_csv_are_the_same_dataset(tmp_path: Path) -> None:
    rows = asked()
    table = "premise,question,ending1,ending0,label\n" + "".join(
        f"{row['premise']},Why?,dry,{row['choices'][0]},{row['label']}\n" for row in rows
    )
    named = table.replace("ending0", "yes").replace("ending1", "no")
    inferred = ingested(tmp_path, table, out="csv")
    assert inferred.columns.choices == ["ending0", "ending1"]
    columns = Columns(text="premise", text_pair="question", choices=["yes", "no"], label="label")
    given = ingested(tmp_path, named, columns=columns, problem=Problem.MULTIPLE_CHOICE, out="named")
    assert given.inferred == ["validation"]
    prints = {report.fingerprint for report in (inferred, given, ingested(tmp_path, rows))}
    assert len(prints) == 1
    assert ingested(tmp_path, asked(question="How?"), out="other").fingerprint not in prints


@pytest.mark.parametrize(
    ("value", "place"), [(1, 1), ("1", 1), (1.0, 1), ("dry", 1), (" wet 2 ", 0), ("0", 0)]
)
def test_the_right_choice_is_given_by_place_or_by_text(
    tmp_path: Path, value: object, place: int
) -> None:
    ingested(tmp_path, asked(label=value), asked()[:2])
    assert stored(tmp_path / "out")[2]["label"] == place


def test_a_number_is_a_place_even_where_choices_are_numbers(tmp_path: Path) -> None:
    ingested(tmp_path, asked(choices=["1", "2"], label=1), asked()[:2])
    assert stored(tmp_path / "out")[2]["label"] == 1
    fault = refused(tmp_path / "out", asked(choices=["1", "2"], label="1"), asked()[:2])
    assert (fault.row, fault.column) == (3, "label")
    assert "index of one choice and the text of another" in fault.detail


@pytest.mark.parametrize(
    ("changes", "column", "words"),
    [
        ({"label": 2}, "label", "neither an index from 0 to 1"),
        ({"label": -1}, "label", "hidden label"),
        ({"label": None}, "label", "missing"),
        ({"label": "damp"}, "label", "'damp'"),
        ({"label": True}, "label", "neither an index"),
        ({"choices": ["same", "same"], "label": "same"}, "label", "text of 2 choices"),
        ({"choices": ["a", "b", "c"]}, "choices", "3 choices where the first row has 2"),
        ({"choices": ["a"]}, "choices", "has 1 choice;"),
        ({"choices": []}, "choices", "has 0 choices"),
        ({"choices": ["a", " "]}, "choices", "choice 1 (counted from 0) is empty"),
        ({"choices": ["a", None]}, "choices", "choice 1 (counted from 0) is missing"),
        ({"choices": ["a", 3]}, "choices", "of type int"),
        ({"choices": None}, "choices", "is missing"),
        ({"choices": "a"}, "choices", "CSV and TSV have no lists"),
        ({"premise": 4}, "premise", "a text is a string"),
        ({"choices": ["a", "b\0"]}, "choices", "NUL"),
    ],
)
def test_a_wrong_choice_is_named_with_row_and_column(
    tmp_path: Path, changes: dict[str, Any], column: str, words: str
) -> None:
    fault = refused(tmp_path, asked(**changes), asked()[:2])
    assert (fault.file, fault.row, fault.column) == ("train", 3, column)
    assert words in fault.detail


def test_the_first_row_tells_how_many_choices_there_are(tmp_path: Path) -> None:
    rows = asked()
    rows[0]["choices"] = [str(n) for n in range(65)]
    fault = refused(tmp_path, rows)
    assert (fault.row, fault.column) == (1, "choices")
    assert "65 choices; 2 to 64" in fault.detail


def test_an_empty_context_and_repeated_questions_are_counted(tmp_path: Path) -> None:
    rows = asked(6, premise=None)
    rows += [{**rows[0], "label": 1}, rows[1]]
    report = ingested(tmp_path, rows, [rows[1]])
    assert stored(tmp_path / "out")[2]["text"] == ""
    assert report.duplicates.model_dump() == {
        "within_train": 2, "train_and_validation": 1, "conflicting_labels": 1,
    }  # fmt: skip


def test_choices_alone_and_a_question_alone(tmp_path: Path) -> None:
    rows = [{"options": [f"a {n}", "b"], "answer": n % 2, "id": n} for n in range(20)]
    alone = ingested(tmp_path, rows, out="alone")
    assert alone.columns == Columns(choices="options", label="answer")
    assert set(stored(tmp_path / "alone")[0]) == {"choices", "label"}
    questioned = ingested(tmp_path, [{**row, "question": "Which?"} for row in rows], out="asked")
    assert questioned.columns.text == "question"
    assert questioned.columns.text_pair is None
    fault = refused(
        tmp_path, [{**row, "q": "?"} for row in rows],
        columns=Columns(text_pair="q", choices="options", label="answer"),
    )  # fmt: skip
    assert fault.pointer == "/columns/text"


def test_columns_and_labels_must_fit_the_problem(tmp_path: Path) -> None:
    fault = refused(tmp_path, asked(), labels=["a", "b"])
    assert fault.pointer == "/labels"
    fault = refused(tmp_path, asked(), columns=Columns(choices=["premise", "dry"], label="label"))
    assert fault.pointer == "/columns/choices/1"
    text = [{"text": f"a {n}", "label": n % 2} for n in range(20)]
    assert refused(tmp_path, text, problem=Problem.MULTIPLE_CHOICE).pointer == "/columns/choices"


def test_a_named_text_says_that_rows_are_texts(tmp_path: Path) -> None:
    columns = Columns(text="premise", label="label")
    assert ingested(tmp_path, asked(), columns=columns).problem is Problem.CLASSIFICATION


def test_a_hub_reference_names_what_its_problem_needs() -> None:
    with pytest.raises(ValueError, match=r"columns\.tokens and columns\.label"):
        HubDataset(hub="a/b", problem=Problem.TOKEN_CLASSIFICATION)
    with pytest.raises(ValueError, match=r"columns\.text has no meaning"):
        HubDataset(hub="a/b", problem=Problem.TOKEN_CLASSIFICATION,
                   columns=Columns(text="t", tokens="t", label="l"))  # fmt: skip
    with pytest.raises(ValueError, match="labels mean nothing"):
        HubDataset(hub="a/b", problem=Problem.REGRESSION, labels=["a", "b"])
    with pytest.raises(ValueError, match="two of the labels are equal"):
        HubDataset(hub="a/b", labels=["a", "a"])
    with pytest.raises(ValueError, match="twice"):
        Columns(choices=["a", "a"])


def copa(tmp_path: Path, **changes: Any) -> Sources:
    """A mirror with rows in the shape of COPA's."""
    folder = tmp_path / "mirror/datasets/aps/super_glue/copa"
    folder.mkdir(parents=True)
    rows: Rows = [
        {
            "premise": f"The lamp fell {n}.", "choice1": "It broke.", "choice2": "It was pushed.",
            "question": ("effect", "cause")[n % 2], "idx": n, "label": n % 2,
        }
        for n in range(6)
    ]  # fmt: skip
    rows[3].update(changes)
    (folder / "train.jsonl").write_text(lines(rows))
    (folder / "validation.jsonl").write_text(lines(rows[:2]))
    return Sources((tmp_path / "mirror",), cache=tmp_path / "cache", offline=True)


def test_copa_asks_its_question_in_words(tmp_path: Path) -> None:
    sources = copa(tmp_path)
    source = resolve_dataset("super_glue/copa", sources)
    assert source.metrics == ("accuracy",)
    folder, report = materialise(source, sources)
    assert report.problem is Problem.MULTIPLE_CHOICE
    assert [row["text_pair"] for row in stored(folder, "validation")] == [
        "What happened as a RESULT?", "What was the CAUSE of this?",
    ]  # fmt: skip
    assert stored(folder, "validation")[1]["choices"] == ["It broke.", "It was pushed."]


def test_another_question_than_copas_is_refused(tmp_path: Path) -> None:
    sources = copa(tmp_path, question="reason")
    with pytest.raises(DatasetInvalid) as caught:
        materialise(resolve_dataset("super_glue/copa", sources), sources)
    [fault] = caught.value.faults
    assert (fault.row, fault.column) == (4, "question")
    assert "none of 'cause', 'effect'" in fault.detail


def told(choices: Any, answer: Any, key: str = "answerKey", name: str = "choices") -> Rows:
    return [{"question": f"q {n}", name: choices, key: answer} for n in range(20)]


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [
        (["w", "x", "y", "z"], "C", 2),
        (["w", "x", "y", "z"], "b", 1),
        ({"text": ["x", "y"], "label": ["A", "B"]}, "B", 1),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", 1),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "1", 0),
        ({"text": ["x", "y"]}, 1, 1),
        ([{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "B", 1),
        ({"A": "x", "B": "y"}, "B", 1),
        (["nan", "roti"], "nan", 0),
        (["true", "false"], "false", 1),
    ],
)
def test_the_right_choice_is_given_by_letter_or_mark(
    tmp_path: Path, choices: Any, answer: Any, place: int
) -> None:
    report = ingested(tmp_path, told(choices, answer))
    assert report.problem is Problem.MULTIPLE_CHOICE
    assert report.columns.text == "question"
    assert stored(tmp_path / "out")[0]["label"] == place


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [
        (["B", "A", "x"], "A", "the letter of one choice and the text of another"),
        (["w", "x"], "C", "a letter from A to B"),
        (["w", "x"], 2, "where they count from 1, subtract 1"),
        ({"text": ["x", None]}, 1, "choice 1 (counted from 0) is missing"),
        ([{"text": "x"}, {"label": "B"}], 1, "choice 1 (counted from 0) is missing"),
    ],
)
def test_an_answer_is_never_guessed(tmp_path: Path, choices: Any, answer: Any, words: str) -> None:
    with pytest.raises(DatasetInvalid) as caught:
        ingested(tmp_path, told(choices, answer))
    assert words in caught.value.faults[0].detail


@pytest.mark.parametrize(
    ("names", "key"),
    [("ABCD", "answer"), (["opa", "opb", "opc", "opd"], "cop"), (["sol1", "sol2"], "label")],
)
def test_choices_are_found_by_their_usual_names(tmp_path: Path, names: list[str], key: str) -> None:
    table = f"goal,{','.join(names)},{key}\n"
    for n in range(20):
        table += f"q {n},{','.join(f'{name}-{n}' for name in names)},{n % len(names)}\n"
    report = ingested(tmp_path, table)
    assert report.columns == Columns(text="goal", choices=list(names), label=key)


def test_indices_that_seem_to_count_from_one_are_told(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "options": ["a", "b", "c"], "answer": 1 + n % 2}
            for n in range(20)]  # fmt: skip
    [found] = [f for f in ingested(tmp_path, rows).findings if f.code == "first_choice_never_right"]
    assert "subtract 1" in found.detail


def test_choices_without_what_they_are_about_are_told(tmp_path: Path) -> None:
    rows = [{"situation": f"q {n}", "options": ["a", "b"], "answer": n % 2} for n in range(20)]
    found = [f.detail for f in ingested(tmp_path, rows).findings if f.code == "unread_columns"]
    assert "'situation'" in found[0]
