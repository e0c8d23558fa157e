"""Artifacts through fsspec: a local folder, or an object store."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from app.artifacts.fetched import FetchedFolders, Held
from app.settings import Settings
from surgery.io.folders import CHUNK, MANIFEST, is_intact, is_plain_name, move_folder, read_manifest


class Storage:
    """Folders of files under keys such as ``jobs/ft_…/2/checkpoint-90``."""

    def __init__(self, url: str, fetched: FetchedFolders) -> None:
        self.local = not urlsplit(url).scheme or url.startswith("file://")
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._fetched = fetched

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def put_folder(self, folder: Path, key: str) -> None:
        """Move a complete local folder to a key; the manifest goes last and makes it exist."""
        target = self._path(key)
        if self.local:
            shutil.rmtree(target, ignore_errors=True)
            move_folder(folder, Path(target))
            return
        for name in (*read_manifest(folder), MANIFEST):
            self._files.put_file(str(folder / name), f"{target}/{name}")
        shutil.rmtree(folder)

    def fetch_folder(self, key: str) -> Held | None:
        """The folder on local disk, verified against its manifest; None when it is not whole.

        The caller releases it. Raises FileNotFoundError where an object store has it not.
        """
        if self.local:
            folder = Path(self._path(key))
            return Held(folder) if is_intact(folder) else None
        return self._fetched.hold(key) or self._fetch(key)

    def _fetch(self, key: str) -> Held | None:
        path = self._path(key)
        try:
            files = json.loads(self._files.cat_file(f"{path}/{MANIFEST}"))["files"]
            size = sum(int(entry["bytes"]) for entry in files.values())
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if not all(map(is_plain_name, files)):  # a path out of the folder, say
            return None

        def download(folder: Path) -> None:
            for name in (*files, MANIFEST):
                self._files.get_file(f"{path}/{name}", str(folder / name))

        return self._fetched.add(key, size, download)

    def sweep_fetched(self) -> None:
        """Remove what takes more room on local disk than it may."""
        if not self.local:
            self._fetched.make_room()

    def local_file(self, key: str) -> Path | None:
        """The path of a file when artifacts are local."""
        path = Path(self._path(key))
        return path if self.local and path.is_file() else None

    def check(self, key: str, names: Iterable[str]) -> None:
        """Raises FileNotFoundError unless a folder has all of these files."""
        path = self._path(key)
        self._files.invalidate_cache(path)
        held = {str(file).rpartition("/")[2] for file in self._files.ls(path, detail=False)}
        for name in names:
            if name not in held:
                raise FileNotFoundError(f"{path}/{name}")

    def chunks(self, key: str) -> Iterator[bytes]:
        """A file's bytes, a MiB at a time. Raises FileNotFoundError at the first of them."""
        with self._files.open(self._path(key), "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def names(self, key: str) -> list[str]:
        """The files of a complete folder; none where there is no such folder."""
        path = f"{self._path(key)}/{MANIFEST}"
        if not self._files.exists(path):
            return []
        return list(json.loads(self._files.cat_file(path))["files"])

    def delete(self, key: str) -> None:
        """Remove a folder; none is no error."""
        if self._files.exists(self._path(key)):
            self._files.rm(self._path(key), recursive=True)

    def stale_folders(self, prefix: str, depth: int, age_seconds: float) -> list[str]:
        """Keys of the folders ``depth`` levels below a prefix whose manifest is so old.

        Manifests are files: an object store dates those, not folders.
        """
        pattern = "/".join([self._path(prefix), *["*"] * depth, MANIFEST])
        self._files.invalidate_cache()
        found = []
        for path, entry in self._files.glob(pattern, detail=True).items():
            moment = entry.get("mtime") or entry.get("LastModified")
            seconds = moment if isinstance(moment, float) else moment.timestamp()
            if time.time() - seconds > age_seconds:
                found.append(str(path).removeprefix(f"{self._root}/").removesuffix(f"/{MANIFEST}"))
        return found


def open_storage(settings: Settings) -> Storage:
    """The artifacts of a service."""
    fetched = FetchedFolders(settings.sources.cache / "artifacts", settings.artifact_cache_bytes)
    return Storage(settings.resolved_artifacts_url, fetched)
