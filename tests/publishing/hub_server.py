"""A hub on this machine: the endpoints that huggingface_hub 1.33 calls to make a repository and upload a folder.

It keeps what it is sent, answers as the hub does, and does what a test asks of it instead: an error, or a connection
that is cut. Xet storage is not spoken: clients are told HF_HUB_DISABLE_XET=1 and use LFS.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from local_hub import HubHandler, LocalHub, serving

TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
LICENCES = {"apache-2.0", "mit", "llama3.2", "cc-by-4.0", "other"}
ID = r"(?P<id>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class HubServer(LocalHub):
    """The hub's state. `orgs` are the organisations of the token's account `user`; `read_only` repositories refuse to
    be written to; `role` is the token's; a `full` hub stores no more large files. A fault's answer is a status, or
    `reset`."""

    user: str = "ann"
    orgs: tuple[str, ...] = ("lab",)
    role: str = "write"
    full: bool = False
    read_only: set[str] = field(default_factory=set)
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, status: int, message: str = "", code: str = "", **body: Any) -> None:
        self.status, self.headers = status, {"X-Error-Message": message, "X-Error-Code": code}
        self.body = {"error": message, **body}


@contextmanager
def hub_server() -> Iterator[HubServer]:
    hub = HubServer()
    with serving(hub, _Handler):
        yield hub


class _Handler(HubHandler):
    hub: HubServer

    def _handle(self) -> None:
        request = self.received()
        with self.hub.lock:
            fault = self.hub.take(request)
            if fault is None:
                try:
                    found = answer(self.hub, request.method, request.path, request.token, request.body)
                    self._send(200, found, {})
                except Refusal as refusal:
                    self._send(refusal.status, refusal.body, refusal.headers)
            elif isinstance(fault.answer, int):
                self._send(fault.answer, {"error": "a fault"}, fault.headers)
            else:
                self.reset()

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _send(self, status: int, content: object, headers: dict[str, str]) -> None:
        self.send(status, json.dumps(content).encode(), {**headers, "Content-Type": "application/json"})


def answer(hub: HubServer, method: str, path: str, token: str | None, body: bytes) -> Any:
    if put := re.fullmatch(r"/objects/(\w{64})", path):
        # Storage knows no token: its address is signed.
        assert method == "PUT" and hashlib.sha256(body).hexdigest() == put[1]
        hub.objects[put[1]] = body
        return {}
    if token is not None and token != TOKEN:
        raise Refusal(401, "Invalid credentials in Authorization header")
    for verb, pattern, endpoint in ENDPOINTS:
        if verb == method and (match := re.fullmatch(pattern, path)):
            return endpoint(hub, token, json_lines(body), **match.groupdict())
    raise Refusal(404, "Not Found", "RepoNotFound" if path.startswith("/api/") else "EntryNotFound")


def json_lines(body: bytes) -> Any:
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else lines


def whoami(hub: HubServer, token: str | None, body: Any) -> Any:
    if token is None:
        raise Refusal(401, "Invalid username or password.")
    return {
        "type": "user",
        "name": hub.user,
        "orgs": [{"name": name} for name in hub.orgs],
        "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": hub.role}},
    }


def create(hub: HubServer, token: str | None, body: Any) -> Any:
    owner = body.get("organization") or hub.user
    repo_id = f"{owner}/{body['name']}"
    if token is None or owner not in (hub.user, *hub.orgs) or hub.role == "read":
        raise Refusal(403, "You don't have the rights to create a model under this namespace")
    if repo_id in hub.repositories:
        raise Refusal(409, "You already created this model repo", url=f"{hub.address}/{repo_id}")
    hub.repositories[repo_id] = Repository(body.get("visibility") == "private" or body.get("private") is True)
    return {"url": f"{hub.address}/{repo_id}", "name": repo_id}


def _repository(hub: HubServer, token: str | None, repo_id: str, write: bool = False) -> Repository:
    found = hub.repositories.get(repo_id)
    if found is None or (found.private and token is None):
        raise Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
    if write and (token is None or repo_id in hub.read_only):
        raise Refusal(403, "Forbidden: you don't have write access")
    return found


def can_write(hub: HubServer, token: str | None, body: Any, id: str) -> Any:
    _repository(hub, token, id, write=True)
    return {}


def info(hub: HubServer, token: str | None, body: Any, id: str, **_: str) -> Any:
    if id in hub.licences:
        return {"id": id, "private": False, "cardData": {"license": hub.licences[id]}, "siblings": [], "tags": []}
    found = _repository(hub, token, id)
    return {"id": id, "private": found.private, "sha": f"{len(found.commits):040d}", "siblings": [], "tags": []}


def validate_yaml(hub: HubServer, token: str | None, body: Any) -> Any:
    """Rules of the hub's own check that a card of ours could break."""
    header = re.match(r"---\n(.*?)\n---\n", body["content"], re.DOTALL)
    errors = []
    content = yaml.safe_load(header[1]) if header else None
    if not isinstance(content, dict):
        raise Refusal(400, errors=[{"message": "empty or missing yaml metadata"}], warnings=[])
    if (licence := content.get("license")) is not None and licence not in LICENCES:
        errors.append('"license" must be one of [apache-2.0, …]')
    for key in ("tags", "datasets"):
        values = content.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            errors.append(f'"{key}" must be an array of strings')
    bases = content.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(ID, base):
            errors.append(f'"base_model" with value "{base}" is not valid')
    if content.get("base_model_relation", "adapter") not in ("adapter", "finetune", "merge", "quantized"):
        errors.append('"base_model_relation" is not valid')
    if errors:
        raise Refusal(400, errors=[{"message": message} for message in errors], warnings=[])
    return {"errors": [], "warnings": []}


