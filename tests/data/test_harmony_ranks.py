"""openai-harmony's ranks, rebuilt from tokenizer.json: the published file byte for byte, in a cache that heals.

What the cache does is tested with the tiny tokenizer's ranks, as if they were the published ones.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from gptoss_ft import runtime
from gptoss_ft.data import harmony_ranks
from gptoss_ft.data.harmony_ranks import NotO200k, harmony_encoding, write_ranks
from gptoss_ft.errors import MachineError

ROOT = Path(__file__).parents[2]
CHARACTER_OF = bytes_to_unicode()
LOAD_AND_ENCODE = """
import sys
from pathlib import Path
from gptoss_ft.data.harmony_ranks import harmony_encoding
encoding = harmony_encoding(Path(sys.argv[1]))
assert not {"torch", "transformers", "tokenizers"} & set(sys.modules), "heavy imports"
print(encoding.encode("hello <|end|>", allowed_special="all"))
"""
DOWNLOAD = "import openai_harmony; openai_harmony.load_harmony_encoding('HarmonyGptOss')"


class Published(NamedTuple):
    tokenizer_json: Path
    content: bytes


@pytest.fixture
def published(tiny_gpt_oss: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The tiny tokenizer, and the ranks that it gives, taken for the published ones."""
    tokenizer_json = tiny_gpt_oss / "tokenizer.json"
    vocabulary = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]["vocab"]
    byte_of = {character: byte for byte, character in CHARACTER_OF.items()}
    tokens = [bytes(byte_of[character] for character in token) for token in sorted(vocabulary, key=vocabulary.get)]
    content = as_lines(tokens[:1000])
    monkeypatch.setattr(harmony_ranks, "ORDINARY_TOKENS", 1000)
    monkeypatch.setattr(harmony_ranks, "PUBLISHED_SHA256", hashlib.sha256(content).hexdigest())
    return Published(tokenizer_json, content)


def as_lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens))


def start(program: str, argument: Path, cache: Path) -> subprocess.Popen[str]:
    """A process without network, without the variable, and with empty caches of our own and of openai-harmony."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment.pop("TIKTOKEN_ENCODINGS_BASE", None)
    environment |= {
        "GPTOSS_FT_CACHE": str(cache),
        "TIKTOKEN_RS_CACHE_DIR": str(cache / "downloads"),
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program, str(argument)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def cached_files(tokenizer_json: Path) -> set[str]:
    return {"o200k_base.tiktoken", f"rebuilt_from/{hashlib.sha256(tokenizer_json.read_bytes()).hexdigest()}"}


def test_the_real_tokenizer_gives_the_published_file(real_tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = write_ranks(real_tokenizer_folder / "tokenizer.json", tmp_path)
    content = (folder / "o200k_base.tiktoken").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    assert content.startswith(b"IQ== 0\nIg== 1\n")
    assert content.endswith(b"IGNvY29z 199997\n")


def test_processes_at_once_without_network_load_the_encoding_from_a_fresh_cache(
    real_tokenizer_folder: Path, tmp_path: Path
) -> None:
    tokenizer_json = real_tokenizer_folder / "tokenizer.json"
    processes = [start(LOAD_AND_ENCODE, tokenizer_json, tmp_path) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        # From openai-harmony 0.0.8 and the published file.
        assert output == "[24912, 220, 200007]\n"
    assert files_below(tmp_path / "harmony_ranks") == cached_files(tokenizer_json)


def test_openai_harmony_alone_would_download_in_such_a_process(tmp_path: Path) -> None:
    process = start(DOWNLOAD, tmp_path, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error downloading or loading vocab file" in errors


def test_openai_harmony_asks_for_the_file_that_is_written() -> None:
    """A release that wants another name or hash would end in its error for every job."""
    import openai_harmony

    [library] = Path(openai_harmony.__file__).parent.glob("*.so")
    content = library.read_bytes()
    assert harmony_ranks.FILE_NAME.encode() in content
    assert harmony_ranks.PUBLISHED_SHA256.encode() in content


def test_the_alphabet_is_gpt2s() -> None:
    assert harmony_ranks._byte_level_alphabet() == {ord(character): byte for byte, character in CHARACTER_OF.items()}


@given(st.lists(st.binary(min_size=1), unique=True), st.randoms())
def test_any_tokens_become_lines_by_id_whatever_their_order(tokens: list[bytes], random: Random) -> None:
    vocabulary = {"".join(CHARACTER_OF[byte] for byte in token): rank for rank, token in enumerate(tokens)}
    vocabulary["<|return|>"] = 200_002
    items = list(vocabulary.items())
    random.shuffle(items)
    assert harmony_ranks._ranks(dict(items)) == as_lines(tokens)


def test_ranks_are_written_once(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_ranks(published.tokenizer_json, tmp_path)
    assert folder == tmp_path / "harmony_ranks"
    assert (folder / "o200k_base.tiktoken").read_bytes() == published.content
    assert files_below(folder) == cached_files(published.tokenizer_json)
    written = (folder / "o200k_base.tiktoken").stat()
    monkeypatch.setattr(json, "loads", lambda document: pytest.fail("tokenizer.json was parsed again"))
    assert write_ranks(published.tokenizer_json, tmp_path) == folder
    assert (folder / "o200k_base.tiktoken").stat() == written


def test_another_copy_of_the_tokenizer_shares_the_ranks(published: Published, tmp_path: Path) -> None:
    indented = tmp_path / "tokenizer.json"
    document = json.loads(published.tokenizer_json.read_text(encoding="utf-8"))
    indented.write_text(json.dumps(document, indent=4), encoding="utf-8")
    folder = write_ranks(published.tokenizer_json, tmp_path)
    written = (folder / "o200k_base.tiktoken").stat()
    assert write_ranks(indented, tmp_path) == folder
    assert (folder / "o200k_base.tiktoken").stat() == written
    assert files_below(folder) == cached_files(published.tokenizer_json) | cached_files(indented)


@pytest.mark.parametrize("damage", [b"", b"IQ== 0\n", None], ids=["empty", "cut off", "missing"])
def test_a_damaged_file_is_rewritten(published: Published, tmp_path: Path, damage: bytes | None) -> None:
    folder = write_ranks(published.tokenizer_json, tmp_path)
    ranks = folder / "o200k_base.tiktoken"
    if damage is None:
        ranks.unlink()
    else:
        ranks.write_bytes(damage)
    assert write_ranks(published.tokenizer_json, tmp_path) == folder
    assert ranks.read_bytes() == published.content


def test_a_changed_byte_is_noticed_and_a_reader_never_sees_half_a_file(published: Published, tmp_path: Path) -> None:
    ranks = write_ranks(published.tokenizer_json, tmp_path) / "o200k_base.tiktoken"
    changed = published.content.replace(b" 999\n", b" 998\n")
    assert changed != published.content
    ranks.write_bytes(changed)
    with ranks.open("rb") as reader:
        write_ranks(published.tokenizer_json, tmp_path)
        assert reader.read() == changed
    assert ranks.read_bytes() == published.content


def test_a_write_that_fails_leaves_no_litter(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(beside: Path, content: bytes) -> int:
        beside.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="No space left on device"):
        write_ranks(published.tokenizer_json, tmp_path)
    assert files_below(tmp_path) == set()


def test_a_process_that_comes_second_to_the_rename_writes_the_same(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself: another process finishes the file after this one has looked and before it renames."""
    replace = Path.replace

    def beaten(beside: Path, final: Path) -> Path:
        final.write_bytes(beside.read_bytes())
        return replace(beside, final)

    monkeypatch.setattr(Path, "replace", beaten)
    folder = write_ranks(published.tokenizer_json, tmp_path)
    assert (folder / "o200k_base.tiktoken").read_bytes() == published.content
    assert files_below(folder) == cached_files(published.tokenizer_json)


