"""openai-harmony's vocabulary file, rebuilt from the model's own tokenizer.json, so that nothing is downloaded.

A ranks file holds a line `base64(token's bytes) id` for each ordinary token of o200k, by id. The tokenizer.json of
gpt-oss holds the same tokens, spelt in the byte-level alphabet that GPT-2's vocab.json introduced.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding

from gptoss_ft import runtime
from gptoss_ft.errors import MachineError

# The name and the hash that openai-harmony 0.0.8 asks for; the hash is of the file that OpenAI publishes.
FILE_NAME = "o200k_base.tiktoken"
PUBLISHED_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# Special tokens have the ids from here on; openai-harmony knows them by itself.
ORDINARY_TOKENS = 199_998


class NotO200k(ValueError):
    """The tokenizer's ordinary tokens are not o200k's."""


def harmony_encoding(tokenizer_json: Path) -> HarmonyEncoding:
    """openai-harmony's own encoding for gpt-oss, loaded from the ranks in our cache; nothing is downloaded.

    Raises as `write_ranks` does.
    """
    runtime.use_harmony_ranks(write_ranks(tokenizer_json, runtime.cache_folder()))
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def encoding_at_hand() -> HarmonyEncoding | None:
    """The same from ranks that are there already, in the folder that openai-harmony is told of or in our cache; None
    where neither holds them."""
    for folder in (runtime.harmony_ranks(), runtime.cache_folder() / "harmony_ranks"):
        if folder is not None and _is_whole(folder / FILE_NAME):
            runtime.use_harmony_ranks(folder)
            return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    return None


def write_ranks(tokenizer_json: Path, cache: Path) -> Path:
    """Write o200k_base.tiktoken into `cache`/harmony_ranks, unless it is there whole, and return that folder.

    Any number of processes may do this at once: each writes beside the final path and renames.

    Raises:
        NotO200k: these ranks are not this tokenizer's, whatever the cache holds.
        MachineError: `cache` cannot be read or written.
    """
    folder = cache / "harmony_ranks"
    ranks = folder / FILE_NAME
    document = tokenizer_json.read_bytes()
    # An empty file for each tokenizer.json that gave these ranks: hashing one takes 0.02 s, parsing it 0.8 s.
    known = folder / "rebuilt_from" / hashlib.sha256(document).hexdigest()
    try:
        if not (known.exists() and _is_whole(ranks)):
            content = _published_ranks(document, tokenizer_json)
            known.parent.mkdir(parents=True, exist_ok=True)
            if not _is_whole(ranks):
                _write(content, ranks)
            known.touch()
    except OSError as error:
        raise MachineError(
            f"openai-harmony's ranks cannot be written to {cache}: {error}",
            "Set GPTOSS_FT_CACHE to a folder that can be written.",
        ) from error
    return folder


def _is_whole(ranks: Path) -> bool:
    return ranks.exists() and _is_published(ranks.read_bytes())


def _is_published(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == PUBLISHED_SHA256


def _published_ranks(document: bytes, tokenizer_json: Path) -> bytes:
    try:
        vocabulary = json.loads(document)["model"]["vocab"]
        content = _ranks(vocabulary) if isinstance(vocabulary, dict) else b""
    except (LookupError, TypeError, ValueError) as error:
        raise NotO200k(f"{tokenizer_json} holds no byte-level vocabulary: {error}") from error
    if not _is_published(content):
        raise NotO200k(f"the ordinary tokens of {tokenizer_json} are not o200k's")
    return content


def _ranks(vocabulary: Mapping[str, int]) -> bytes:
    """The ranks file of `vocabulary` (token in the byte-level alphabet → id); `ValueError` where a token is not in
    that alphabet."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in ordinary_tokens(vocabulary))


def ordinary_tokens(vocabulary: Mapping[str, int]) -> list[tuple[int, bytes]]:
    """(id, bytes) of every token of `vocabulary` that is not special, by id; `ValueError` where one is not in the
    byte-level alphabet."""
    byte_of = _byte_level_alphabet()
    # Latin-1 gives the characters 0 to 255 as the bytes 0 to 255.
    return sorted(
        (rank, token.translate(byte_of).encode("latin-1"))
        for token, rank in vocabulary.items()
        if rank < ORDINARY_TOKENS
    )


def _byte_level_alphabet() -> dict[int, int]:
    """The byte that each character of the byte-level alphabet stands for: a byte that is a visible character of
    Latin-1 stands for itself, the others are the characters from U+0100 on, in order."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0x100)} - {0xAD}
    others = [byte for byte in range(0x100) if byte not in visible]
    return {byte: byte for byte in visible} | {0x100 + position: byte for position, byte in enumerate(others)}


def _write(content: bytes, final: Path) -> None:
    """Write beside `final`, then rename: a reader sees all of it or nothing."""
    beside = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(content)
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)
