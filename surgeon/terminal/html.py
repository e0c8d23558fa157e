"""Shows jobs in notebooks, by the tables of the command line."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from surgeon.terminal.tables import subject_of
from surgeon.terminal.terminal import VIEWS
from surgeon.terminal.wording import warning_lines

Json = Mapping[str, Any]
COLUMNS = 100
_PAGE = '<pre style="line-height: normal; font-family: monospace">{code}</pre>'


def job_html(job: Json) -> str:
    """A finished job's result as HTML; of another job its status, and its error if it has one."""
    if job["status"] == "succeeded":
        view = VIEWS[job["kind"]](job["result"], subject_of(job))
        return html_of(Group(view, *warning_lines(job["result"].get("warnings", ()))))
    phase, error = job["phase"], job["error"]
    line = f"{job['kind']} {job['id']}, {job['status']}" + (f" ({phase})" if phase else "")
    return html_of(Text(line + (f"\n{error['detail']} ({error['code']})" if error else "")))


def html_of(view: RenderableType) -> str:
    """What rich would print, as HTML."""
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_jupyter=False)
    console.print(view)
    return console.export_html(inline_styles=True, code_format=_PAGE)
