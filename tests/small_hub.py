"""A small hub on loopback: what huggingface_hub asks of the real one, and what can go wrong there.

The paths and headers are those of the hub's API: `/api/models/ORG/NAME/revision/REV` with `sha` and
`siblings`; `/ORG/NAME/resolve/REV/FILE` by HEAD and GET with `ETag`, `X-Repo-Commit`, ranges; large files are
a redirect to another host, with `X-Linked-Size` and `X-Linked-Etag`; errors carry `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".gguf")
"""Files that lie on the other host."""
TOKEN = "hf_of_the_tests"


@dataclass
class Repo:
    """Files by commit, commits by branch; `gated` ones need TOKEN."""

    files: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False


@dataclass
class Request:
    method: str
    path: str
    range: str
    token: str
    sent: int = 0


@dataclass
class SmallHub:
    """The repositories, every request that came, and the faults that are switched on."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    store: str = ""
    status: int = 0  # answered to everything
    api_status: int = 0  # answered to the API alone
    delay: float = 0.0
    ranges: bool = True
    page: bool = False  # HTML for everything, with 200
    renamed: dict[str, str] = field(default_factory=dict)
    cut: int = 0  # bytes after which a large file breaks off

    def add(self, name: str, files: dict[str, Any], **more: Any) -> str:
        """A repository with one commit on main; its files are bytes, text, or what becomes JSON."""
        content = {path: _bytes(value) for path, value in files.items()}
        digest = hashlib.sha1(repr((name, sorted(content.items()))).encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}, **more))
        repo.files[digest] = content
        repo.branches["main"] = digest
        return digest

    def asked(self, method: str, ending: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: SmallHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, headers = self.hub, self.headers
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        self.request_ = Request(
            self.command, unquote(self.path.partition("?")[0]), headers.get("Range", ""), token
        )
        hub.requests.append(self.request_)
        time.sleep(hub.delay)
        path = self.request_.path
        if hub.status or (hub.api_status and path.startswith("/api/")):
            self._send(hub.status or hub.api_status, b"")
            return
        for old, new in hub.renamed.items():
            if f"/{old}/" in f"{path}/":
                self._send(307, b"", {"Location": self.path.replace(old, new)})
                return
        if hub.page:
            self._send(200, b"<html>welcome</html>", {"ETag": '"1"'})
            return
        if path.startswith("/store/"):
            self._file(_blob(hub, path.rpartition("/")[2]), {})
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._about(match[1], match[2] or "main")
            return
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path):
            self._resolved(match[1], match[2], match[3])
            return
        self._error(404, "RepoNotFound")

    def _found(self, name: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401 if not self.request_.token else 404, "RepoNotFound")
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.files:
            self._error(404, "RevisionNotFound")
            return None
        return repo, commit

    def _about(self, name: str, revision: str) -> None:
        if (at := self._found(name, revision)) is None:
            return
        repo, commit = at
        files = [{"rfilename": path} for path in sorted(repo.files[commit])]
        about = {"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": [], "private": False}
        self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolved(self, name: str, revision: str, file: str) -> None:
        if (at := self._found(name, revision)) is None:
            return
        repo, commit = at
        if repo.gated and self.request_.token != TOKEN:
            self._error(403 if self.request_.token else 401, "GatedRepo")
            return
        content = repo.files[commit].get(file)
        told = {"X-Repo-Commit": commit}
        if content is None:
            self._error(404, "EntryNotFound", told)
            return
        etag = hashlib.sha256(content).hexdigest()
        if file.endswith(LARGE):
            told |= {"Location": f"{self.hub.store}/store/{etag}", "X-Linked-Size": str(len(content))}
            self._send(302, b"", {**told, "X-Linked-Etag": f'"{etag}"', "ETag": f'"{etag}"'})
            return
        self._file(content, {**told, "ETag": f'"{etag}"'})

    def _file(self, content: bytes, told: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request_.range)
        if asked is None or not self.hub.ranges:
            self._send(200, content, {**told, "Accept-Ranges": "bytes"})
            return
        begin, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if begin >= len(content):
            self._send(416, b"", {**told, "Content-Range": f"bytes */{len(content)}"})
            return
        part = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        self._send(206, content[begin : end + 1], {**told, **part})

    def _error(self, status: int, code: str, told: dict[str, str] | None = None) -> None:
        self._send(status, b"", {**(told or {}), "X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, told: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (told or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: self.hub.cut] if self.hub.cut and "/store/" in self.path else body
        try:
            self.wfile.write(body)
            self.request_.sent = len(body)
        except OSError:  # the client has enough
            self.close_connection = True
        if self.hub.cut and "/store/" in self.path:
            self.close_connection = True


def _blob(hub: SmallHub, digest: str) -> bytes:
    contents = [c for repo in hub.repos.values() for files in repo.files.values() for c in files.values()]
    return next(c for c in contents if hashlib.sha256(c).hexdigest() == digest)


@contextmanager
def serving() -> Iterator[SmallHub]:
    """A hub that answers on two ports of loopback, the second one for large files."""
    hub = SmallHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.endpoint, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def point(monkeypatch: Any, endpoint: str) -> None:
    """Let huggingface_hub, which reads HF_ENDPOINT when it is imported, ask this one."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download):  # before version 1 a second name of the same text
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