def preupload(hub: HubServer, token: str | None, body: Any, id: str) -> Any:
    found = _repository(hub, token, id, write=True)
    files = []
    for file in body["files"]:
        is_lfs = file["path"].endswith((".safetensors", ".bin", ".pt")) or file["size"] > 10_000_000
        files.append(
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_lfs else "regular",
                "shouldIgnore": False,
                "oid": _oid(found.files.get(file["path"]), is_lfs),
            }
        )
    return {"files": files}


def _oid(content: bytes | None, is_lfs: bool) -> str | None:
    if content is None:
        return None
    if is_lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_batch(hub: HubServer, token: str | None, body: Any, id: str) -> Any:
    _repository(hub, token, id, write=True)
    objects = []
    for wanted in body["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.objects and hub.full:
            entry["error"] = {"code": 422, "message": "Storage quota exceeded"}
        elif wanted["oid"] not in hub.objects:
            entry["actions"] = {"upload": {"href": f"{hub.address}/objects/{wanted['oid']}"}}
        objects.append(entry)
    return {"transfer": "basic", "objects": objects}


def commit(hub: HubServer, token: str | None, body: Any, id: str) -> Any:
    found = _repository(hub, token, id, write=True)
    lines = body if isinstance(body, list) else [body]
    paths = []
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            found.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            found.files[value["path"]] = hub.objects[value["oid"]]
        else:
            assert line["key"] == "header"
            continue
        paths.append(value["path"])
    found.commits.append({**lines[0]["value"], "paths": sorted(paths)})
    sha = f"{len(found.commits):040d}"
    return {"commitUrl": f"{hub.address}/{id}/commit/{sha}", "commitOid": sha, "success": True}


ENDPOINTS = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", f"/api/models/{ID}/auth-check/write", can_write),
    ("GET", rf"/api/(?:models|datasets)/{ID}(?:/revision/main)?", info),
    ("POST", f"/api/models/{ID}/preupload/main", preupload),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", f"/api/models/{ID}/commit/main", commit),
)
