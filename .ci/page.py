"""The built web page beside its source in web/: what it was made of, and whether it is current.

``python .ci/page.py document`` prints the service's OpenAPI document, of which the types of the
page's client are made. ``digest`` prints the digest of the source; ``stamp`` writes it into the
built page; ``check`` fails if the built page is of another source. None of them needs node.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE, BUILT = ROOT / "web", ROOT / "app/api/page"
STAMP = "source.sha256"
# What the build is made of. Tests are not: the page is the same without them.
MADE_OF = ("index.html", "package-lock.json", "vite.config.ts", "tsconfig.json")


WORDS = {"description", "title", "summary", "example", "examples"}


def source_files() -> list[Path]:
    """The files of which the page is built, in order."""
    inner = [path for path in (SOURCE / "src").rglob("*") if path.is_file()]
    # Types leave no trace in what is built, and those of the API change with it.
    inner = [p for p in inner if ".test." not in p.name and p.suffixes[-2:] != [".d", ".ts"]]
    return sorted([*(SOURCE / name for name in MADE_OF), *inner])


def source_digest() -> str:
    """A digest of their names and contents."""
    digest = hashlib.sha256()
    for path in source_files():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(SOURCE).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def document() -> str:
    """The OpenAPI document without its words: the types change only where a shape does."""
    from app.main import create_app
    from app.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder), offline=True))
        return json.dumps(without_words(app.openapi()), indent=1)


def without_words(value: Any) -> Any:
    """A part of the document without descriptions, titles and examples."""
    if isinstance(value, list):
        return [without_words(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: {inner: without_words(each) for inner, each in part.items()}
        if name == "properties"
        else without_words(part)
        for name, part in value.items()
        if name not in WORDS
    }


def check() -> str | None:
    """What is wrong with the built page, or None."""
    stamp = BUILT / STAMP
    if not stamp.is_file():
        return f"{BUILT.relative_to(ROOT)} holds no built page; run `make page`"
    if stamp.read_text().strip() != source_digest():
        return f"{BUILT.relative_to(ROOT)} is not built from what web/ holds now; run `make page`"
    return None


def main() -> int:
    """Do what the argument says."""
    sys.path.insert(0, str(ROOT))
    action = sys.argv[1]
    if action == "document":
        print(document())
    elif action == "digest":
        print(source_digest())
    elif action == "stamp":
        (Path(sys.argv[2]) / STAMP).write_text(source_digest() + "\n")
    elif fault := check():
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
