"""Bodies: compressed, malformed, too large, of another kind, or with what no database can store."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import ROWS, Json, problem, says

JSON = {"content-type": "application/json"}
UPLOAD_MAX = 2_000_000
COLLECTIONS = ("rankings", "finetunes", "searches", "predictions", "comparisons", "estimates")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    data = tmp_path_factory.mktemp("data")
    settings = Settings(data_dir=data, offline=True, upload_max_bytes=UPLOAD_MAX)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def posted(api: TestClient, body: Any, **headers: str) -> Any:
    return api.post("/v1/rankings", content=body, headers={**JSON, **headers})


def read_as(api: TestClient, body: Any, **headers: str) -> None:
    """The body was read: what is wrong is the model that it names."""
    answer = problem(posted(api, body, **headers), 422, "model_not_found")
    says(answer, "/model", "none/such")


NAMED = json.dumps({"model": "none/such", "dataset": "glue/rte"}).encode()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "zstd", "identity"])
def test_a_compressed_body_is_read(api: TestClient, coding: str) -> None:
    packed = {"zstd": zstd.compress, "identity": bytes}.get(coding, gzip.compress)(NAMED)
    read_as(api, packed, **{"content-encoding": coding})
    read_as(api, iter([packed[:7], b"", packed[7:]]), **{"content-encoding": coding})


def test_members_and_frames_follow_each_other(api: TestClient) -> None:
    for compress, coding in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        packed = compress(NAMED[:9]) + compress(b"") + compress(NAMED[9:])
        read_as(api, packed, **{"content-encoding": coding})
        read_as(api, iter([bytes([each]) for each in packed]), **{"content-encoding": coding})


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "nonsense"])
def test_another_coding_is_415_and_told_which_are_read(api: TestClient, coding: str) -> None:
    answer = posted(api, NAMED, **{"content-encoding": coding})
    problem(answer, 415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, zstd"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_damaged_data_are_400(api: TestClient, coding: str) -> None:
    packed = {"gzip": gzip.compress, "zstd": zstd.compress}[coding](NAMED)
    for damaged in (NAMED, packed[:-3], packed[:4], packed + b"more", bytes(9) + packed[9:]):
        told = problem(
            posted(api, damaged, **{"content-encoding": coding}), 400, "bad_content_encoding"
        )
        assert coding in told["detail"]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_unpacked_no_further_than_the_limit(
    api: TestClient, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MB of spaces in a few KB: what is unpacked at a time and together is counted."""
    from app.api.http.bodies import encodings

    sizes: list[int] = []
    for part in set(encodings.CODINGS.values()):
        plain = part.unpack

        def unpack(self: Any, data: bytes, plain: Any = plain) -> bytes:
            piece: bytes = plain(self, data)
            sizes.append(len(piece))
            return piece

        monkeypatch.setattr(part, "unpack", unpack)
    bomb = {"gzip": gzip.compress, "zstd": zstd.compress}[coding](b" " * 100_000_000)
    told = problem(posted(api, bomb, **{"content-encoding": coding}), 413, "too_large")
    assert "1,000,000 bytes" in told["detail"]
    assert max(sizes) <= encodings.PIECE_BYTES
    assert sum(sizes) <= 1_000_000 + encodings.PIECE_BYTES
    sizes.clear()
    head = (
        b'--b\r\ncontent-disposition: form-data; name="train"; filename="t.csv"\r\n\r\ntext,label\n'
    )
    form = zlib.compressobj(wbits=31)
    body = form.compress(head + b"a" * 50_000_000) + form.flush()
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    problem(api.post("/v1/datasets", content=body, headers=headers), 413, "too_large")
    assert sum(sizes) <= UPLOAD_MAX + encodings.PIECE_BYTES


def test_an_upload_may_be_compressed(api: TestClient) -> None:
    body = (
        '--b\r\nContent-Disposition: form-data; name="train"; filename="t.csv"\r\n\r\n'
        f"{ROWS}\r\n--b--\r\n"
    ).encode()
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    answer = api.post("/v1/datasets", content=gzip.compress(body), headers=headers)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_413_however_it_is_sent(api: TestClient, chunked: bool) -> None:
    body = b'{"name": "' + b"x" * 1_000_000 + b'"}'
    answer = posted(api, iter([body[:5], body[5:]]) if chunked else body)
    problem(answer, 413, "too_large")
    assert answer.headers["connection"] == "close"
    form = {"train": ("t.csv", b"a" * UPLOAD_MAX)}
    problem(api.post("/v1/datasets", files=form), 413, "too_large")


