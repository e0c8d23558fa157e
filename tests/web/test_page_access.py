"""The web page on an API without workers: long lists, filters, keys, projects, narrow and dark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from app.jobs.state_machine import enqueue
from app.tables import Job, JobKind, Status, new_id
from tests.support.browser import Watched, picture, watched
from tests.support.service.live_api import LiveApi
from tests.support.service.queued_jobs import RESOLVED

MANY = 1500
NOT_A_KEY = "sk_" + hashlib.sha256(b"nobody's").hexdigest()


def fill(api: LiveApi, count: int) -> None:
    """Queued jobs, written at once."""
    with api.database.write() as session:
        for number in range(count):
            job = Job(
                id=new_id("ft"), kind=JobKind.FINETUNE, spec={"model": "tiny/bert"}, labels={},
                model="m", dataset="d", digest="x", max_attempts=3, resolved=RESOLVED,
                name=f"run {number}",
            )  # fmt: skip
            enqueue(session, job)


def lists(visit: Watched) -> list[str]:
    return [url for url in visit.requests if "/v1/jobs?" in url]


def test_a_long_list_is_read_page_by_page(api: LiveApi, visit: Watched) -> None:
    fill(api, MANY)
    page = visit.page
    visit.open()
    row = page.get_by_role("row")
    expect(row.nth(1)).to_contain_text("run ")
    first = len(lists(visit))
    last = page.get_by_role("link", name="run 0", exact=True)
    while not last.is_visible():
        page.keyboard.press("End")
        page.evaluate("() => new Promise(requestAnimationFrame)")
    assert row.count() < 100  # of all the rows, those on the screen
    cursors = {url.partition("cursor=")[2] for url in lists(visit)}
    assert len(cursors) == MANY // 100
    assert first <= 3
    visit.accessible()


def test_filters_stand_in_the_address(api: LiveApi, visit: Watched) -> None:
    api.queue(name="other")
    ranked = api.queue(JobKind.RANKING, name="ranked")
    page = visit.page
    visit.open()
    expect(page.get_by_role("link", name="other")).to_be_visible()
    page.get_by_role("button", name="ranking").click()
    expect(page.get_by_role("link", name="other")).to_be_hidden()
    expect(page.get_by_role("link", name="ranked")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="ranking")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="failed").click()
    expect(page.get_by_role("heading", name="No run passes these filters")).to_be_visible()
    visit.accessible()
    page.get_by_role("link", name="Clear the filters").click()
    expect(page.get_by_role("link", name="other")).to_be_visible()
    label = page.get_by_label("Label")
    label.fill("no label")
    expect(page.get_by_text("A label is written key=value.")).to_be_visible()
    label.fill("team=search")
    label.press("Enter")
    expect(page.get_by_role("heading", name="No run passes these filters")).to_be_visible()
    visit.open(f"runs/{ranked}")
    expect(page.get_by_role("heading", name="ranked")).to_be_visible()


@pytest.fixture
def keys(api: LiveApi) -> dict[str, str]:
    """A key of the first project, and one of another; from then on nothing goes without."""

    def post(path: str, body: dict[str, Any], key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = api.http.post(path, json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    own = post("/v1/keys", {"name": "own", "scopes": ["admin"]})["key"]
    other = post("/v1/projects", {"name": "other"}, own)["id"]
    body = {"name": "reader", "scopes": ["read"], "project": other}
    return {"own": own, "other": post("/v1/keys", body, own)["key"]}


def enter(visit: Watched, key: str) -> None:
    visit.page.get_by_label("Key").fill(key)
    visit.page.get_by_role("button", name="Continue").click()


def test_a_key_is_asked_for_and_stays_in_the_tab(
    api: LiveApi, visit: Watched, keys: dict[str, str]
) -> None:
    job, page = api.queue(name="mine"), visit.page
    visit.open()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    visit.accessible()
    enter(visit, NOT_A_KEY)
    expect(page.get_by_role("alert")).to_contain_text("Unauthorized")
    visit.accessible()
    enter(visit, keys["own"])
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    stored = page.evaluate("[localStorage.length, document.cookie, location.href]")
    assert stored[:2] == [0, ""]
    assert keys["own"] not in stored[2]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    enter(visit, keys["other"])
    expect(page.get_by_role("heading", name="There are no runs yet")).to_be_visible()
    visit.open(f"runs/{job}")
    expect(page.get_by_role("alert").first).to_contain_text("Not found")
    assert page.get_by_text("mine").count() == 0


@pytest.fixture
def phone(api: LiveApi, chromium: Browser) -> Iterator[Watched]:
    """The page on a dark phone."""
    origin = str(api.http.base_url).rstrip("/")
    size = {"width": 375, "height": 600}
    with watched(chromium, origin, viewport=size, color_scheme="dark") as opened:
        yield opened


def test_it_fits_a_phone_in_the_dark(api: LiveApi, phone: Watched, pictures: Path | None) -> None:
    job = api.queue(name="a run with quite a long name, as people give them")
    page = phone.page
    for place, heading in ((f"runs/{job}", "a run with"), ("runs", "Runs")):
        phone.open(place)
        expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()
        expect(page.locator(".status").first).to_have_text(Status.QUEUED.value)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        phone.accessible()
    picture(page, pictures, "page-phone")


def test_the_keyboard_reaches_a_run(api: LiveApi, visit: Watched) -> None:
    api.queue(name="by keyboard")
    page = visit.page
    visit.open()
    link = page.get_by_role("link", name="by keyboard")
    expect(link).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "by keyboard":
            break
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="by keyboard")).to_be_visible()
    expect(page.locator("main")).to_be_focused()
