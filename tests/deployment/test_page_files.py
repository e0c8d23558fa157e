"""The web page comes with the wheel, which is what images and users install."""

from __future__ import annotations

from pathlib import Path

from tests.support.service.deployment import ROOT


def test_the_wheel_has_the_built_page_and_not_its_source(wheel: Path) -> None:
    built = ROOT / "app/api/page"
    files = {path.relative_to(built) for path in built.rglob("*") if path.is_file()}
    assert len(files) > 5
    for each in files:
        assert (wheel / "app/api/page" / each).read_bytes() == (built / each).read_bytes()
    assert not list(wheel.rglob("*.tsx"))
