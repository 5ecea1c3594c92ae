"""A small server that speaks as the Hugging Face hub does: repositories of models in memory, over real HTTP."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repo:
    """`commits` hold the files of each; `branches` the commits that they are at."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def at(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Hub:
    """What the server holds, and which requests it was sent."""

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def writes(self) -> list[str]:
        return [one for one in self.requests if one.startswith("POST") and "validate-yaml" not in one]


def app_of(hub: Hub) -> FastAPI:
    app = FastAPI()

    def refused(status: int, code: str, text: str) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers={"X-Error-Code": code, "X-Error-Message": text})

    @app.middleware("http")
    async def check_token(request: Request, answer: Any) -> Any:
        hub.requests.append(f"{request.method} {request.url.path}")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.method == "POST" and token != WRITER:
            status = 403 if token == READER else 401
            return JSONResponse({"error": "Forbidden" if status == 403 else "Invalid username or password."}, status)
        return await answer(request)

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        body = await request.json()
        name = f"{body['organization']}/{body['name']}"
        if name in hub.repos:
            return JSONResponse({"error": "exists", "url": f"{hub.address}/{name}"}, 409)
        hub.repos[name] = Repo(private=body.get("visibility") == "private" or bool(body.get("private")))
        hub.repos[name].commit("main", {})
        return {"url": f"{hub.address}/{name}"}

    @app.post("/api/validate-yaml")
    async def validate() -> Any:
        return {"errors": [], "warnings": []}

    @app.post("/api/models/{owner}/{name}/branch/{branch}")
    async def branch(owner: str, name: str, branch: str) -> Any:
        repo = hub.repos[f"{owner}/{name}"]
        if branch in repo.branches:
            return JSONResponse({"error": "exists"}, 409)
        repo.branches[branch] = repo.branches["main"]
        return {}

    @app.post("/api/models/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> Any:
        files = (await request.json())["files"]
        return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}

    @app.post("/api/models/{owner}/{name}/commit/{revision}")
    async def commit(owner: str, name: str, revision: str, request: Request) -> Any:
        repo = hub.repos[f"{owner}/{name}"]
        files = dict(repo.commits[repo.branches[revision]])
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        number = f"refs/pr/{len(repo.branches)}" if request.query_params.get("create_pr") else ""
        sha = repo.commit(number or revision, files)
        pull_request = {"pullRequestUrl": f"{hub.address}/{owner}/{name}/discussions/1"} if number else {}
        return {"commitUrl": f"{hub.address}/{owner}/{name}/commit/{sha}", "commitOid": sha, **pull_request}

    @app.get("/api/models/{owner}/{name}")
    @app.get("/api/models/{owner}/{name}/revision/{revision:path}")
    async def info(owner: str, name: str, revision: str = "main") -> Any:
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return refused(404, "RepoNotFound", "Repository not found")
        sha = repo.at(revision)
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        return {"id": f"{owner}/{name}", "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}

    @app.get("/api/models/{owner}/{name}/tree/{revision:path}")
    async def tree(owner: str, name: str, revision: str) -> Any:
        repo = hub.repos[f"{owner}/{name}"]
        sha = repo.at(revision)
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return [
            {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
            for path, data in repo.commits[sha].items()
        ]

    @app.api_route("/{owner}/{name}/resolve/{rest:path}", methods=["GET", "HEAD"])
    async def resolve(owner: str, name: str, rest: str, request: Request) -> Any:
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return refused(404, "RepoNotFound", "Repository not found")
        revision = next((one for one in repo.branches if rest.startswith(f"{one}/")), rest.partition("/")[0])
        sha, path = repo.at(revision), rest.removeprefix(f"{revision}/")
        if sha is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repo.commits[sha].get(path)
        if data is None:
            answer = refused(404, "EntryNotFound", "Entry not found")
            answer.headers["X-Repo-Commit"] = sha
            return answer
        headers = {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": sha, "Content-Length": str(len(data))}
        return Response(data if request.method == "GET" else b"", headers=headers)

    return app


def _blob(data: bytes) -> str:
    """The name that git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port, until the block ends."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(app_of(hub), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        hub.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield hub
    finally:
        server.should_exit = True
        thread.join()
