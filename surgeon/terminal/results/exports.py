"""Shows an export as a table of its files."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from surgeon.terminal.tables import Json, narrow_table


def export_view(result: Json, title: str) -> Group:
    """The files, and where they are now."""
    table = narrow_table(title)
    table.add_column("file")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("SHA-256")
    for file in result["files"]:
        table.add_row(Text(file["name"]), f"{file['bytes']:,}", Text(file["sha256"][:16]))
    return Group(table, *map(Text, _lines(result)))


def _lines(result: Json) -> list[str]:
    how = "written" if result["created"] else "there already with the same content"
    return [f"{result['location']} ({result['form']}): {how}", result["digest"]]
