"""A hook of MkDocs: pages from beside docs/, and what language models read of the site.

CHANGELOG.md and CONTRIBUTING.md, which lie beside docs/, become pages too. llms.txt, and each page
as it was written under its own name, are made whenever the site is, and are in no folder of the
repository: a stored copy could be stale, and this one cannot. A page that it cannot describe fails
the build, and so `make check`.
"""

from __future__ import annotations

from pathlib import Path

from llms import llms_text
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files, with their links as seen from docs/, and llms.txt."""
    for name in PAGES:
        text = (ROOT / name).read_text().replace("](docs/", "](")
        for other in PAGES:
            text = text.replace(f"]({other}", f"]({other.lower()}")
        files.append(File.generated(config, name.lower(), content=text))
    files.append(File.generated(config, "llms.txt", content=_llms_text(files, config)))
    return files


def _llms_text(files: Files, config: MkDocsConfig) -> str:
    def page(name: str) -> str:
        file = files.get_file_from_path(name)
        if file is None:
            raise ValueError(f"nav names {name}, and there is no such file")
        return file.content_string

    try:
        summary = config.site_description or ""
        return llms_text(config.site_name, summary, config.nav or [], page)
    except ValueError as error:
        raise PluginError(f"llms.txt: {error}") from error


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Put the page as it was written beside its HTML: llms.txt names it."""
    written = Path(config.site_dir, page.file.src_uri)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(page.file.content_string)
    return output