MALFORMED: dict[str, tuple[bytes, str]] = {
    "cut off": (b'{"model": "m",\n "dataset"', "line 2, column 11"),
    "a comma too many": (b'{"model": "m",}', "line 1, column 1"),
    "empty": (b"", "empty"),
    "blank": (b" \n", "empty"),
    "not UTF-8": (b'{"model": "\xff"}', "byte 11"),
    "UTF-16": ('{"model": "m"}'.encode("utf-16"), "byte 0"),
    "NaN": (b'{"seed": NaN}', "NaN is not JSON"),
    "minus infinity": (b'{"seed": -Infinity}', "-Infinity is not JSON"),
    "deep": (b"[" * 500_000, "nested deeper"),
    "a long integer": (b'{"seed": ' + b"9" * 5000 + b"}", "5,000 digits"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_what_is_no_json_is_400_and_says_why(api: TestClient, collection: str, case: str) -> None:
    body, words = MALFORMED[case]
    answer = api.post(f"/v1/{collection}", content=body, headers=JSON)
    assert words in problem(answer, 400, "not_json")["detail"]


NESTED: Any = "x"
for _ in range(100):
    NESTED = {"a": NESTED}
UNSTORABLE: dict[str, tuple[Json | str, str, str]] = {
    "NUL": ({"name": "a\0"}, "/name", "NUL"),
    "NUL in a name": ({"metadata": {"a\0": "b"}}, "/metadata/a\\x00", "NUL"),
    "half a character": ('{"name": "\\ud83d"}', "/name", "lone surrogate"),
    "half in a name": ('{"metadata": {"a\\ude00/b": "c"}}', "/metadata/a\\ude00~1b", "surrogate"),
    "half in a list": ('{"selection": {"layers": ["\\udfff"]}}', "/selection/layers/0", "surrogate"),
    "an integer beyond 64 bits": ({"seed": 1 << 63}, "/seed", "64 bits"),
    "one below them": ({"head": {"warmup_epochs": -(1 << 63) - 1}}, "/head/warmup_epochs", "64 bits"),
    "a number beyond floats": ('{"share": 1e999}', "/share", "larger than any"),
    "a name twice": ('{"seed": 1, "seed": 2}', "/seed", "given twice"),
    "a name twice within": ('{"head": {"init": "new", "init": "auto"}}', "/head/init", "given twice"),
    "deep objects": ({"metadata": NESTED}, "/metadata" + "/a" * 63, "nested deeper"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSTORABLE)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_what_cannot_be_stored_is_422_where_it_is(
    api: TestClient, collection: str, case: str
) -> None:
    body, pointer, words = UNSTORABLE[case]
    text = body if isinstance(body, str) else json.dumps(body)
    answer = api.post(f"/v1/{collection}", content=text, headers=JSON)
    says(problem(answer, 422, "invalid"), pointer, words)


def test_a_deep_and_wide_body_costs_no_long_pointers(api: TestClient) -> None:
    """200,000 faults below 60 names of 100 characters: pointers are made for a hundred of them."""
    body = "".join('{"%s": ' % ("n" * 100) for _ in range(60))
    body += "[" + ",".join(["1e999"] * 140_000) + "]" + "}" * 60
    answer = problem(posted(api, body), 422, "invalid")
    assert len(answer["errors"]) == 100


def test_characters_of_every_plane_and_a_mark_of_byte_order_are_fine(api: TestClient) -> None:
    body = json.dumps({"model": "none/such", "dataset": "glue/rte", "name": "é😀\\u0000"})
    read_as(api, body)
    read_as(api, body.encode("utf-8-sig"))


@pytest.mark.parametrize("body", [b"null", b"1", b"[]", b'"text"'])
def test_a_body_that_is_no_object_is_told_so(api: TestClient, body: bytes) -> None:
    says(problem(posted(api, body), 422, "invalid"), "/", "JSON object")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 422), ("application/json; charset=utf-8", 422),
        ('Application/JSON;Charset="UTF-8"', 422), ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-16", 415), ("text/plain", 415), ("text/json", 415),
        ("application/x-www-form-urlencoded", 415), ("", 415), ("nonsense", 415),
    ],
)  # fmt: skip
def test_the_type_of_a_body(api: TestClient, kind: str, status: int) -> None:
    answer = api.post("/v1/rankings", content=NAMED, headers={"content-type": kind})
    problem(answer, status, {415: "unsupported_media_type", 422: "model_not_found"}[status])


def test_a_form_that_is_cut_off_or_malformed_is_400(api: TestClient) -> None:
    form = f'--b\r\nContent-Disposition: form-data; name="train"; filename="t.csv"\r\n\r\n{ROWS}'
    kind = "multipart/form-data; boundary=b"
    cases = [
        (form, kind, "cut off"),
        (form + "\r\n--b\r\n", kind, "cut off"),
        (f"{form}\r\n--b--\r\n", "multipart/form-data", "boundary"),
        (f"nonsense {form}\r\n--b--\r\n", kind, "malformed"),
        (f"--b\r\nContent-Disposition: form-data\r\n\r\n{ROWS}\r\n--b--\r\n", kind, "name"),
    ]
    for body, given, words in cases:
        answer = api.post("/v1/datasets", content=body, headers={"content-type": given})
        assert words in problem(answer, 400, "bad_request")["detail"]
    answer = api.post(
        "/v1/datasets",
        content=f"{form}\r\n--b--\r\n",
        headers={"content-type": f"{kind}; charset=punycode"},
    )
    problem(answer, 415, "unsupported_media_type")


