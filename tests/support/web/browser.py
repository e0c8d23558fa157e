"""The browser that tests of the web page drive, and what a page in it must not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

PATIENCE = 120_000  # milliseconds; nothing waits longer than it has to, and cores are shared
expect.set_options(timeout=PATIENCE)
FAILED = "Failed to load resource"  # what Chromium itself says of an answer with an error


@dataclass
class Watched:
    """A page in a browser, and whatever it did that no page of the service may do."""

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, place: str = "") -> None:
        """Go to an address of the page, such as ``runs/rk_…``."""
        self.page.goto(f"{self.origin}/#/{place}")

    def enter(self, key: str) -> None:
        """Give the key that the page asks for."""
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Continue").click()

    def accessible(self) -> None:
        """Every rule of axe-core holds for what is on the screen."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


@contextmanager
def watched(chromium: Browser, origin: str, **options: object) -> Iterator[Watched]:
    """A page; when it is done with, it has logged no error and asked no other host."""
    context = chromium.new_context(locale="en-GB", timezone_id="UTC", **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    found = Watched(page, origin)

    def note(url: str) -> None:
        found.requests.append(url)
        if not url.startswith((origin, "data:")):
            found.faults.append(f"asked another host: {url}")

    page.on("request", lambda request: note(request.url))
    page.on("pageerror", lambda error: found.faults.append(f"threw: {error}"))
    page.on(
        "console",
        lambda message: (
            found.faults.append(message.text)
            if message.type in {"error", "warning"} and not message.text.startswith(FAILED)
            else None
        ),
    )
    try:
        yield found
    finally:
        context.close()
    assert found.faults == []


def picture(page: Page, folder: Path | None, name: str, *, whole: bool = True) -> None:
    """A picture for the documentation, if any was asked for: of the whole page, or of the screen."""
    if folder is not None:
        page.screenshot(path=folder / f"{name}.png", full_page=whole)
