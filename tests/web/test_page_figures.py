"""Figures of the web page as Chromium measures them, held to the bounds that were promised.

``python -m pytest -n0 -s tests/web/test_page_figures.py -m "slow or not slow"`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, CDPSession, expect
from sqlalchemy import text

from app.db.tables import Job
from app.jobs.outputs.records import record_metrics
from app.jobs.state_machine import Lease, record_event
from tests.support.service.live_api import LiveApi
from tests.support.web.browser import Watched, watched

SLOWER = 4  # times, as Lighthouse has it for a phone
TRIES = 8  # of which the best counts: whatever else the machine does only adds to a figure
PAINTED, INTERACTIVE = 1000, 2000  # milliseconds
QUIET = 500  # milliseconds without a long task, after which the page is taken to be done
PAGE = 100  # jobs in an answer
HOUR, STEP = 3600, 200  # events, one a second, and how many are written at once
KEPT = 1000  # events on the page, which has as many when its memory is first measured
FLAT = 1.25  # times of what it was; a page that kept every event would hold four times as many

# Notes when the first row is there, and when the main thread was last busy for 50 ms or longer.
NOTES = """
window.seen = {row: 0, busy: 0};
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) seen.busy = task.startTime + task.duration;
}).observe({type: "longtask", buffered: true});
new MutationObserver((_, observer) => {
  if (!document.querySelector(".runs-body [role=row]")) return;
  seen.row = performance.now();
  observer.disconnect();
}).observe(document, {childList: true, subtree: true});
"""
FIGURES = """async (quiet) => {
  const interactive = () => Math.max(seen.row, seen.busy);
  while (!seen.row || performance.now() < interactive() + quiet) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return {painted: paint.startTime, interactive: interactive()};
}"""


def fill(api: LiveApi, count: int) -> None:
    """Queued jobs, copies of one, written by one statement; the last of the list is ``run 1``."""
    first = api.queue(name="the newest")
    columns = [column.name for column in Job.__table__.columns]
    own = {"id": "printf('ft_%026d', n)", "name": "'run ' || n"}
    values = ", ".join(own.get(name, name) for name in columns)
    statement = f"""
        WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
        INSERT INTO jobs ({", ".join(columns)})
        SELECT {values} FROM numbers, jobs WHERE id = :first"""
    with api.database.write() as session:
        session.execute(text(statement), {"last": count - 1, "first": first})


@dataclass
class Memory:
    """What a page holds once everything that it has let go of is collected."""

    heap: float
    nodes: float

    def __str__(self) -> str:
        return f"{self.heap / 1e6:.1f} MB of JS heap, {self.nodes:.0f} nodes"


def memory(devtools: CDPSession) -> Memory:
    """A measurement, after a collection."""
    devtools.send("HeapProfiler.collectGarbage")
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    found = {each["name"]: each["value"] for each in metrics}
    return Memory(found["JSHeapUsedSize"], found["Nodes"])


@contextmanager
def opened(api: LiveApi, chromium: Browser) -> Iterator[tuple[Watched, CDPSession]]:
    """A page in a profile of its own, with nothing cached, and the browser's tools for it."""
    with watched(chromium, str(api.http.base_url).rstrip("/")) as visit:
        devtools = visit.page.context.new_cdp_session(visit.page)
        devtools.send("Performance.enable")
        yield visit, devtools


def test_it_is_painted_and_usable_soon_on_a_slow_core(api: LiveApi, chromium: Browser) -> None:
    fill(api, PAGE)
    painted, interactive = [], []
    for _ in range(TRIES):
        with opened(api, chromium) as (visit, devtools):
            devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
            visit.page.add_init_script(NOTES)
            visit.open()
            figures = visit.page.evaluate(FIGURES, QUIET)
        painted.append(figures["painted"])
        interactive.append(figures["interactive"])
        if painted[-1] < PAINTED and interactive[-1] < INTERACTIVE:
            break
    print(f"core {SLOWER} times slower: painted after {painted}, usable after {interactive} ms")
    assert min(painted) < PAINTED
    assert min(interactive) < INTERACTIVE


@pytest.mark.parametrize("jobs", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_long_list_scrolls_without_a_request_for_each_job(
    api: LiveApi, chromium: Browser, jobs: int
) -> None:
    fill(api, jobs)
    with opened(api, chromium) as (visit, devtools):
        page = visit.page
        visit.open()
        rows = page.get_by_role("row")
        expect(rows.nth(1)).to_contain_text("the newest")
        before, most = memory(devtools), 0
        last = page.get_by_role("link", name="run 1", exact=True)
        while not last.is_visible():
            page.keyboard.press("End")
            page.evaluate("() => new Promise(requestAnimationFrame)")
            most = max(most, rows.count())
        asked = [url for url in visit.requests if "/v1/jobs?" in url]
        print(f"{jobs} jobs: {len(asked)} requests, at most {most} rows at once")
        print(f"at the top: {before}; at the end: {memory(devtools)}")
        assert len({url.partition("cursor=")[2] for url in asked}) == jobs // PAGE
        assert len(asked) < jobs / 40  # more pages than there are, since the shown ones are renewed
        assert most < 100  # of all the rows, those on the screen
        visit.accessible()


def happen(api: LiveApi, job_id: str, lease: Lease, first: int, count: int) -> None:
    """Seconds of a run: in each an event, in every tenth two measurements."""
    with api.database.write() as session:
        for number in range(first, first + count):
            record_event(session, job_id, lease.epoch, "test", {"number": number})
    for number in range(first, first + count, 10):
        values = {"train_loss": 1 / (number + 1), "learning_rate": 1e-5}
        record_metrics(api.database, lease, number, number / HOUR, values)


@pytest.mark.slow
def test_an_hour_of_events_leaves_the_memory_of_an_open_page_flat(
    api: LiveApi, chromium: Browser
) -> None:
    job_id, lease = api.run()
    with opened(api, chromium) as (visit, devtools):
        visit.open(f"runs/{job_id}")
        newest = visit.page.get_by_role("list", name="Events").get_by_role("listitem").first
        measured = []
        for first in range(0, KEPT + HOUR, STEP):
            happen(api, job_id, lease, first, STEP)
            expect(newest).to_contain_text(f"number {first + STEP - 1}")
            measured.append(memory(devtools))
    before, after = measured[KEPT // STEP - 1], measured[-1]
    print(f"{KEPT} events: {before}; an hour later: {after}")
    print("in between, JS heap in MB:", *(f"{each.heap / 1e6:.1f}" for each in measured))
    assert after.heap < FLAT * before.heap
    assert after.nodes < FLAT * before.nodes
