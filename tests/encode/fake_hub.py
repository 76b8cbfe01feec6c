"""A server with the part of the hub's interface that downloads need, on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".onnx", ".h5", ".msgpack")  # in Git LFS, with a SHA-256


@dataclass
class FakeHub:
    """Repositories of one commit each.

    Attributes:
        url: for HF_ENDPOINT.
        files: repository -> name -> content.
        commits: repository -> its commit.
        gated: repositories that need an account.
        requests: the paths of GET requests, without the address.
        lies: path -> content that is served instead, with the ETag of the true content.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)

    def add(self, repository: str, files: dict[str, bytes], commit: str = "c" * 40) -> None:
        self.files[repository], self.commits[repository] = files, commit

    def fetched(self) -> list[str]:
        """Return the names of the files whose content was sent."""
        return sorted(path.split("/", 5)[5] for path in self.requests if "/resolve/" in path)

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        steps = unquote(urlsplit(path).path).strip("/").split("/")
        api = steps[:2] == ["api", "models"]
        repository = "/".join(steps[2:4] if api else steps[:2])
        if repository not in self.files:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if repository in self.gated:
            return 401, {"X-Error-Code": "GatedRepo"}, b"{}"
        commit = self.commits[repository]
        revision = steps[5] if api and len(steps) > 5 else commit if api else steps[3]
        if revision not in ("main", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if api:
            tree = {"id": repository, "sha": commit, "siblings": self._siblings(repository)}
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        name = "/".join(steps[4:])
        if name not in self.files[repository]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = self.files[repository][name]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        return 200, headers, self.lies.get(name, content)

    def _siblings(self, repository: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for name, content in self.files[repository].items():
            row: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            rows.append(row)
        return rows


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Yield a `FakeHub` that answers on a free port."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(self.path)
            self._send(body=True)

        def do_HEAD(self) -> None:
            self._send(body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, body: bool) -> None:
            status, headers, content = hub.reply(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
