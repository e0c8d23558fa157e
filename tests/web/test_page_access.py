"""The web page on an API without workers: filters, keys, projects, narrow and dark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from app.db.tables import JobKind, Status
from tests.support.service.live_api import LiveApi
from tests.support.web.browser import Watched, picture, watched

NOT_A_KEY = "sk_" + hashlib.sha256(b"nobody's").hexdigest()


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


def test_a_key_is_asked_for_and_stays_in_the_tab(
    api: LiveApi, visit: Watched, keys: dict[str, str]
) -> None:
    job, page = api.queue(name="mine"), visit.page
    visit.open()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    visit.accessible()
    visit.enter(NOT_A_KEY)
    expect(page.get_by_role("alert")).to_contain_text("Unauthorized")
    visit.accessible()
    visit.enter(keys["own"])
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    stored = page.evaluate("[localStorage.length, document.cookie, location.href]")
    assert stored[:2] == [0, ""]
    assert keys["own"] not in stored[2]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    visit.enter(keys["other"])
    expect(page.get_by_role("heading", name="There are no runs yet")).to_be_visible()
    visit.open(f"runs/{job}")
    expect(page.get_by_role("alert").first).to_contain_text("Not found")
    assert page.get_by_text("mine").count() == 0


def test_who_may_only_read_is_told_so_in_the_services_words(
    api: LiveApi, visit: Watched, keys: dict[str, str]
) -> None:
    own = {"Authorization": f"Bearer {keys['own']}"}
    made = api.http.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}, headers=own)
    reader = made.raise_for_status().json()["key"]
    job, page = api.queue(name="not mine to end"), visit.page
    refused = api.http.post(f"/v1/jobs/{job}/cancel", headers={"Authorization": f"Bearer {reader}"})
    assert refused.status_code == 403
    visit.open(f"runs/{job}")
    visit.enter(reader)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel").click()
    expect(page.get_by_role("alert")).to_contain_text(refused.json()["detail"])
    expect(page.locator(".head .status")).to_have_text("queued")
    visit.accessible()


def test_a_page_that_is_opened_without_a_connection_comes_with_it(
    api: LiveApi, visit: Watched
) -> None:
    page, lost = visit.page, visit.page.get_by_text("The service does not answer")
    visit.open()
    expect(page.get_by_role("heading", name="There are no runs yet")).to_be_visible()
    page.context.set_offline(True)  # before the page's own file was loaded
    page.get_by_role("link", name="New run").click()
    expect(lost).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("button", name="Check")).to_be_visible()
    expect(lost).to_be_hidden()
    asked = "**/v1/datasets?*"
    page.route(asked, lambda route: route.fulfill(status=502, body="<h1>Bad gateway"))
    page.get_by_label("One that is stored").check()  # what a proxy answers alone
    expect(lost).to_be_visible()
    page.unroute(asked)
    expect(lost).to_be_hidden()
    expect(page.get_by_label("Stored dataset")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_page_whose_files_have_changed_is_loaded_anew(visit: Watched) -> None:
    page = visit.page
    visit.open()
    expect(page.get_by_role("heading", name="There are no runs yet")).to_be_visible()
    loads: list[str] = []
    page.on("request", lambda sent: loads.append(sent.url) if sent.is_navigation_request() else 0)

    def gone(route: Route) -> None:
        """As after an upgrade, until the document that names the new files is loaded."""
        if loads:
            route.continue_()
        else:
            route.fulfill(status=404)

    page.route("**/assets/UsagePage*", gone)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage and limits")).to_be_visible()
    assert loads == [f"{visit.origin}/"]  # once, and it is at the same place again


def test_a_service_that_is_busy_is_no_lost_connection(visit: Watched) -> None:
    page = visit.page
    problem = {"title": "Busy", "detail": "all places are taken", "status": 503, "code": "busy"}
    answer = {"content_type": "application/problem+json", "body": json.dumps(problem)}
    page.route("**/v1/tasks", lambda route: route.fulfill(status=503, **answer))
    visit.open("new")
    expect(page.get_by_role("alert")).to_contain_text(str(problem["detail"]))
    expect(page.get_by_text("The service does not answer")).to_be_hidden()


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
    picture(page, pictures, "phone")


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
