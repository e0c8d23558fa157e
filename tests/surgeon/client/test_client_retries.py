"""What is sent again, when, and under which key; and what an event stream says."""

from __future__ import annotations

import httpx2
import pytest

from surgeon.client import ApiError, Unreachable, retries
from surgeon.client.answers import checked
from surgeon.client.calls import Service, answer_to
from surgeon.client.events import EventStreamParser
from surgeon.client.requests import IDEMPOTENCY_KEY, Request
from surgeon.client.retries import Retries
from surgeon.client.steps import Send, Sleep


def answer(status: int, code: str = "x", **headers: str) -> httpx2.Response:
    problem = {"status": status, "code": code, "detail": "d", "title": "T"}
    return httpx2.Response(status, json=problem if status >= 400 else {}, headers=headers)


def error(status: int, code: str = "x", **headers: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        checked(answer(status, code, **headers))
    return caught.value


def taken(
    request: Request, *outcomes: httpx2.Response | Unreachable
) -> tuple[list[Request], list[float]]:
    """The requests that a call sends when it meets these outcomes, and how long it waits."""
    service = Service("http://x", patience=60)
    flow, sent, waits = answer_to(service, request), [], []
    step = next(flow)
    left = list(outcomes)
    while left:
        if isinstance(step, Sleep):
            waits.append(step.seconds)
            step = flow.send(None)
            continue
        assert isinstance(step, Send)
        sent.append(step.request)
        outcome = left.pop(0)
        try:
            step = flow.throw(outcome) if isinstance(outcome, Unreachable) else flow.send(outcome)
        except StopIteration:
            break
    assert left == []
    return sent, waits


def test_a_post_keeps_its_key_and_waits_as_long_as_it_is_asked_to() -> None:
    outcomes = (
        Unreachable("broke off"), answer(429, **{"Retry-After": "7"}),
        answer(409, "idempotency_key_in_use", **{"Retry-After": "2"}), answer(202),
    )  # fmt: skip
    sent, waits = taken(Request("POST", "/v1/rankings", {"json": {}}), *outcomes)
    keys = [request.options["headers"][IDEMPOTENCY_KEY] for request in sent]
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert 0.25 <= waits[0] <= 0.5
    assert waits[1:] == [7, 2]
    given = Request("POST", "/v1/rankings", {"headers": {IDEMPOTENCY_KEY: "mine"}})
    assert taken(given, answer(202))[0] == [given]


def test_a_deletion_whose_answer_was_lost_is_no_error() -> None:
    request = Request("DELETE", "/v1/jobs/ft_1")
    sent, _ = taken(request, Unreachable("broke off"), answer(404, "not_found"))
    assert sent == [request, request]
    with pytest.raises(ApiError):
        taken(request, answer(404, "not_found"))


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500])
def test_what_would_only_happen_again_is_not_sent_again(status: int) -> None:
    with pytest.raises(ApiError):
        Retries(60).seconds_until_next(error(status))


def test_patience_counts_from_the_first_failure_after_a_success() -> None:
    now = [0.0]
    tries = Retries(60, clock=lambda: now[0])
    waits = []
    for _ in range(8):
        waits.append(tries.seconds_until_next(Unreachable("gone")))
        now[0] += waits[-1]
    longest = [min(retries.MOST_SECONDS, retries.FIRST_SECONDS * 2**n) for n in range(8)]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    now[0] = 61.0
    with pytest.raises(Unreachable):
        tries.seconds_until_next(Unreachable("gone"))
    tries.succeeded()
    assert tries.seconds_until_next(Unreachable("gone")) <= retries.FIRST_SECONDS
    with pytest.raises(ApiError):
        tries.seconds_until_next(error(503, **{"Retry-After": "3600"}))


def test_a_date_to_retry_after_is_read() -> None:
    assert error(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}).retry_after == 0
    assert error(503, **{"Retry-After": "soon"}).retry_after is None


def test_an_event_stream_is_read_in_pieces_of_any_size() -> None:
    stream = (
        ": a comment\n\nretry: 2000\n\nid: 1\r\nevent: status\r\ndata: {\"ü\":\r\ndata: 1}\r\n\r\n"
        "event: progress\rdata:2\r\rid: 3\ndata: 3\n\nid: 4\ndata: unfinished"
    ).encode()  # fmt: skip
    for size in (1, 2, 7, len(stream)):
        parser = EventStreamParser("0")
        pieces = (stream[start : start + size] for start in range(0, len(stream), size))
        messages = [message for piece in pieces for message in parser.feed(piece)]
        assert [(each.event, "".join(each.data), each.id) for each in messages] == [
            ("status", '{"ü":1}', "1"), ("progress", "2", None), ("message", "3", "3"),
        ]  # fmt: skip
        assert parser.last_id == "3"
