"""Reads and writes artifacts through fsspec, in a local folder or in an object store."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from app.artifacts.digests import Digests
from app.artifacts.fetched import FetchedFolders, HeldFolder
from app.artifacts.parts import abort_old_uploads
from app.errors import Misconfigured
from app.settings import Settings
from surgery.io.folders import (
    BUILDING,
    CHUNK,
    MANIFEST,
    is_intact,
    is_plain_name,
    last_used,
    move_folder,
    read_manifest,
)


class Storage:
    """Stores folders of files under keys such as ``jobs/ft_…/2/checkpoint-90``."""

    def __init__(self, url: str, fetched: FetchedFolders) -> None:
        self.local = not urlsplit(url).scheme or url.startswith("file://")
        # Other processes write there too, so that no listing may be answered from memory.
        self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._fetched = fetched
        self.digests = Digests()  # of what is put together from stored files

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def put_folder(self, folder: Path, key: str, *, replace: bool = False) -> None:
        """Move a complete local folder to a key. The manifest is written last and completes it.

        What was put there completely stays: the same folder may be put again, by whoever lost the
        answer. Raises FileExistsError if the key has another one. ``replace`` puts it in the place
        of that one, for a folder that grows under a key to which nobody else writes.
        """
        manifest = (folder / MANIFEST).read_bytes()
        if replace or self._manifest(key) is None:
            self._write_folder(folder, key, manifest, replace=replace)
        if self._manifest(key) != manifest:
            raise FileExistsError(f"{key} holds another folder")
        shutil.rmtree(folder, ignore_errors=True)

    def _write_folder(
        self, folder: Path, key: str, manifest: bytes, *, replace: bool = False
    ) -> None:
        target = self._path(key)
        if self.local:
            shutil.rmtree(target, ignore_errors=True)
            move_folder(folder, Path(target))
            return
        for name in read_manifest(folder):
            self._files.put_file(str(folder / name), f"{target}/{name}")
        with suppress(FileExistsError):  # of two that write the same key, the first completes it
            mode = "overwrite" if replace else "create"
            self._files.pipe_file(f"{target}/{MANIFEST}", manifest, mode=mode)

    def _manifest(self, key: str) -> bytes | None:
        """The manifest of a complete folder, or None."""
        try:
            return self.read_file(f"{key}/{MANIFEST}")
        except FileNotFoundError:
            return None

    def put_file(self, key: str, content: bytes) -> None:
        """Write a small file whole, over one that exists; readers see the old one or the new."""
        path = self._path(key)
        if not self.local:
            self._files.pipe_file(path, content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        building = target.with_name(f"{BUILDING}{target.name}")
        building.write_bytes(content)
        building.replace(target)

    def read_file(self, key: str) -> bytes:
        """The content of a small file as it is now. Raises FileNotFoundError."""
        content = self._files.cat_file(self._path(key))
        assert isinstance(content, bytes)
        return content

    def fetch_folder(self, key: str) -> HeldFolder | None:
        """A local copy of the folder, checked against its manifest; None if it is incomplete.

        The caller releases it. Raises FileNotFoundError if an object store does not have it.
        """
        if self.local:
            folder = Path(self._path(key))
            return HeldFolder(folder) if is_intact(folder) else None
        return self._fetched.hold(key) or self._fetch(key)

    def _fetch(self, key: str) -> HeldFolder | None:
        path = self._path(key)
        try:
            files = json.loads(self.read_file(f"{key}/{MANIFEST}"))["files"]
            size = sum(int(entry["bytes"]) for entry in files.values())
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if not all(map(is_plain_name, files)):  # a path that leads out of the folder, say
            return None

        def download(folder: Path) -> None:
            for name in (*files, MANIFEST):
                self._files.get_file(f"{path}/{name}", str(folder / name))

        return self._fetched.add(key, size, download)

    def sweep_fetched(self) -> None:
        """Remove local copies until they take no more room than they may."""
        if not self.local:
            self._fetched.make_room()

    def check(self, key: str, names: Iterable[str]) -> None:
        """Raises FileNotFoundError unless the folder has all of these files."""
        path = self._path(key)
        present = {str(file).rpartition("/")[2] for file in self._files.ls(path, detail=False)}
        for name in names:
            if name not in present:
                raise FileNotFoundError(f"{path}/{name}")

    def chunks(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """A file's bytes from ``start`` up to ``end``, in chunks.

        Raises FileNotFoundError at the first chunk.
        """
        with self._files.open(self._path(key), "rb") as file:
            file.seek(start)
            left = sys.maxsize if end is None else end - start
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    @property
    def signs(self) -> bool:
        """Whether the store signs addresses, so that whoever has one needs no credentials."""
        return type(self._files).sign is not fsspec.AbstractFileSystem.sign

    def signed_url(self, key: str, seconds: int) -> str:
        """An address from which the file can be downloaded for so long, without credentials."""
        return str(self._files.sign(self._path(key), expiration=seconds))

    def names(self, key: str) -> list[str]:
        """The names of a complete folder's files; empty if there is no such folder."""
        manifest = self._manifest(key)
        return [] if manifest is None else list(json.loads(manifest)["files"])

    def delete(self, key: str) -> None:
        """Remove a folder, if it exists."""
        if self._files.exists(self._path(key)):
            self._files.rm(self._path(key), recursive=True)

    def stale_folders(self, prefix: str, depth: int, age_seconds: float) -> list[str]:
        """Keys of the folders ``depth`` levels below a prefix whose newest file is older than this.

        Incomplete folders are among them. Files have the age, as an object store dates no folders.
        """
        newest: dict[str, float] = {}
        root = self._path(prefix)
        for path, entry in self._files.find(root, detail=True).items():
            parts = str(path).removeprefix(f"{root}/").split("/")
            if len(parts) > depth:
                key = "/".join([prefix, *parts[:depth]])
                moment = entry.get("mtime") or entry.get("LastModified") or entry.get("created")
                seconds = moment if isinstance(moment, float) else moment.timestamp()
                newest[key] = max(newest.get(key, seconds), seconds)
        limit = time.time() - age_seconds
        return sorted(key for key, seconds in newest.items() if seconds < limit)

    def remove_unfinished(self, age_seconds: float) -> None:
        """Remove what was begun longer ago than this and never finished, and empty folders."""
        if self.local:
            _remove_unfinished(Path(self._root), time.time() - age_seconds)
        else:
            abort_old_uploads(self._files, str(self._root), age_seconds)


def _remove_unfinished(root: Path, before: float) -> None:
    for name, _, files in os.walk(root, topdown=False):
        folder = Path(name)
        old = last_used(folder) < before
        with suppress(OSError):  # not empty, or removed by another process
            if folder.name.startswith(BUILDING) and old:
                shutil.rmtree(folder)
            elif old and folder != root:
                folder.rmdir()
        for file in (folder / each for each in files if each.startswith(BUILDING)):
            if 0 < last_used(file) < before:
                file.unlink(missing_ok=True)


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name. Raises Misconfigured if it lacks what they ask for."""
    fetched = FetchedFolders(settings.sources.cache / "artifacts", settings.artifact_cache_bytes)
    storage = Storage(settings.resolved_artifacts_url, fetched)
    if settings.signed_download_seconds is not None and not storage.signs:
        raise Misconfigured(
            "SURGEON_SIGNED_DOWNLOAD_SECONDS is set, but the store of artifacts signs no "
            "addresses; set SURGEON_ARTIFACTS_URL to one that does, such as s3://bucket/prefix"
        )
    return storage
