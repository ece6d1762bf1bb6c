"""A small Hugging Face hub on this machine: what its client asks for, and faults on demand.

    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}"})
        hub.use(monkeypatch, tmp_path / "cache")

`requests` has every request as "GET /org/name/resolve/...", in order; `ranges` the bytes that were asked for again.
"""

import functools
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 2**16  # files from here on lie on another host, as the hub's large ones do: their address is a redirect
TOKEN = "hf_let_me_in"


@dataclass
class Stored:
    """A repository: files by revision, and who may read it.

    Attributes:
        access: "private" exists only for those with a token; "gated" is seen by all and read with a token of `members`.
    """

    revisions: dict[str, dict[str, bytes]]
    access: Literal["open", "gated", "private"] = "open"
    members: set[str] = field(default_factory=set)

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit names."""
        commits = {name: _commit(files) for name, files in self.revisions.items()}
        return commits.get(revision) or next((commit for commit in commits.values() if commit == revision), None)

    def files(self, revision: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == self.commit(revision))


class Hub:
    """The server; `cuts` maps a file's name to bytes after which its next answers end, one number per answer."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], Stored] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.cuts: dict[str, list[int]] = {}
        self.held: set[str] = set()  # files whose second half is not sent until they are taken out
        self.reset = False  # a cut resets the connection, where otherwise it ends it
        self.down = False  # every answer is 503

    def add(self, name: str, files: Mapping[str, bytes | str], kind: str = "models", **access: Any) -> Stored:
        """Put a repository there, its files at `main`."""
        encoded = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        self.stored[kind, name] = Stored({"main": encoded}, **access)
        return self.stored[kind, name]

    def add_folder(self, name: str, folder: Path, **access: Any) -> Stored:
        """A model with the files of a folder."""
        return self.add(name, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, **access)

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let this process's client ask here, with an empty cache and without a token."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("unmask.data.hub.PAUSE", 0.0)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)

    def downloads(self) -> list[str]:
        """The files that were sent, each as often as it was."""
        return [
            unquote(line.split("/resolve/")[1].split("/", 1)[1])
            for line in self.requests
            if line.startswith("GET /") and "/resolve/" in line
        ]

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}/cdn"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.down:
            return self._refuse(503, "", "down")
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, path):
                return answer(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
        self._refuse(404, "", "no such page")

    def _repository(self, kind: str, name: str, revision: str, *, reading: bool = False) -> Stored | None:
        """The repository if it is there and may be seen, or read; otherwise the answer is sent."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        stored = self.hub.stored.get((kind, name))
        if stored is None or (stored.access == "private" and not token):
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        if reading and stored.access == "gated" and token not in stored.members:
            self._refuse(403 if token else 401, "GatedRepo", "Access to this repository is restricted")
            return None
        if stored.commit(revision) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return stored

    def _info(self, kind: str, name: str, revision: str) -> None:
        if stored := self._repository(kind, name, revision or "main"):
            commit, files = stored.commit(revision or "main"), stored.files(revision or "main")
            told = {"id": name, "sha": commit, "private": stored.access == "private", "tags": [], "downloads": 0, "likes": 0}
            self._send(json.dumps({**told, "siblings": [{"rfilename": path} for path in files]}).encode())

    def _tree(self, kind: str, name: str, revision: str) -> None:
        if stored := self._repository(kind, name, revision):
            files = stored.files(revision).items()
            entries = [{"type": "file", "path": path, "size": len(data), "oid": _digest(data)} for path, data in files]
            self._send(json.dumps(entries).encode())

    def _refs(self, kind: str, name: str) -> None:
        if stored := self._repository(kind, name, "main"):
            refs = [{"name": one, "ref": one, "targetCommit": stored.commit(one)} for one in stored.revisions]
            self._send(json.dumps({"branches": refs, "tags": [], "converts": []}).encode())

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        stored = self._repository(kind.strip("/") or "models", name, revision, reading=True)
        if stored is None:
            return
        data = stored.files(revision).get(path)
        headers = {"X-Repo-Commit": str(stored.commit(revision))}
        if data is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", headers)
        headers |= {"ETag": f'"{_digest(data)}"', "Accept-Ranges": "bytes"}
        if len(data) >= LARGE and self.command == "HEAD":
            headers |= {
                "X-Linked-Etag": headers["ETag"],
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.elsewhere}{self.path}",
            }
            return self._send(b"", 302, headers)
        status, begin = 200, 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            status, headers["Content-Range"] = 206, f"bytes {begin}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cuts.get(path, []) if self.command == "GET" else []
        self._send(data[begin:], status, headers, cut=cuts.pop(0) if cuts else None, held=path)

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(b"", status, {**headers, **named, "X-Error-Message": message})

    def _send(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] = {}, cut: int | None = None, held: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            half = len(body) // 2 if held in self.hub.held else 0
            with suppress(ConnectionError):
                self.wfile.write(body[:half])
                while held in self.hub.held:
                    time.sleep(0.01)
                self.wfile.write(body[half:] if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            if self.hub.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True


@functools.cache
def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _commit(files: Mapping[str, bytes]) -> str:
    return hashlib.sha1(repr([(path, _digest(data)) for path, data in sorted(files.items())]).encode()).hexdigest()


_NAME = r"(?P<name>[^/]+/[^/]+)"
_KIND = r"/api/(?P<kind>models|datasets)/"
_ROUTES = (
    (rf"{_KIND}{_NAME}(?:/revision/(?P<revision>[^/]+))?", _Handler._info),
    (rf"{_KIND}{_NAME}/tree/(?P<revision>[^/]+)", _Handler._tree),
    (rf"{_KIND}{_NAME}/refs", _Handler._refs),
    (rf"(?:/cdn)?/(?P<kind>datasets/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._file),
)