@pytest.mark.parametrize("is_warm", [False, True])
def test_another_tokenizer_is_refused_whatever_the_cache_holds(
    published: Published, tmp_path: Path, is_warm: bool
) -> None:
    document = json.loads(published.tokenizer_json.read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary["!"], vocabulary["A"] = vocabulary["A"], vocabulary["!"]
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(document), encoding="utf-8")
    if is_warm:
        write_ranks(published.tokenizer_json, tmp_path)
    before = files_below(tmp_path)
    with pytest.raises(NotO200k, match=r"the ordinary tokens of .*tokenizer\.json are not o200k's"):
        write_ranks(other, tmp_path)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("model", ["tiny_gpt_oss", "tiny_llama"])
def test_a_tiny_model_has_no_encoding(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", "/theirs")
    with pytest.raises(NotO200k, match="are not o200k's"):
        harmony_encoding(request.getfixturevalue(model) / "tokenizer.json")
    assert os.environ["TIKTOKEN_ENCODINGS_BASE"] == "/theirs"


@pytest.mark.parametrize(
    "document",
    [
        '{"model": {"vocab": {"▁the": 0}}}',
        '{"model": {"vocab": {"the": null}}}',
        '{"model": {"vocab": [["the", -1.5]]}}',
        '{"model": {"vocab": {}}}',
        '{"model": {}}',
        "[]",
        "not JSON",
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(document: str, tmp_path: Path) -> None:
    tokenizer_json = tmp_path / "tokenizer.json"
    tokenizer_json.write_text(document, encoding="utf-8")
    with pytest.raises(NotO200k, match=r"tokenizer\.json"):
        write_ranks(tokenizer_json, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_the_machines_error(published: Published, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("")
    with pytest.raises(MachineError, match="openai-harmony's ranks cannot be written to") as caught:
        write_ranks(published.tokenizer_json, cache)
    assert "GPTOSS_FT_CACHE" in caught.value.cure


@pytest.mark.parametrize("theirs", ["", "/nowhere"])
def test_openai_harmony_is_sent_to_our_folder(theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", theirs)
    monkeypatch.chdir(tmp_path)
    runtime.use_harmony_ranks(Path("harmony_ranks"))
    assert os.environ["TIKTOKEN_ENCODINGS_BASE"] == str(tmp_path / "harmony_ranks")
