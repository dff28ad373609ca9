"""Whether what lies in the hub's cache is what the hub has.

The cache names a file's content by the ETag that it came with (`blobs/ETAG`). Hugging Face's own is the content's hash:
SHA-256, or for small files git's SHA-1. A mirror's may be anything: then the hub's list of files is asked, which names
the hashes, too. A file that nothing is known of is used, and the log says that it was not compared.
"""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptoss_ft.reporting.console import TOLD
from gptoss_ft.runtime import cache_folder, hub_cache

Repositories = Literal["models", "datasets"]

OWN_HUB = "https://huggingface.co"
SHA256 = re.compile("[0-9a-f]{64}")
GIT_SHA1 = re.compile("[0-9a-f]{40}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    """`path` of a repository's snapshot leads to `blob`, whose state was `state` before it was read."""

    commit: str
    path: Path
    name: str
    blob: Path
    state: str


def remove_damaged(repository: str, kind: Repositories) -> list[str]:
    """Compare what the cache has of a repository with the hub's hashes, each file once, and take out what differs.
    Returns those files' names. Another process may do the same.

    What was compared is noted in our own cache folder.
    """
    files = _not_yet_compared(hub_cache() / f"{kind}--{repository.replace('/', '--')}" / "snapshots")
    with ThreadPoolExecutor(max_workers=4) as threads:
        right = list(threads.map(lambda file: _has_hash(file, file.blob.name), files))
    for file in (file for file, is_right in zip(files, right, strict=True) if is_right):
        _note(file)
    doubtful = [file for file, is_right in zip(files, right, strict=True) if not is_right]
    damaged = []
    for commit in sorted({file.commit for file in doubtful}):
        of_commit = [file for file in doubtful if file.commit == commit]
        listed = _listed_hashes(repository, kind, commit, of_commit)
        damaged += [file.name for file in of_commit if _is_damaged(file, listed.get(file.name)) and _removed(file)]
    return sorted(damaged)


def _not_yet_compared(snapshots: Path) -> list[_File]:
    files = []
    for path in snapshots.glob("*/**/*"):
        commit, *inside = path.relative_to(snapshots).parts
        try:
            blob = path.parent / os.readlink(path)
            file = _File(commit, path, "/".join(inside), blob, _state(blob))
        except OSError:
            # No link, or another process has just taken it out.
            continue
        if blob.parent.name == "blobs" and not _is_noted(file):
            files.append(file)
    return files


def _is_damaged(file: _File, listed: str | None) -> bool:
    """Of a file whose content has not the hash that its ETag would be: whether it is another's than the hub's."""
    if listed is not None and listed != file.blob.name:
        if not _has_hash(file, listed):
            return True
        _note(file)
        return False
    # In the form of a SHA-256, or from Hugging Face itself, an ETag is the content's hash.
    is_hash = SHA256.fullmatch(file.blob.name) or (GIT_SHA1.fullmatch(file.blob.name) and _is_own_hub())
    if listed is not None or is_hash:
        return True
    _log.warning("%s was not compared: its ETag is no hash, and there is no list of hashes", file.path)
    return False


def _is_own_hub() -> bool:
    from huggingface_hub import constants

    return bool(constants.ENDPOINT == OWN_HUB)


def _listed_hashes(repository: str, kind: Repositories, commit: str, files: Sequence[_File]) -> dict[str, str]:
    """The hashes by file that the hub lists, in the form of `_has_hash`; none where it does not answer, or what is no
    list of files."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = HfApi().get_paths_info(
            repository, [file.name for file in files], revision=commit, repo_type=kind.removesuffix("s")
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        # A mirror's answer, which the client cannot take apart.
        return {}
    there = [entry for entry in entries if isinstance(entry, RepoFile)]
    listed = [(entry.path, entry.lfs.sha256 if entry.lfs is not None else entry.blob_id) for entry in there]
    return {path: found for path, found in listed if isinstance(path, str) and _is_hash(found)}


def _is_hash(found: object) -> bool:
    return isinstance(found, str) and bool(SHA256.fullmatch(found) or GIT_SHA1.fullmatch(found))


def _has_hash(file: _File, wanted: str) -> bool:
    """Whether the file's content has this SHA-256 or git's SHA-1; so has one that is no longer there."""
    try:
        with file.blob.open("rb") as stream:
            if SHA256.fullmatch(wanted):
                return hashlib.file_digest(stream, "sha256").hexdigest() == wanted
            if GIT_SHA1.fullmatch(wanted) is None:
                return False
            digest = hashlib.sha1(b"blob %d\0" % os.fstat(stream.fileno()).st_size, usedforsecurity=False)
            while piece := stream.read(2**20):
                digest.update(piece)
    except FileNotFoundError:
        return True
    return digest.hexdigest() == wanted


def _removed(file: _File) -> bool:
    """Take the file out, unless another process has fetched it again: what is there now is newer."""
    try:
        if _state(file.blob) != file.state:
            return False
    except FileNotFoundError:
        # The other process has come as far as this.
        return True
    _log.warning("%s is damaged and is fetched again", file.path, extra=TOLD)
    file.path.unlink(missing_ok=True)
    file.blob.unlink(missing_ok=True)
    return True


def _is_noted(file: _File) -> bool:
    try:
        return _note_of(file).read_text(encoding="ascii") == file.state
    except OSError:
        return False


def _note(file: _File) -> None:
    note = _note_of(file)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(file.state, encoding="ascii")


def _note_of(file: _File) -> Path:
    return cache_folder() / "compared" / file.blob.name


def _state(blob: Path) -> str:
    """What changes when the file is written again."""
    stat = blob.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
