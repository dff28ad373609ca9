"""Token ids of a rendering's stretches, for tokenizers that put a space before what they are given.

With those (Llama 2's, Mistral's) a stretch on its own is not tokenized as it is within the whole.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.control_tokens import ControlTokens, StandIns
from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.rendering import Encoder, Ids

# Before plain text it takes the place of a control token, which would be plain text itself.
_LINE_END = "\n"


def adds_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts something before the text that it is given."""
    backend = tokenizer.backend_tokenizer
    text = "a" if backend.normalizer is None else backend.normalizer.normalize_str("a")
    if backend.pre_tokenizer is not None:
        text = "".join(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return bool(text != "a")


def ids_of_stretches(
    whole: str, ends: Sequence[int], control: ControlTokens, stand_ins: StandIns, encoder: Encoder
) -> list[Ids]:
    """The ids of the stretches of `whole` between 0 and the `ends` (positions in characters, ascending).

    All the ids up to an end are those of the text up to that end; `RowError` where they are not the beginning of the
    ids of the text up to the next one. A control token parts what stands before it from what stands after, so that
    only the text since the last one is tokenized twice.
    """
    after_tokens = [0, *(end for _, end, _ in control.spans(whole, 0, len(whole)))]

    def ids_of(start: int, end: int) -> Ids:
        ids = [np.empty(0, np.int32)]
        for text, live in control.pieces(whole[start:end], stand_ins):
            is_first = start == 0 and len(ids) == 1
            ids.append(encoder.encode(text, live) if is_first else _ids_within(text, live, control, encoder))
        return np.concatenate(ids)

    stretches: list[Ids] = []
    block, tail = 0, np.empty(0, np.int32)
    for end in ends:
        next_block = after_tokens[bisect_right(after_tokens, end) - 1]
        next_tail = ids_of(next_block, end)
        stretches.append(_without(tail, np.concatenate([ids_of(block, next_block), next_tail])))
        block, tail = next_block, next_tail
    return stretches


def _ids_within(text: str, live: bool, control: ControlTokens, encoder: Encoder) -> Ids:
    """The ids of text that stands after a control token."""
    before = control.parting if live else _LINE_END
    return _without(encoder.encode(before, live), encoder.encode(before + text, live))


def _without(beginning: Ids, ids: Ids) -> Ids:
    if not np.array_equal(ids[: len(beginning)], beginning):
        raise RowError("tokenizes differently as prompt and answer than as a whole", "chat template")
    return ids[len(beginning) :]
