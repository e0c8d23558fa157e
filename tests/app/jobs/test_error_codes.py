"""Every code that a job can fail with is documented, and every documented code can occur."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from app.main import create_app
from app.settings import Settings
from surgery import errors
from surgery.errors import SurgeryError
from surgery.schemas.answers.problem import JOB_ERRORS

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"`([a-z_]+)`")
CLASS = re.compile(r'^class (\w+)\((\w+)\):\n(?:(?:    .*)?\n)*?    code = "(\w+)"$', re.MULTILINE)


def classes(base: type[SurgeryError] = SurgeryError) -> Iterator[type[SurgeryError]]:
    """The errors of `surgery.errors`."""
    yield base
    for each in base.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from classes(each)


def codes_elsewhere() -> Iterator[tuple[str, str]]:
    """The codes of errors that other modules derive from these, with their classes."""
    known = {each.__name__ for each in classes()}
    own = Path(errors.__file__)
    paths = (path for part in ("surgery", "app", "worker") for path in ROOT.glob(f"{part}/**/*.py"))
    for text in (path.read_text() for path in paths if path != own):
        yield from ((name, code) for name, base, code in CLASS.findall(text) if base in known)


def test_the_table_has_the_codes_of_all_errors_and_no_others() -> None:
    assert {each.code for each in classes()} == set(JOB_ERRORS)


def test_errors_defined_elsewhere_have_documented_codes() -> None:
    found = list(codes_elsewhere())
    assert found
    assert [(name, code) for name, code in found if code not in JOB_ERRORS] == []


def test_the_guide_has_them_by_their_status() -> None:
    text = (ROOT / "docs/service/jobs.md").read_text().partition("## Errors\n")[2]
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", text.partition("\n## ")[0], re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in CODE.findall(codes)}
    assert listed == {code: facts.status for code, facts in JOB_ERRORS.items()}


def test_openapi_lists_them(tmp_path: Path) -> None:
    schema = create_app(Settings(data_dir=tmp_path)).openapi()["components"]["schemas"]
    description = schema["JobProblem"]["properties"]["code"]["description"]
    assert set(CODE.findall(description)) == set(JOB_ERRORS)
