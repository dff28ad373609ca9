"""A faster way from text to gpt-oss's tokens: tiktoken, which does on one core what tokenizers does on three.

It is taken only for a tokenizer that is gpt-oss's own, byte for byte in all that decides: there the two are equal on
every text. Any other vocabulary stays with tokenizers.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gptoss_ft.data.harmony_ranks import ordinary_tokens

# Of openai/gpt-oss-20b's tokenizer from its normalizer on (vocabulary, merges, rules), as tokenizers 0.23 writes it.
GPT_OSS_SHA256 = "25a163eef8eb8d61c3079632b0925fb71e83ec9f1b8284307e1beec2f445da9b"
# Longer text is left to tokenizers: tiktoken 0.14 panics on white space of a million characters.
LONGEST_TEXT = 50_000

# Between two texts that are tokenized in one call; text that holds it is left to tokenizers, too. One character, or the
# end of one text and the beginning of the next could make another.
SEPARATOR = "\uffff"
SEPARATOR_ID = 2**31 - 1

_built: dict[str, tiktoken.Encoding] = {}


def o200k_encoding(tokenizer: Tokenizer) -> tiktoken.Encoding | None:
    """tiktoken's encoding of plain text for gpt-oss's own tokenizer; None for any other. Takes about a second."""
    document = tokenizer.to_str()
    decides = hashlib.sha256(document[document.index('"normalizer"') :].encode()).hexdigest()
    if decides != GPT_OSS_SHA256 or not all(token.special for token in tokenizer.get_added_tokens_decoder().values()):
        return None
    if decides not in _built:
        parts = json.loads(document)
        _built[decides] = tiktoken.Encoding(
            "o200k",
            pat_str=parts["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"],
            mergeable_ranks={token: id_ for id_, token in ordinary_tokens(parts["model"]["vocab"])},
            special_tokens={SEPARATOR: SEPARATOR_ID},
        )
    return _built[decides]


def can_encode(text: str) -> bool:
    return len(text) <= LONGEST_TEXT and SEPARATOR not in text


def encode_all(encoding: tiktoken.Encoding, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Token ids of each text, all of which `can_encode`; control tokens in them are plain text.

    One call for all: each call gives the interpreter's lock away, and waits for milliseconds to have it back while
    another thread computes.
    """
    if not texts:
        return []
    joined = SEPARATOR.join(texts)
    ids = encoding.encode_to_numpy(joined, allowed_special={SEPARATOR}, disallowed_special=()).astype(np.int32)
    ends = np.flatnonzero(ids == SEPARATOR_ID)
    starts = np.concatenate(([0], ends + 1))
    return [ids[start:end] for start, end in zip(starts, [*ends, len(ids)], strict=True)]
