"""A hub of a test's own, on 127.0.0.1: what huggingface_hub 0.36 and 2 ask of the real one to fetch files and to upload a folder.

It keeps repositories in memory, writes down what it is asked for, and can fail in the ways in which networks and hubs do.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a-token-that-no-message-may-show"
USER = "tester"
LARGE_SUFFIXES = (".onnx", ".onnx_data", ".npz", ".safetensors")  # which the hub keeps in LFS


@dataclass
class Repository:
    """The files of each commit by path, the commit of each branch and tag, and who may read them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], *, branch: str = "main") -> str:
        """A new commit with these files alone, on a branch; its hash."""
        told = json.dumps([len(self.commits), {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit

    def found(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a whole hash."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def head(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.refs["main"]]


class Hub:
    """The server. `asked` are the requests so far as `METHOD /path`; `faults` say of a path's end how it is answered wrongly:
    an HTTP status, `slow`, `cut` (half of a file, then the connection ends), `size` (as if the file were a terabyte).
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.faults: dict[str, int | str] = {}
        self.lfs: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.located: dict[str, str] = {}  # which file was asked for when a hash was given in its place
        self.storage_tokens: list[str] = []  # sent to where no token belongs
        self.before_answer: dict[str, Callable[[], object]] = {}  # called once, when a path that ends so is asked for
        self.url = self.storage = ""

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> str:
        """A repository with one commit; its hash."""
        self.repositories[name] = Repository(**settings)
        return self.repositories[name].commit(files)

    def files_asked(self, method: str = "GET") -> list[str]:
        """The paths in repositories that were downloaded, in order, each once; of large ones the hash was asked for, which a HEAD gave."""
        found = []
        for line in self.asked:
            asked, _, path = line.partition(" ")
            if asked == method and "/resolve/" in path:
                found.append(unquote(path.split("/resolve/", 1)[1].split("/", 1)[1]))
            elif asked == method and path.startswith("/lfs/"):
                found.append(self.located[path.removeprefix("/lfs/")])
        return list(dict.fromkeys(found))

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The variables with which a process uses this hub and no other, with a cache of its own."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return own | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"} | more


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that is served until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage = f"http://localhost:{server.server_address[1]}"  # another host to a client, as the hub's large files have one
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of_folder(folder: Path) -> dict[str, bytes]:
    """What a repository holds that a folder was uploaded to."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class RefusedError(Exception):
    """An answer that is an error: status, the hub's code for it, the commit that it is about, and what the document says more."""

    def __init__(self, status: int, code: str = "", *, commit: str = "", **more: str) -> None:
        super().__init__(status)
        self.status, self.more = status, more
        self.headers = {"X-Error-Code": code, "X-Error-Message": f"refused ({status})"} if code else {}
        self.headers |= {"X-Repo-Commit": commit} if commit else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.served, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        for end in [end for end in hub.before_answer if f"{self.command} {path}".endswith(end)]:
            hub.before_answer.pop(end)()
        fault = next((fault for end, fault in hub.faults.items() if f"{self.command} {path}".endswith(end)), None)
        try:
            if isinstance(fault, int):
                raise RefusedError(fault)
            if fault == "slow":
                threading.Event().wait(6)
            self._route(path, body, fault)
        except RefusedError as refused:
            self._send(json.dumps({"error": f"refused ({refused.status})", **refused.more}).encode(), refused.status, **refused.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, body: bytes, fault: object) -> None:
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": self._user(), "auth": {"type": "access_token"}})
        elif path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.startswith("/lfs/") and self.command == "PUT":
            self.served.lfs[path.removeprefix("/lfs/")] = body
            self._send(b"")
        elif path.startswith("/lfs/"):
            digest = path.removeprefix("/lfs/")
            self.served.storage_tokens += [self.headers["Authorization"]] if "Authorization" in self.headers else []
            stored = [data for item in self.served.repositories.values() for files in item.commits.values() for data in files.values()]
            self._file(next(data for data in stored if hashlib.sha256(data).hexdigest() == digest), fault, ETag=f'"{digest}"')
        elif match := re.fullmatch(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path):
            self._resolve(match["id"], unquote(match["revision"]), unquote(match["path"]), fault)
        elif match := re.fullmatch(r"/(?P<id>.+)\.git/info/lfs/objects/batch", path):
            self._repository(match["id"], write=True)
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.served.url}/lfs/{item['oid']}"}}} for item in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")
        elif match := re.fullmatch(
            r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)(?:/(?P<verb>revision|tree|commits|preupload|commit)/(?P<revision>[^/]+))?", path
        ):
            self._model(match["id"], match["verb"], unquote(match["revision"] or "main"), body)
        else:
            raise RefusedError(404)

    def _user(self) -> str:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in {TOKEN, *self.served.tokens}:
            raise RefusedError(401)
        return USER

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        repository = self.served.repositories.get(name)
        if repository is None:
            raise RefusedError(401 if not self.headers.get("Authorization") else 404, "RepoNotFound")
        if repository.private or write:
            try:
                self._user()
            except RefusedError:
                raise RefusedError(401, "RepoNotFound") from None
        if repository.gated:
            raise RefusedError(403, "GatedRepo")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.found(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound")
        return commit

    def _resolve(self, name: str, revision: str, path: str, fault: object) -> None:
        repository = self._repository(name)
        commit = self._commit_of(repository, revision)
        data = repository.commits[commit].get(path)
        if data is None:
            raise RefusedError(404, "EntryNotFound", commit=commit)
        digest = hashlib.sha256(data).hexdigest()
        if path.endswith(LARGE_SUFFIXES):
            self.served.located[digest] = path
            linked = {"X-Linked-Size": str(10**12 if fault == "size" else len(data)), "X-Linked-Etag": f'"{digest}"'}
            self._send(b"", 302, Location=f"{self.served.storage}/lfs/{digest}", **{"X-Repo-Commit": commit}, **linked)
        else:
            git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            self._file(data, fault, ETag=f'"{git}"', **{"X-Repo-Commit": commit})

    def _model(self, name: str, verb: str | None, revision: str, body: bytes) -> None:
        repository = self._repository(name, write=verb in ("preupload", "commit"))
        if verb == "commits":
            listed = [
                {"id": commit, "title": "", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
                for commit in repository.commits
            ]
            self._json(listed)
        elif verb == "tree":
            files = repository.commits[self._commit_of(repository, revision)] if repository.commits else {}
            self._json([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()])
        elif verb == "preupload":
            files = [
                {"path": item["path"], "uploadMode": "lfs" if item["path"].endswith(LARGE_SUFFIXES) else "regular", "shouldIgnore": False}
                for item in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif verb == "commit":
            self._commit(name, repository, body)
        else:
            commit = self._commit_of(repository, revision)
            siblings = [{"rfilename": path} for path in repository.commits[commit]]
            self._json({"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def _create(self, wanted: dict[str, object]) -> None:
        name = f"{wanted.get('organization') or self._user()}/{wanted['name']}"
        self._user()
        if name in self.served.repositories:
            raise RefusedError(409, url=f"{self.served.url}/{name}")
        repository = self.served.repositories[name] = Repository(
            private=bool(wanted.get("private") or wanted.get("visibility") == "private")
        )
        repository.commit({".gitattributes": b"*.onnx filter=lfs\n"})
        self._json({"url": f"{self.served.url}/{name}", "name": name})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        files = dict(repository.head)
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit") not in (None, repository.refs["main"]):
                raise RefusedError(412)
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.served.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.served.url}/{name}/commit/{commit}"})

    def _file(self, data: bytes, fault: object, **headers: str) -> None:
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if begin and int(begin[1]):
            self._send(data[int(begin[1]) :], 206, fault, **headers)
        else:
            self._send(data, 200, fault, **headers)

    def _json(self, document: object, kind: str = "application/json") -> None:
        self._send(json.dumps(document).encode(), **{"Content-Type": kind})

    def _send(self, data: bytes, status: int = 200, fault: object = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(10**12 if fault == "size" else len(data)))
        self.end_headers()
        if self.command != "HEAD" and fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(data)
