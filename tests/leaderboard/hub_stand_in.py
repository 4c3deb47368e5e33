"""A stand-in for the hub: as much of its HTTP API as uploads and downloads of small files need.

The hub's own client talks to it, so that what is tested is what is sent, not what a mock was told.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40
TOKEN = "hf_thisIsASecret"


class Hub:
    """What was stored. ``refuse``: the part of a path that is answered with 403, the token echoed."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict] = []
        self.commits: list[list[str]] = []
        self.tokens: set[str | None] = set()
        self.refuse: str | None = None
        self.endpoint = ""

    def post(self, path: str, body: bytes) -> dict:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            wanted = self.created[-1]
            kind, name = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
            self.files.setdefault(f"{kind}s/{name}", {".gitattributes": b""})
            return {"url": f"{self.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        _, _, kind, user, name, verb, *_ = path.split("/")
        if verb == "preupload":
            wanted = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in wanted]}
        assert verb == "commit"
        repository = self.files[f"{kind}/{user}/{name}"]
        lines = [json.loads(line) for line in body.splitlines()]
        self.commits.append([f"{line['key']} {line['value'].get('path', '')}".strip() for line in lines])
        for line in lines:
            if line["key"] == "file":
                repository[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del repository[line["value"]["path"]]
        return {"commitUrl": f"{self.endpoint}/{user}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}

    def get(self, path: str) -> list | dict | bytes | None:
        if path.startswith("/api/"):
            _, _, kind, user, name, *verb = path.split("/")
            repository = self.files.get(f"{kind}/{user}/{name}")
            if repository is None:
                return None
            if verb[:1] == ["tree"]:
                return [{"type": "file", "path": p, "size": len(data), "oid": COMMIT} for p, data in repository.items()]
            return {"id": f"{user}/{name}", "sha": COMMIT, "siblings": [{"rfilename": path} for path in repository]}
        user, name, verb, _, file = path.lstrip("/").split("/", 4)
        assert verb == "resolve"
        return self.files[f"models/{user}/{name}"].get(file)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, data: bytes, head: bool = False, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if not head:
                self.wfile.write(data)

        def handle_request(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlparse(self.path).path)
            authorization = self.headers.get("Authorization")
            state.tokens.add(authorization)
            if state.refuse is not None and state.refuse in path:
                self.answer(403, json.dumps({"error": f"not with {authorization}"}).encode())
                return
            found = state.post(path, body) if method == "POST" else state.get(path)
            if found is None:
                self.answer(404, b"", method == "HEAD", X_Error_Code="EntryNotFound")
            elif isinstance(found, bytes):
                tag = f'"{hashlib.sha1(found).hexdigest()}"'
                self.answer(200, found, method == "HEAD", ETag=tag, X_Repo_Commit=COMMIT)
            else:
                self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            self.handle_request("GET")

        def do_HEAD(self) -> None:
            self.handle_request("HEAD")

        def do_POST(self) -> None:
            self.handle_request("POST")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