def test_names_of_files_and_parts_are_checked_too(api: TestClient) -> None:
    def form(name: str, filename: str) -> Any:
        body = (
            f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
            f"{ROWS}\r\n--b--\r\n"
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return api.post("/v1/datasets", content=body.encode(), headers=headers)

    says(problem(form("train", "a\0.csv"), 422, "invalid"), "/train", "NUL")
    says(problem(form("train", f"{'x' * 300}.csv"), 422, "invalid"), "/train", "255 bytes")
    assert "train" in problem(form("t" * 500, "t.csv"), 422, "invalid")["detail"]
    spec = {"labels": ["a\0", "b"]}
    answer = api.post(
        "/v1/datasets", files={"train": ("t.csv", ROWS)}, data={"spec": json.dumps(spec)}
    )
    says(problem(answer, 422, "invalid"), "/spec/labels/0", "NUL")
    answer = api.post("/v1/datasets", files={"train": ("t.csv", ROWS)}, data={"spec": '{"a":\n'})
    says(problem(answer, 422, "invalid"), "/spec", "line 2")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/jobs"), ("POST", "/v1/jobs/x/cancel"), ("DELETE", "/v1/datasets/x")],
)
def test_a_body_that_would_be_ignored_is_refused(api: TestClient, method: str, path: str) -> None:
    bare = api.request(method, path).status_code
    assert api.request(method, path, content=b"{}", headers=JSON).status_code == bare
    answer = api.request(method, path, json={"dry_run": True})
    says(problem(answer, 422, "invalid"), "/", "no body")


def test_suggestions_for_the_parts_of_a_form_are_as_many_as_are_shown(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.api.http.bodies import dataset_forms

    asked: list[str] = []
    plain = dataset_forms.nearest
    monkeypatch.setattr(
        dataset_forms, "nearest", lambda word, known: asked.append(word) or plain(word, known)
    )
    files = [(f"trains{n}", ("t.csv", b"")) for n in range(900)]
    answer = problem(api.post("/v1/datasets", files=files), 422, "invalid")
    assert len(answer["errors"]) == len(asked) == 100


def test_a_long_word_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import difflib

    from surgery.errors import nearest

    assert nearest("sampels", ["samples"]) == "samples"
    monkeypatch.setattr(difflib, "get_close_matches", None)
    assert nearest("s" * 10_000, ["samples"]) is None


def test_targets_and_headers_are_bounded(api: TestClient) -> None:
    problem(api.get(f"/v1/jobs?model={'x' * 20_000}"), 414, "uri_too_long")
    problem(api.get(f"/v1/jobs/{'x' * 20_000}"), 414, "uri_too_long")
    many = {f"x-{n}": "a" for n in range(200)}
    problem(api.get("/v1/jobs", headers=many), 431, "headers_too_large")
    problem(api.get("/v1/jobs", headers={"x-a": "a" * 40_000}), 431, "headers_too_large")
    for query in ("name=%ff", "%ff=a", "metadata[a]=%ED%A0%80"):
        problem(api.get(f"/v1/jobs?{query}"), 400, "bad_query")


def test_numbers_of_a_query_fit_64_bits(api: TestClient) -> None:
    for number in ("9223372036854775808", "-9223372036854775809", "9" * 5000):
        answer = problem(api.get(f"/v1/rankings/x/selection?seed={number}"), 422, "invalid")
        says(answer, "/seed", "64 bits")
    assert api.get(f"/v1/rankings/x/selection?seed={(1 << 63) - 1}").status_code == 404


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/x", "/v1/jobs?x=1", "/healthz", "/nothing"])
def test_every_answer_has_the_headers_that_protect_browsers(api: TestClient, path: str) -> None:
    answer = api.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    if answer.status_code >= 400:
        assert answer.headers["cache-control"] == "no-store"


def test_an_unexpected_error_is_a_problem_with_its_request_id(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, offline=True))

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret detail")

    with TestClient(app, base_url="http://127.0.0.1") as api:
        told = problem(api.get("/broken"), 500, "internal")
    assert "secret" not in json.dumps(told)


def test_a_pointer_names_the_field_as_it_was_written(api: TestClient) -> None:
    for name, pointer in (
        ("Samples", "/Samples"),
        ("a/b~c", "/a~1b~0c"),
        ("int", "/int"),
        ("a[0]", "/a[0]"),
    ):
        answer = problem(
            posted(api, json.dumps({"model": "m", "dataset": "d", name: 1})), 422, "invalid"
        )
        says(answer, pointer, "unknown field")
    answer = posted(api, json.dumps({"model": "m", "dataset": "d", "metadata": {"Team": 1}}))
    says(problem(answer, 422, "invalid"), "/metadata/Team", "string")


def test_a_path_that_is_none_is_said_to_be_none(api: TestClient) -> None:
    """A slash too many too: a redirect would lead to whatever host the request names."""
    for path in ("/nothing", "/v1/nothing", "/v1/jobs/", "/v1/tasks/", "/docs/"):
        answer = api.get(path, headers={"host": "localhost"}, follow_redirects=False)
        assert problem(answer, 404, "not_found")["detail"]
        assert "location" not in answer.headers
    assert "/openapi.json" in problem(api.get("/nothing"), 404, "not_found")["detail"]
