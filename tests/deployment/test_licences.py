"""The page of licences, and what `make check` says of known vulnerabilities."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.support.service.deployment import ROOT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci/dependencies" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_every_package_and_its_licence() -> None:
    licences = script("licences")
    shown = dict(rows(licences.PAGE.read_text()))
    here = dict(rows(licences.page()))
    missing = {name: here[name] for name in here if shown.get(name) != here[name]}
    assert missing == {}, "python .ci/dependencies/licences.py --write"


def rows(page: str) -> list[tuple[str, str]]:
    cells = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [(row[0].removeprefix("| "), row[1]) for row in cells[1:]]


def test_a_vulnerable_version_fails_the_check_and_silence_does_not() -> None:
    report = script("audit").report
    sound = {"name": "a", "version": "1", "vulns": []}
    hole = {"id": "CVE-1", "fix_versions": ["2.1"], "aliases": []}
    code, words = report([sound, {"name": "b", "version": "2", "vulns": [hole]}])
    assert code == 1
    assert "b 2: CVE-1, mended in 2.1" in words
    assert report([sound]) == (0, "advisories: none for the 1 versions that the database knows")
    code, words = report(None)
    assert code == 0
    assert "left out" in words
