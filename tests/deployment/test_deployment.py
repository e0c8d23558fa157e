"""The wheel that the images install, and the page that explains the production shape."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.service.deployment import ROOT, parse_command, variables


def test_the_wheel_carries_every_migration(wheel: Path) -> None:
    packed = {path.name for path in (wheel / "app/migrations/versions").glob("*.py")}
    assert packed == {path.name for path in (ROOT / "alembic/versions").glob("*.py")}
    assert packed
    assert (wheel / "app/migrations/env.py").is_file()


def test_the_wheel_needs_no_torch_by_itself(wheel: Path) -> None:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    needs = re.findall(r"(?m)^Requires-Dist: ([\w-]+)(.*)$", metadata.read_text())
    assert any(name == "torch" for name, _ in needs)
    assert not [name for name, rest in needs if name == "torch" and "extra ==" not in rest]


def test_the_installed_package_migrates_a_database(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import app.db; assert '/unpacked/' in app.db.__file__;"
        "d = app.db.Database('sqlite:///new.db'); d.upgrade(); assert d.is_at_head()"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(wheel)}, check=True, timeout=60,
    )  # fmt: skip


def test_the_page_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs/operations/deployment.md").read_text()
    table = page.partition("## Settings")[2]
    rows = re.findall(r"(?m)^\| `(\w+)` \| `?([^`|]+?)`? \|", table)
    assert dict(rows) == variables()


def test_the_page_names_every_variable_that_compose_reads() -> None:
    page = (ROOT / "docs/operations/deployment.md").read_text()
    text = (ROOT / "docker-compose.yml").read_text()
    assert [v for v in set(re.findall(r"\$\{(\w+)", text)) if f"`{v}`" not in page] == []


def test_the_page_shows_real_commands() -> None:
    page = (ROOT / "docs/operations/deployment.md").read_text()
    shown = re.findall(r"`surgeon ([a-z -]+?)`", page)
    assert {"serve", "api", "worker", "key", "db upgrade"} <= set(shown)
    for line in shown:
        parse_command(["surgeon", *line.split()])


def test_the_page_names_the_package_of_the_object_store() -> None:
    section = (ROOT / "docs/operations/deployment.md").read_text().partition("## Object storage")[2]
    assert "s3://" in section.partition("\n## ")[0]
    assert "extra package `s3fs`" in section.partition("\n## ")[0]
