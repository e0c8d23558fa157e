"""The first upload: files as people have them, and what the answer proposes."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.support.service.problems import Json, problem, upload

HEADER = "ticket,opened,subject,body,team\n"
TICKETS = HEADER + "".join(
    f"{n},2026-01-{n % 28 + 1:02},Order {n} is late,please tell me where my order {n} is,"
    f"{'billing' if n % 3 else 'shipping'}\n"
    for n in range(40)
)


def refused(api: TestClient, text: str, name: str = "tickets.csv") -> tuple[Json, Json]:
    """The problem of an upload, and its only fault."""
    body = problem(upload(api, text, name), 422, "dataset_invalid")
    [fault] = body["errors"]
    return body, fault


def test_the_columns_are_proposed_as_the_request_names_them(api: TestClient) -> None:
    body, fault = refused(api, TICKETS)
    assert fault["pointer"] == "/spec/columns"
    assert fault["suggestion"] == {"text": "body", "label": "team"}
    words = "'body' (40 different of 40) looks like the text and 'team' (2 different of 40) like"
    assert words in body["detail"]
    stored = upload(api, TICKETS, "tickets.csv", {"columns": fault["suggestion"]})
    assert (stored.status_code, stored.json()["labels"]) == (201, ["billing", "shipping"])
    listed = api.get("/v1/datasets", params={"name": "tickets.csv"}).json()["data"]
    assert [each["id"] for each in listed] == [stored.json()["id"]]


def test_texts_in_the_place_of_labels_are_told(api: TestClient) -> None:
    rows = [line.split(",") for line in TICKETS.splitlines()[1:]]
    swapped = "text,label\n" + "".join(f"{row[4]},{row[3]}\n" for row in rows)
    _, fault = refused(api, swapped)
    assert fault["detail"].startswith("40 different labels in 40 rows: is this the column of the")
    assert fault["suggestion"] == {"text": "label", "label": "text"}
    # One text that recurs does not hide it, nor do a few rows end in "too few rows".
    _, fault = refused(api, swapped + "billing,please tell me where my order 0 is\n")
    assert fault["detail"].startswith("40 different labels in 41 rows")
    _, fault = refused(api, "text,label\n" + "".join(f"a text {n},l{n}\n" for n in range(6)))
    assert fault["pointer"] == "/spec/columns/label"
    assert fault["detail"].startswith("6 different labels in 6 rows")


def test_the_same_fault_in_many_rows_is_one_fault(api: TestClient) -> None:
    text = "text,label\n" + "".join(
        f"a text {n},{'' if n % 2 else 'ab'[n % 4 > 1]}\n" for n in range(60)
    )
    body, fault = refused(api, text, "t.csv")
    assert body["detail"].startswith("30 problems found; nothing was kept. First: t.csv, row 2:")
    assert (fault["count"], fault["row"], fault["rows"]) == (30, 2, [*range(2, 21, 2)])
    assert (fault["file"], fault["column"]) == ("t.csv", "label")
