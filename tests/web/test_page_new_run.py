"""The form for a new run, on a real service: uploads, checks, faults at their fields, and runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.services import Running
from tests.support.web.browser import Watched, picture, watched

ROWS = "".join(f"a review with number {number} in it,{number % 2}\n" for number in range(40))
RANKING = {"model": TINY, "dataset": "glue/cola", "samples": 16, "model_prior": False}
GOOD = "text,label\n" + ROWS
# The second row has no text, the third no label.
BAD = "text,label\nthe first,0\n,1\nthe third,\n" + ROWS


@pytest.fixture
def seen(service: Running, chromium: Browser) -> Iterator[Watched]:
    """The page of the service."""
    origin = str(service.client.driver.http.base_url).rstrip("/")
    with watched(chromium, origin, viewport={"width": 1200, "height": 700}) as opened:
        yield opened


@pytest.fixture
def small(service: Running, chromium: Browser) -> Iterator[Watched]:
    """The same on a phone, in the dark."""
    origin = str(service.client.driver.http.base_url).rstrip("/")
    size = {"width": 375, "height": 700}
    with watched(chromium, origin, viewport=size, color_scheme="dark") as opened:
        yield opened


def file(name: str, text: str) -> dict[str, object]:
    """What a file input is given."""
    return {"name": name, "mimeType": "text/csv", "buffer": text.encode()}


def drop(page: Page, name: str, text: str) -> None:
    """Drop a file where the training rows are taken."""
    script = """([name, text]) => {
        const files = new DataTransfer();
        files.items.add(new File([text], name, {type: "text/csv"}));
        return files;
    }"""
    transfer = page.evaluate_handle(script, [name, text])
    zone = page.locator(".drop").filter(has_text="Training rows")
    zone.dispatch_event("drop", {"dataTransfer": transfer})


@pytest.mark.slow
def test_an_upload_tells_its_faults_at_their_rows(seen: Watched, pictures: Path | None) -> None:
    page = seen.page
    seen.open("new")
    page.get_by_role("combobox", name="Model").fill(TINY)
    layers = page.get_by_role("list", name="Layers and their parameters")
    expect(layers.get_by_role("listitem")).to_have_count(TINY_LAYERS)
    page.get_by_label("Files to upload").check()
    page.get_by_label("Training rows").set_input_files(file("reviews.csv", BAD))  # type: ignore[arg-type]
    page.get_by_role("button", name="Upload").click()
    faults = page.get_by_role("region", name="Faults of reviews.csv").locator("tbody tr")
    expect(faults).to_have_count(2)
    expect(faults.nth(0)).to_contain_text("2")
    expect(faults.nth(0).locator("td.fault")).to_contain_text("text")
    expect(faults.nth(1).locator("td").nth(1)).to_have_text("the third")
    expect(faults.nth(1).locator("td.fault")).to_contain_text("label")
    seen.accessible()
    picture(page, pictures, "upload")
    drop(page, "reviews.csv", GOOD)
    page.get_by_role("button", name="Upload").click()
    report = page.get_by_role("group", name="Report")
    expect(report).to_contain_text("train 36, validation 4 (inferred)")
    page.get_by_role("button", name="Show it as the model reads it").click()
    preview = page.get_by_role("region", name="Preview")
    expect(preview.get_by_text("[CLS]").first).to_be_visible()
    seen.accessible()


def test_a_ranking_is_checked_and_submitted(seen: Watched) -> None:
    page = seen.page
    seen.open()
    page.get_by_role("link", name="New run").click()
    page.get_by_role("combobox", name="Model").fill(TINY)
    page.get_by_label("Preset", exact=True).select_option("glue/cola")
    samples = page.get_by_label("Samples", exact=True)
    expect(samples).to_have_attribute("placeholder", "256")  # the service's default
    samples.fill("1")
    page.get_by_role("button", name="Check").click()
    expect(samples).to_have_attribute("aria-invalid", "true")
    expect(samples).to_be_focused()
    expect(page.locator(".field", has=samples).locator(".fault-words")).to_contain_text("2")
    seen.accessible()
    samples.fill("16")
    page.get_by_label("Model prior").uncheck()
    page.get_by_label("Name", exact=True).fill("from the form")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", name="The service would take this request")).to_be_visible()
    expect(samples).to_have_attribute("aria-invalid", "false")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="from the form")).to_be_visible()
    expect(page.locator(".head .status")).to_have_text("succeeded")


def test_a_link_fills_in_a_fine_tune_or_a_comparison(
    service: Running, seen: Watched, pictures: Path | None
) -> None:
    ranking = service.run("rankings", RANKING)["id"]
    page = seen.page
    seen.open(f"new?kind=finetune&ranking={ranking}&k=3")
    expect(page.get_by_role("combobox", name="Model")).to_have_value(TINY)
    expect(page.get_by_label("Preset", exact=True)).to_have_value("glue/cola")
    expect(page.get_by_label("k", exact=True)).to_have_value("3")
    expect(page.get_by_label("Ranking", exact=True)).to_have_value(ranking)
    page.get_by_text("The request as JSON").click()
    expect(page.get_by_label("Request")).to_have_value(re.compile(r'"policy": "top_k"'))
    page.get_by_text("The request as JSON").click()
    page.get_by_role("button", name="Check").click()
    estimate = page.get_by_role("region", name="Estimate").locator("tbody tr")
    expect(estimate.first).to_contain_text("top_k")
    seen.accessible()
    picture(page, pictures, "new-run")

    seen.open(f"new?kind=comparison&ranking={ranking}&k=3")
    arm = page.get_by_role("group", name="Arm 1")
    expect(arm.get_by_label("Policy")).to_have_value("top_k")
    expect(arm.get_by_label("k", exact=True)).to_have_value("3")
    arm.get_by_label("Name").fill("!")
    page.get_by_role("button", name="Check").click()
    expect(arm.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    arm.get_by_label("Name").fill("three")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", name="Estimate of one of its 9 runs")).to_be_visible()
    seen.accessible()


def test_what_has_no_field_is_written_as_json(seen: Watched) -> None:
    page = seen.page
    seen.open("new?kind=search")
    page.get_by_text("The request as JSON").click()
    request = page.get_by_label("Request")
    request.fill("{")
    expect(page.get_by_text("This is no request yet")).to_be_visible()
    expect(page.get_by_role("button", name="Check")).to_be_disabled()
    request.fill(f'{{"model": "{TINY}", "dataset": "glue/cola", "held_out": 0.9}}')
    expect(page.get_by_role("combobox", name="Model")).to_have_value(TINY)
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("alert").filter(has_text="/held_out")).to_be_visible()
    request.fill(f'{{"model": "{TINY}", "dataset": "glue/cola", "held_out": 0.5}}')
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("The search:")).to_contain_text("candidates")
    page.get_by_label("Fine-tune: train some of them").check()
    expect(page.get_by_role("combobox", name="Model")).to_have_value(TINY)
    expect(request).to_have_value(re.compile('"selection"'))
    page.get_by_label("The Hugging Face Hub").check()
    page.get_by_label("Dataset on the Hub").fill("no/such")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("alert").filter(has_text="no/such")).to_be_visible()
    seen.accessible()


def test_a_keyboard_alone_fills_in_and_submits(small: Watched, pictures: Path | None) -> None:
    page, keys = small.page, small.page.keyboard
    small.open("new")
    expect(page.get_by_role("heading", name="Dataset")).to_be_visible()
    expect(
        page.get_by_label("Preset", exact=True).locator("option", has_text="glue/cola")
    ).to_have_count(1)

    def reach(name: str) -> None:
        """Go on until the control with this label or these words has the focus."""
        script = "[...document.activeElement.labels ?? []].map(l => l.innerText).join() "
        script += "|| document.activeElement.innerText"
        for _ in range(80):
            keys.press("Tab")
            if page.evaluate(script) == name:
                return
        raise AssertionError(f"the keyboard does not reach {name}")

    reach("Model")
    keys.type(TINY)
    expect(page.get_by_role("list", name="Layers and their parameters")).to_be_visible()
    picture(page, pictures, "new-run-phone", whole=False)
    reach("Preset")
    keys.type("glue/cola")
    reach("Samples")
    keys.type("16")
    reach("Name")
    keys.type("by keyboard")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    small.accessible()
    keys.press("Enter")
    expect(page.get_by_role("button", name="Submit")).to_be_visible()
    reach("Submit")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="by keyboard")).to_be_visible()


@pytest.mark.slow
def test_datasets_are_listed_looked_at_and_deleted(seen: Watched, pictures: Path | None) -> None:
    page = seen.page
    seen.open("datasets")
    page.get_by_label("Training rows").set_input_files(file("tickets.csv", GOOD + "one more,1\n"))  # type: ignore[arg-type]
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="tickets.csv", level=1)).to_be_visible()
    page.get_by_role("combobox", name="Model").fill(TINY)
    page.get_by_role("button", name="Show it as the model reads it").click()
    expect(page.get_by_role("region", name="Preview").get_by_text("[CLS]").first).to_be_visible()
    seen.accessible()
    picture(page, pictures, "dataset")
    page.get_by_role("link", name="New run on it").click()
    expect(page.get_by_label("Stored dataset")).to_have_value(re.compile("ds_"))
    page.go_back()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_role("heading", name="Datasets")).to_be_visible()
    expect(page.get_by_role("link", name="tickets.csv")).to_be_hidden()
    seen.accessible()


def test_queue_and_workers(service: Running, seen: Watched) -> None:
    service.run("rankings", RANKING)
    page = seen.page
    seen.open("queue")
    expect(
        page.get_by_role("region", name="Workers", exact=True).locator("tbody tr")
    ).to_contain_text("idle")
    expect(page.get_by_role("region", name="Queue").locator("tbody tr").first).to_be_visible()
    seen.accessible()
    seen.open("usage")
    expect(page.get_by_role("region", name="Limits")).to_contain_text("no limit")
    expect(page.get_by_role("region", name="Usage by period")).to_contain_text("ranking")
    page.get_by_label("By", exact=True).select_option("month")
    expect(page.get_by_role("region", name="Usage by period")).to_contain_text("Total")
    seen.accessible()
