"""A Hub on the loopback that takes commits, as huggingface_hub makes them over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]
TOKEN = "hf_writes_models_0123456789"
LARGE = ".safetensors"  # files of this ending go into the large file store


@dataclass
class Branch:
    """The commits of a branch, and its files as they are."""

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[Json] = field(default_factory=list)

    @property
    def sha(self) -> str:
        told = json.dumps([[each["summary"], len(each)] for each in self.commits])
        return hashlib.sha1(f"{len(self.commits)} {told}".encode()).hexdigest()


@dataclass
class Repository:
    private: bool
    branches: dict[str, Branch] = field(default_factory=lambda: {"main": Branch()})


@dataclass
class WritableHub:
    """What the Hub holds, what it was sent, and how it misbehaves."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    requests: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)  # part of a path → status
    held: threading.Event | None = None  # commits wait for it
    address: str = ""

    def branch(self, name: str, revision: str = "main") -> Branch:
        return self.repositories[name].branches[revision]

    def post(self, path: str, body: bytes) -> tuple[int, Json]:
        """Answer a POST."""
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        return self._change(path, body)

    def _change(self, path: str, body: bytes) -> tuple[int, Json]:
        """Answer what is asked of a branch."""
        owner, name, action, revision = path.removeprefix("/api/models/").split("/")
        repository = self.repositories[f"{owner}/{name}"]
        revision = unquote(revision)
        if action == "branch":
            if revision in repository.branches:
                return 409, {"error": "exists"}
            start = repository.branches["main"]
            repository.branches[revision] = Branch(dict(start.files), list(start.commits))
            return 200, {}
        branch = repository.branches[revision]
        if action == "preupload":
            return 200, {"files": [_mode(each, branch) for each in json.loads(body)["files"]]}
        return self._commit(
            f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()]
        )

    def _create(self, asked: Json) -> tuple[int, Json]:
        name = f"{asked['organization']}/{asked['name']}"
        told = {"url": f"{self.address}/{name}", "name": name}
        if name in self.repositories:
            return 409, told
        self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return 200, told

    def _batch(self, asked: Json) -> Json:
        objects = []
        for each in asked["objects"]:
            upload = {"href": f"{self.address}/large/{each['oid']}"}
            actions = {} if each["oid"] in self.large else {"actions": {"upload": upload}}
            objects.append({"oid": each["oid"], "size": each["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, branch: Branch, lines: list[Json]) -> tuple[int, Json]:
        if self.held is not None:
            self.held.wait(60)
        header, *changes = lines
        if header["value"].get("parentCommit") not in {None, branch.sha}:
            return 412, {"error": "the branch has moved"}
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                branch.files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                branch.files[value["path"]] = self.large[value["oid"]]
            else:
                del branch.files[value["path"]]
        branch.commits.append({"summary": header["value"]["summary"]})
        url = f"{self.address}/{name}/commit/{branch.sha}"
        return 200, {"success": True, "commitUrl": url, "commitOid": branch.sha}

    def get(self, path: str) -> tuple[int, Json]:
        """Answer a GET: what a repository is at a revision."""
        owner, name, *at = path.removeprefix("/api/models/").split("/")
        repository = self.repositories.get(f"{owner}/{name}")
        if repository is None:
            return 404, {"error": "Repository not found"}
        branch = repository.branches[unquote(at[1]) if at else "main"]
        siblings = [{"rfilename": each} for each in sorted(branch.files)]
        about = {"id": f"{owner}/{name}", "private": repository.private, "sha": branch.sha}
        return 200, {**about, "siblings": siblings}


def _mode(asked: Json, branch: Branch) -> Json:
    """How a file is to be sent, and the digest of the one that is there."""
    path = asked["path"]
    large = path.endswith(LARGE)
    told = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    content = branch.files.get(path)
    if content is None:
        return told
    framed = content if large else b"blob %d\0" % len(content) + content
    digest = hashlib.sha256(framed) if large else hashlib.sha1(framed)
    return {**told, "oid": digest.hexdigest()}


@contextmanager
def writable() -> Iterator[WritableHub]:
    """An empty Hub that answers at its address, to its one token."""
    hub = WritableHub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunked()
            hub.requests.append(f"{self.command} {path}")
            wrong = [status for part, status in hub.failing.items() if part in path]
            if wrong:
                self._send(wrong[0], {"error": "no"})
            elif path.startswith("/large/"):
                hub.large[hashlib.sha256(body).hexdigest()] = body
                self._send(200, {})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "no such token"})
            else:
                answer = hub.get(path) if self.command == "GET" else hub.post(path, body)
                self._send(*answer)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815  # the names http.server looks for

        def _chunked(self) -> bytes:
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def _send(self, status: int, told: Json) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
