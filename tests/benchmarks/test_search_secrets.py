"""Tokens are found in whatever form they were left; and one of the jobs that must leave none."""

import base64
import gzip
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.parse
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))
marked = importlib.import_module("marked_tokens")
TOKEN = marked.TOKENS["SERVICE_API_KEY"]


@pytest.mark.parametrize(
    "content",
    [
        f"key={TOKEN};", f"https://host/?key={urllib.parse.quote(TOKEN, safe='')}",
        *(base64.b64encode(f"{'ann:'[:before]}{TOKEN}rest".encode()).decode() for before in range(5)),
        base64.urlsafe_b64encode(f"?{TOKEN}".encode()).decode(),
    ],
)  # fmt: skip
def test_every_form_of_a_token_is_found(content: str) -> None:
    search = marked.Search()
    assert search.look_at(f"before {content} after".encode(), "a file")
    assert search.found == ["a file: SERVICE_API_KEY"]


def test_what_holds_no_token_is_let_through() -> None:
    search = marked.Search()
    assert not search.look_at(f"{TOKEN[:-1]} {base64.b64encode(TOKEN[:-4].encode()).decode()}".encode(), "a file")


def test_a_token_across_two_pieces_of_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marked, "_CHUNK", 16)
    (tmp_path / "file").write_text("x" * 10 + TOKEN)
    search = marked.Search()
    search.look_into(tmp_path / "file", "file")
    assert search.found == ["file: SERVICE_API_KEY"]


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_every_file_of_every_layer_is_looked_into() -> None:
    layer = archive({"etc/good": b"nothing", "etc/bad": TOKEN.encode()})
    image = archive(
        {
            "blobs/sha256/plain": layer,
            "blobs/sha256/packed": gzip.compress(layer),
            "blobs/sha256/config": json.dumps({"Env": [f"KEY={TOKEN}"]}).encode(),
            "old/layer.tar": layer,
            "manifest.json": b"[]",
        }
    )
    search = marked.Search()
    marked._search_archive(io.BytesIO(image), search, "image")
    assert search.found == [
        "image/blobs/sha256/plain/etc/bad: SERVICE_API_KEY",
        "image/blobs/sha256/packed/etc/bad: SERVICE_API_KEY",
        "image/blobs/sha256/config: SERVICE_API_KEY",
        "image/old/layer.tar/etc/bad: SERVICE_API_KEY",
    ]
    assert search.files == 8
    with pytest.raises(RuntimeError, match="zstd"):
        marked._search_archive(io.BytesIO(archive({"blobs/sha256/z": b"\x28\xb5\x2f\xfd..."})), search, "image")


def test_a_job_whose_token_is_wrong_leaves_none(tmp_path: Path) -> None:
    command = [
        sys.executable, str(REPOSITORY / "benchmarks" / "search_secrets.py"), "--only", "wrong token", "bad data",
        "--output", str(tmp_path / "results.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(result["name"], result["exit_code"]) for result in results] == [("wrong token", 5), ("bad data", 3)]
    assert all(result["command_lines"] and not result["found"] for result in results)
