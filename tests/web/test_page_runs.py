"""The web page on a real service: runs are listed, followed, cancelled, and outlive the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, wait_until
from tests.support.web.browser import Watched, picture, watched

RANKING: dict[str, Any] = {
    "model": TINY, "dataset": "glue/cola", "samples": 16, "model_prior": False,
}  # fmt: skip
# Long enough that it still runs when it is looked at; each test ends its own.
FINETUNE: dict[str, Any] = {
    "model": TINY, "dataset": "glue/cola", "selection": {"policy": "last_k", "k": 1},
    "training": {"epochs": 200, "batch_size": 8}, "checkpoints": {"keep": "last"},
}  # fmt: skip


@pytest.fixture
def seen(service: Running, chromium: Browser) -> Iterator[Watched]:
    """The page of the service."""
    origin = str(service.client.driver.http.base_url).rstrip("/")
    with watched(chromium, origin, viewport={"width": 1200, "height": 440}) as opened:
        yield opened


def test_a_run_is_followed_to_its_end(
    service: Running, seen: Watched, pictures: Path | None
) -> None:
    page = seen.page
    seen.open()
    expect(page.get_by_role("heading", name="There are no runs yet")).to_be_visible()
    job = service.client.submit("rankings", {**RANKING, "name": "first look"})
    page.get_by_role("link", name="first look").click()  # the list has found it by itself
    expect(page.get_by_role("heading", name="first look")).to_be_visible()
    expect(page.locator(".head .status")).to_have_text("succeeded")
    # All of what came while the page was open, without a reload.
    expect(page.get_by_role("list", name="Events")).to_contain_text("succeeded")
    log = page.get_by_role("log")
    expect(log).to_contain_text("the job succeeded")
    expect(page.get_by_role("region", name="Attempts")).to_contain_text("succeeded")
    assert page.get_by_role("heading", name="What to do next").is_visible()
    page.get_by_text("Result", exact=True).click()
    expect(page.get_by_role("region", name="the result")).to_contain_text('"recommended_k"')
    page.get_by_text("The same as curl").click()
    submit = page.get_by_role("region", name="The same as curl: submit it")
    expect(submit).to_contain_text(f"{seen.origin}/v1/rankings' -X POST")
    seen.accessible()
    page.get_by_text("Result", exact=True).click()
    page.get_by_text("The same as curl").click()
    picture(page, pictures, "run")
    page.reload()
    expect(page.get_by_role("heading", name="first look")).to_be_visible()
    expect(log).to_contain_text("the job succeeded")
    assert job["id"] in page.url


@pytest.mark.slow
def test_a_run_is_paused_resumed_cancelled_retried_and_deleted(
    service: Running, seen: Watched, pictures: Path | None
) -> None:
    job = service.client.submit("finetunes", {**FINETUNE, "name": "long"})
    page, status = seen.page, seen.page.locator(".head .status")
    seen.open(f"runs/{job['id']}")
    expect(page.locator(".head")).to_contain_text(re.compile(r"\d+\s*% · train .* left"))
    seen.accessible()
    seen.open()
    expect(page.get_by_role("row", name=re.compile("long finetune|long ft_"))).to_contain_text("%")
    seen.accessible()
    picture(page, pictures, "runs")
    page.go_back()
    page.reload()  # and it follows the run again
    expect(page.locator(".head")).to_contain_text(re.compile(r"\d+\s*% · train .* left"))
    expect(page.get_by_role("list", name="Events")).to_contain_text("status queued")
    page.get_by_role("button", name="Pause").click()
    expect(status).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(status).to_have_text(re.compile("queued|running"))
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="No, leave it").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel").click()
    expect(status).to_have_text("cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Retry of")).to_be_visible()
    assert job["id"] not in page.url
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel").click()
    expect(status).to_have_text("cancelled")
    retried = page.url.rpartition("/")[2]
    page.locator(".head").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert retried not in {each["id"] for each in service.client.call("GET", "/v1/jobs")["data"]}


@pytest.mark.slow
def test_the_page_outlives_a_killed_service(service: Running, seen: Watched) -> None:
    job = service.client.submit("finetunes", {**FINETUNE, "name": "survivor"})
    page, lost = seen.page, seen.page.get_by_text("The service does not answer")
    seen.open(f"runs/{job['id']}")
    expect(page.locator(".head .status")).to_have_text("running")
    service.kill()
    expect(lost).to_be_visible()
    service.start("serve", "--port", str(urlsplit(seen.origin).port))
    service.wait_ready()
    expect(lost).to_be_hidden()
    expect(page.get_by_role("list", name="History")).to_contain_text("worker_lost")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes, cancel").click()
    expect(page.locator(".head .status")).to_have_text("cancelled")
    events = page.get_by_role("list", name="Events").get_by_role("listitem").all_inner_texts()
    assert len(events) == len(set(events))
    assert len(events) == len(service.client.call("GET", f"/v1/jobs/{job['id']}/events")["data"])
    wait_until(lambda: service.client.job(job["id"])["terminal"], 60, service.logs)
