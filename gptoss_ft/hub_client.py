"""Downloads that go on: what the hub's client does not try again, and whether what arrived is what was sent.

huggingface_hub 1.33 tries HEAD requests and listings again, and goes on with a file whose connection was closed or
timed out. It does not try again what the hub answers with 5xx to a GET, begins a file anew whose connection was reset,
and compares a file's length but not its hash.
"""

import functools
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from gptoss_ft.errors import HubError
from gptoss_ft.hub_errors import causes
from gptoss_ft.runtime import cache_folder, hub_cache

# Seconds before each further try. A hub that is down for longer is for a person to look at.
WAITS = (2.0, 4.0, 8.0, 16.0)
# The hub counts requests in windows of five minutes.
LONGEST_WAIT = 300.0
BROKEN_OFF = (
    httpx.ReadError, httpx.WriteError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.RemoteProtocolError,
)  # fmt: skip
TRANSIENT = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


def patiently(call: Callable[[], Answer]) -> Answer:
    """The answer of `call`, asked again after a while where hub or network failed in a way that passes. The last error
    is raised as it is; one that does not pass is the last."""
    _go_on_after_reset()
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            passing = _passing(error, wait)
            if passing is None:
                raise
            why, seconds = passing
            _log.warning("%s; trying again in %.0f s", why, seconds)
            time.sleep(seconds)
    return call()


def _passing(error: Exception, wait: float) -> tuple[str, float] | None:
    """What went wrong, and the seconds after which to ask again: `wait` unless the hub names its own. None where that
    would be of no use."""
    from huggingface_hub.errors import HfHubHTTPError

    for link in causes(error):
        if isinstance(link, HfHubHTTPError):
            response = link.response
            # The client has tried a HEAD again itself.
            if response.status_code not in TRANSIENT or response.request.method == "HEAD":
                return None
            wait = _asked_to_wait(response.headers) or wait
            return (f"the hub answered {response.status_code}", wait) if wait <= LONGEST_WAIT else None
        # Not where no connection came about: no network is told at once.
        if isinstance(link, BROKEN_OFF):
            return "the connection to the hub broke off", wait
        if isinstance(link, OSError) and str(link).startswith("Consistency check failed"):
            return "a file arrived in part", wait
    return None


def _asked_to_wait(headers: httpx.Headers) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)
    after = headers.get("Retry-After", "")
    return float(after) if after.isdigit() else None


class _Body(httpx.SyncByteStream):
    """An answer's body, whose connection being reset reads like its being closed: that the client goes on after."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except httpx.ReadError as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    def close(self) -> None:
        self._body.close()


class _Client(httpx.Client):
    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        response = super().send(request, stream=stream, **options)
        if stream and isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Body(response.stream)
        return response


@functools.cache
def _go_on_after_reset() -> None:
    """Have huggingface_hub's own client, with its hooks, see a reset connection as one it may go on after."""
    from huggingface_hub import get_session, set_client_factory

    hooks = get_session().event_hooks
    set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=None))


def fetch_snapshot(repository: str, **options: Any) -> Path:
    """As huggingface_hub's `snapshot_download` of a model, patiently, and with the hash of every file compared with
    the hub's. `HubError` for a file that arrived damaged twice."""
    from huggingface_hub import snapshot_download

    def download() -> Path:
        return Path(patiently(lambda: snapshot_download(repository, **options)))

    return unharmed(repository, "models", download, download)


def unharmed(
    name: str, kind: Literal["models", "datasets"], fetch: Callable[[], Answer], again: Callable[[], Answer]
) -> Answer:
    """What `fetch` makes of a repository's files, or `again` where one of them had arrived damaged. `HubError` where
    one is damaged then, too."""

    def damaged() -> list[str]:
        return remove_damaged((hub_cache() / f"{kind}--{name.replace('/', '--')}").glob("snapshots/**/*"))

    try:
        fetched = fetch()
    except Exception:
        # Reading a damaged file can fail in any way.
        if not damaged():
            raise
    else:
        if not damaged():
            return fetched
    fetched = again()
    if names := damaged():
        raise HubError(
            f"{', '.join(names)} of {name} arrived damaged twice",
            "Try again, without a proxy or mirror that changes files (https_proxy, HF_ENDPOINT).",
        )
    return fetched


def remove_damaged(files: Iterable[Path]) -> list[str]:
    """Compare files of the hub's cache with their hashes, once each, and take out those that differ. Returns their
    names.

    The cache names a file's content (`blobs/HASH`) by the SHA-256 that the hub has of it, or for small files by git's
    SHA-1; what is no link to such a name is left alone. What was compared is noted in our own cache folder.
    """
    blobs = {path: path.parent / os.readlink(path) for path in files if path.is_symlink() and path.exists()}
    unknown = {path: blob for path, blob in blobs.items() if blob.parent.name == "blobs" and not _is_noted(blob)}
    with ThreadPoolExecutor(max_workers=4) as threads:
        right = dict(zip(unknown, threads.map(_is_right, unknown.values()), strict=True))
    for path, blob in unknown.items():
        if right[path]:
            _note(blob)
        else:
            _log.warning("%s is damaged and is fetched again", path)
            path.unlink()
            blob.unlink(missing_ok=True)
    return sorted(path.name for path, is_right in right.items() if not is_right)


def _is_right(blob: Path) -> bool:
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    with blob.open("rb") as stream:
        if len(blob.name) == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest() == blob.name


def _is_noted(blob: Path) -> bool:
    try:
        return _note_of(blob).read_text(encoding="ascii") == _state(blob)
    except OSError:
        return False


def _note(blob: Path) -> None:
    note = _note_of(blob)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(_state(blob), encoding="ascii")


def _note_of(blob: Path) -> Path:
    return cache_folder() / "compared" / blob.name


def _state(blob: Path) -> str:
    """What changes when the file is written again."""
    stat = blob.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
