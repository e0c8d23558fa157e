"""The charts of a run's page, by kind, on a real service: in the light, on a phone in the dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.services import Running
from tests.support.web.browser import Watched, picture, watched

SUBJECT: dict[str, Any] = {"model": TINY, "dataset": "glue/cola"}
PHONE = {"width": 375, "height": 600}
CELLS = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
LAST = {"policy": "last_k", "k": 1}


@pytest.fixture
def seen(service: Running, chromium: Browser) -> Iterator[Watched]:
    """The page of the service."""
    origin = str(service.client.driver.http.base_url).rstrip("/")
    with watched(chromium, origin, viewport={"width": 1200, "height": 440}) as opened:
        yield opened


@pytest.fixture
def phone(service: Running, chromium: Browser) -> Iterator[Watched]:
    """The same on a dark phone."""
    origin = str(service.client.driver.http.base_url).rstrip("/")
    with watched(chromium, origin, viewport=PHONE, color_scheme="dark") as opened:
        yield opened


def chart(page: Page, title: str) -> Locator:
    """A chart that is drawn."""
    found = page.get_by_role("figure", name=title, exact=True)
    expect(found.get_by_role("img", name=title)).to_be_visible()
    return found


def numbers(page: Page, title: str) -> list[list[str]]:
    """The cells of a chart's table, which is written when it is opened."""
    found = chart(page, title)
    numbers = found.get_by_text("The numbers")
    numbers.click()
    found.locator("tbody tr").first.wait_for()
    cells = found.locator("tbody tr").evaluate_all(CELLS)
    numbers.click()
    return cells


def fits(phone: Watched, place: str, titles: list[str]) -> None:
    """Every chart of a run is drawn on a phone, no wider than that, and legible to a machine."""
    phone.open(place)
    for title in titles:
        chart(phone.page, title)
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.accessible()


@pytest.mark.slow
def test_a_ranking_is_drawn(
    service: Running, seen: Watched, phone: Watched, pictures: Path | None
) -> None:
    body = {**SUBJECT, "method": "all", "samples": 16, "name": "every method"}
    job = service.run("rankings", body)
    page, result = seen.page, job["result"]
    seen.open(f"runs/{job['id']}")
    scores = numbers(page, "Scores of the layers")
    assert len(scores) == TINY_LAYERS
    assert all(" to " in interval for _, _, interval, _ in scores)
    assert [row[0] for row in scores] == [f"layer {each['index']}" for each in result["layers"]]
    groups = [row[0] for row in numbers(page, "The rest of the model")]
    assert groups == [group["name"] for group in result["groups"]]
    chances = numbers(page, "Probability of being among the top k")
    assert len(chances) == TINY_LAYERS**2
    orders = numbers(page, "The order by each method")
    assert orders == [
        [each["method"], ", ".join(each["order"])] for each in result["methods"]["methods"]
    ]
    taus = numbers(page, "Rank correlation of the methods")
    assert len(taus) == len(orders) ** 2
    expect(page.locator(".part").get_by_text(result["model_prior"]["note"])).to_be_visible()
    _budget(seen, job)
    seen.accessible()
    picture(page, pictures, "ranking")
    titles = ["Scores of the layers", "Probability of being among the top k"]
    fits(phone, f"runs/{job['id']}", [*titles, "Rank correlation of the methods"])


def _budget(seen: Watched, job: dict[str, Any]) -> None:
    """The slider's costs and the selection that is to be copied go with it."""
    page, k = seen.page, job["result"]["recommended_k"]["k"]
    expect(page.get_by_text("Parameters that train")).to_be_visible()
    selection = page.get_by_role("region", name=re.compile("the selection for"))
    expect(selection).to_contain_text("layers_to_transform")
    slider = page.get_by_role("slider", name=f"k = {k} of {TINY_LAYERS}")
    with page.expect_response("**/v1/estimates") as answered:
        slider.press("ArrowRight")
    row = answered.value.json()["rows"][0]
    assert row["k"] == k + 1
    expect(page.get_by_text(f"{row['trainable_parameters']:,}", exact=True)).to_be_visible()
    page.get_by_label("Written for").select_option("regex")
    chosen = job["result"]["layers"][: k + 1]
    for layer in chosen:
        expect(selection).to_contain_text(layer["name"].replace(".", "\\\\."))


def test_a_finetune_is_followed_by_its_curves(
    service: Running, seen: Watched, pictures: Path | None
) -> None:
    training = {"epochs": 200, "batch_size": 8}
    first = service.client.submit("finetunes", {**SUBJECT, "selection": LAST, "training": training})
    body = {
        **SUBJECT, "selection": LAST, "track_ranking": True, "name": "live",
        "training": {"epochs": 8, "batch_size": 8}, "checkpoints": {"keep": "all"},
    }  # fmt: skip
    job = service.client.submit("finetunes", body)
    page = seen.page
    seen.open(f"runs/{job['id']}")
    expect(page.get_by_text("Nothing is measured yet")).to_be_visible()
    seen.accessible()
    service.client.call("POST", f"/v1/jobs/{first['id']}/cancel")
    early = len(numbers(page, "Training loss"))
    expect(page.locator(".head .status")).to_have_text("succeeded")
    steps = 8 * 400 // 8
    expect(page.get_by_text(re.compile(rf"at step {steps}\. Dashed")).first).to_be_visible()
    assert 0 < early < len(numbers(page, "Training loss"))
    assert len(numbers(page, "Learning rate")) == len(numbers(page, "Training loss"))
    assert len(numbers(page, "Matthews correlation")) == 8
    assert len(numbers(page, "The ranking during training")) == 9
    encoder = page.get_by_role("list", name="The encoder, from its input to its head")
    trains = encoder.locator(".trains").all_inner_texts()
    assert [text.split("\n")[0] for text in trains] == [f"layer {TINY_LAYERS - 1}", "head"]
    _checkpoints(seen)
    _try(seen)
    seen.accessible()
    picture(page, pictures, "finetune")
    _export(seen)


