"""Keys, projects and webhooks on the web page, and what a key of too small a scope is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import select

from app.db.tables import WebhookDelivery
from tests.support.service.live_api import LiveApi
from tests.support.web.browser import Watched, picture, watched


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def shown_secret(visit: Watched) -> str:
    """The secret that is shown once, which is then put away."""
    box = visit.page.get_by_role("status").filter(has_text="shown this once")
    secret = box.locator("pre").inner_text()
    visit.page.get_by_role("button", name="I have it").click()
    expect(box).to_be_hidden()
    return secret


def test_a_key_is_made_shown_once_and_revoked(
    api: LiveApi, visit: Watched, keys: dict[str, str], pictures: Path | None
) -> None:
    page = visit.page
    visit.open("keys")
    visit.enter(keys["own"])
    table = page.get_by_role("region", name="Keys")
    expect(table).to_contain_text("own")
    page.get_by_label("Name").fill("ci")
    page.get_by_label("Expires in days").fill("soon")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_label("Expires in days")).to_have_attribute("aria-invalid", "true")
    visit.accessible()
    page.get_by_label("Expires in days").fill("30")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("heading", name="Copy the key ci now")).to_be_visible()
    visit.accessible()
    made = shown_secret(visit)
    assert made not in page.content()
    row = table.locator("tr", has_text="ci")
    expect(row).to_contain_text("active")
    picture(page, pictures, "keys")
    assert api.http.get("/v1/jobs", headers=bearer(made)).status_code == 200
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Yes, revoke").click()
    expect(row).to_contain_text("revoked")
    assert api.http.get("/v1/jobs", headers=bearer(made)).status_code == 401


def test_the_first_key_of_a_service_is_not_lost(api: LiveApi, visit: Watched) -> None:
    page = visit.page
    visit.open("keys")
    expect(page.get_by_text("There is no key: whoever reaches")).to_be_visible()
    page.get_by_label("Scope").select_option("admin")
    page.get_by_role("button", name="Make the key").click()
    made = shown_secret(visit)  # though the service refuses whoever has no key from now on
    expect(page.get_by_role("region", name="Keys")).to_contain_text("admin")
    assert api.http.get("/v1/keys").status_code == 401
    assert api.http.get("/v1/keys", headers=bearer(made)).status_code == 200


def test_another_project_has_its_own_and_its_reader_may_not_write(
    api: LiveApi, visit: Watched, keys: dict[str, str]
) -> None:
    page = visit.page
    upload = api.http.post(
        "/v1/datasets",
        files={"train": ("mine.csv", "text,label\n" + "a b c,0\nd e f,1\n" * 20)},
        headers=bearer(keys["own"]),
    )
    dataset: dict[str, Any] = upload.raise_for_status().json()
    visit.open("datasets")
    visit.enter(keys["other"])
    expect(page.get_by_text("No dataset is stored yet.")).to_be_visible()
    assert dataset["id"] not in page.content()
    visit.open(f"datasets/{dataset['id']}")
    expect(page.get_by_role("alert")).to_contain_text("Not found")
    visit.accessible()
    for place in ("keys", "projects", "webhooks"):
        visit.open(place)
        expect(page.get_by_role("alert")).to_contain_text("Forbidden")
        expect(page.get_by_role("alert")).to_contain_text("admin")
        expect(page.get_by_role("button", name="Make")).to_have_count(0)
    visit.open("queue")
    expect(page.get_by_text("No worker has ever started")).to_be_visible()


@pytest.mark.slow
def test_a_project_is_made_and_its_limits_changed(
    api: LiveApi, visit: Watched, keys: dict[str, str]
) -> None:
    page = visit.page
    visit.open("projects")
    visit.enter(keys["own"])
    row = page.get_by_role("region", name="Projects").locator("tr", has_text="search team")
    page.get_by_label("Name").fill("search team")
    page.get_by_label("Queued jobs").fill("-1")
    page.get_by_role("button", name="Make the project").click()
    expect(page.get_by_label("Queued jobs")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Queued jobs").fill("20")
    page.get_by_role("button", name="Make the project").click()
    expect(row).to_contain_text("queued jobs 20")
    visit.accessible()
    page.get_by_role("button", name="Change search team").click()
    page.get_by_label("Queued jobs").fill("")
    page.get_by_role("button", name="Change the project").click()
    expect(row).to_contain_text("those of the service")


@pytest.mark.slow
def test_a_webhook_is_made_tested_replayed_rotated_and_deleted(
    api: LiveApi, visit: Watched
) -> None:
    page = visit.page
    visit.open("webhooks")
    page.get_by_label("Address").fill("no address")
    page.get_by_role("button", name="Make the webhook").click()
    expect(page.get_by_label("Address")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Address").fill("https://example.com/hook")
    page.get_by_role("button", name="Make the webhook").click()
    first = shown_secret(visit)
    visit.accessible()
    page.get_by_role("link", name="https://example.com/hook").click()
    page.get_by_role("button", name="Send a test").click()
    deliveries = page.get_by_role("region", name="Deliveries").locator("tbody tr")
    expect(deliveries).to_have_count(1)
    expect(deliveries).to_contain_text("pending")
    with api.database.write() as session:  # as a worker would, which this service does not have
        sent = session.scalars(select(WebhookDelivery)).one()
        sent.status, sent.next_at, sent.ended_at = "delivered", None, sent.created_at
    expect(deliveries).to_contain_text("delivered")
    page.get_by_role("button", name="Replay").click()
    expect(deliveries).to_contain_text("pending")
    page.get_by_role("button", name="Rotate").click()
    page.get_by_role("button", name="Yes, rotate").click()
    assert shown_secret(visit) != first
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_text("Disabled:")).to_be_visible()
    visit.accessible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_text("There is no webhook")).to_be_visible()


@pytest.mark.slow
def test_each_page_fits_a_phone(api: LiveApi, chromium: Browser) -> None:
    origin = str(api.http.base_url).rstrip("/")
    size = {"width": 375, "height": 600}
    with watched(chromium, origin, viewport=size, color_scheme="dark") as phone:
        for place in ("new", "datasets", "queue", "usage", "keys", "projects", "webhooks"):
            phone.open(place)
            expect(phone.page.locator(f'nav a[href="#/{place}"][aria-current]')).to_be_visible()
            expect(phone.page.get_by_role("heading", level=2).first).to_be_visible()
            assert phone.page.evaluate("document.documentElement.scrollWidth") <= 375, place
            phone.accessible()