def _checkpoints(seen: Watched) -> None:
    """They are downloaded, pinned, unpinned and deleted."""
    page = seen.page
    table = page.get_by_role("region", name="Checkpoints")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(8)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the checkpoint at step 50", exact=True).click()
    assert saved.value.suggested_filename.endswith(".tar")
    pin = page.get_by_role("button", name="Pin the checkpoint at step 100", exact=True)
    delete = page.get_by_role("button", name="Delete the checkpoint at step 100", exact=True)
    pin.click()
    expect(delete).to_be_hidden()
    page.get_by_role("button", name="Unpin the checkpoint at step 100", exact=True).click()
    delete.click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(rows).to_have_count(7)


def _try(seen: Watched) -> None:
    """A sentence is answered with labels and probabilities, and an empty one with what is wrong."""
    page = seen.page
    predict = page.get_by_role("button", name="Predict")
    predict.click()
    expect(page.get_by_role("alert")).to_contain_text("text is empty")
    page.get_by_label("sentence").fill("the old dog sees a red house")
    predict.click()
    table = page.get_by_role("table", name="Probabilities")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_hidden()
    values = [float(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert sum(values) == pytest.approx(1, abs=0.002)


def _export(seen: Watched) -> None:
    """What the Hub alone is told is sent for it alone, faults stand at their fields, and it ends."""
    page, button = seen.page, seen.page.get_by_role("button", name="Export")
    page.get_by_text("Export a checkpoint").click()
    place, name = page.get_by_label("To", exact=True), page.get_by_label("Name there")
    place.select_option("hub")
    name.fill("us/cola-reader")
    page.get_by_label("Visibility").select_option("public")
    page.get_by_label("Branch").fill("no branch")
    page.get_by_label("Commit message").fill("The first")
    with page.expect_request("**/exports") as sent:
        button.click()
    assert sent.value.post_data_json == {
        "to": "hub", "target": "us/cola-reader", "form": "full",
        "private": False, "revision": "no branch", "message": "The first",
    }  # fmt: skip
    expect(page.get_by_label("Branch")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Commit message")).to_have_attribute("aria-invalid", "false")
    seen.accessible()
    place.select_option("folder")
    name.fill("cola-reader")
    page.get_by_label("Form").select_option("delta")
    with page.expect_request("**/exports") as sent:
        button.click()
    assert sent.value.post_data_json == {"to": "folder", "target": "cola-reader", "form": "delta"}
    expect(page.locator(".head")).to_contain_text("export")
    expect(page.locator(".head .status")).to_have_text("succeeded")


@pytest.mark.slow
def test_a_comparison_and_a_search_are_drawn(
    service: Running, seen: Watched, phone: Watched, pictures: Path | None
) -> None:
    arms = [
        {"name": "all", "selection": {"policy": "all"}},
        {"name": "last", "selection": LAST},
        {"name": "head", "selection": {"policy": "head_only"}},
    ]
    training = {"epochs": 1, "batch_size": 32}
    body = {**SUBJECT, "arms": arms, "seeds": [0, 1], "single_layers": True, "training": training}
    job = service.run("comparisons", {**body, "name": "which layers"}, 300)
    page, result = seen.page, job["result"]
    seen.open(f"runs/{job['id']}")
    forest = numbers(page, "What each arm reached")
    assert [row[0] for row in forest] == ["all", "last", "head"]
    assert all(" to " in interval for _, _, interval, _ in forest)
    assert [row[0] for row in numbers(page, "Difference to all")] == ["last", "head"]
    costs = numbers(page, "Cost beside what was reached")
    assert "yes" in {row[3] for row in costs}
    page.get_by_role("combobox", name="Cost").select_option("parameters")
    expect(chart(page, "Cost beside what was reached")).to_contain_text("Parameters that train")
    assert len(numbers(page, "What each layer alone gained")) == TINY_LAYERS
    known = [each for each in result["single_layers"]["methods"] if each["spearman"] is not None]
    assert len(numbers(page, "How well scores predicted the gains")) == len(known)
    profiles = numbers(page, "Gains beside every method’s order")
    assert len(profiles) == TINY_LAYERS * len(result["single_layers"]["methods"])
    expect(page.locator(".part").get_by_text(result["decision"]["summary"])).to_be_visible()
    seen.accessible()
    picture(page, pictures, "comparison")
    fits(phone, f"runs/{job['id']}", ["What each arm reached", "Cost beside what was reached"])
    _search(service, seen)


def _search(service: Running, seen: Watched) -> None:
    body = {**SUBJECT, "families": ["single", "all"], "learning_rates": [3e-4]}
    found = service.run("searches", {**body, "training": {"epochs": 2}, "budget_share": 2})
    seen.open(f"runs/{found['id']}")
    candidates = numbers(seen.page, "What each candidate is expected to reach")
    tried = [arm["name"] for arm in found["result"]["arms"] if arm["expected"]]
    assert [row[0] for row in candidates] == tried
    seen.accessible()
