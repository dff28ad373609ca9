"""A byte-level BPE tokenizer of a thousand tokens, trained on the sample rows each time it is asked for.

It has the structure of the real gpt-oss tokenizer (`tokenizer.json` of openai/gpt-oss-20b): the o200k pre-tokenizer,
no normalizer, whole words before merges, and the 21 harmony tokens with their real names and order straight after the
ordinary ones. Every byte is a token, so any text survives encode and decode.

tokenizers 0.23.3 trains to the same bytes whatever the hash seed and the number of threads; a test holds it to that.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from gptoss_ft.tiny import rows

ORDINARY_TOKENS = 1000
MAX_LENGTH = 4096

# The o200k_base split: words with a leading space and a contraction, digits in threes, punctuation, white space.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_SPLIT = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# The fixed words of a harmony prompt. Trained on as often as they occur, once a row; else they would take most of it.
_HARMONY_WORDS = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2025-01-01\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.",
    "# Instructions\n\n",
    *("system", "developer", "user", "assistant", "analysis", "commentary", "final", "low", "high"),
)

CHATML_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of one model, in the order of their ids, which start at `ORDINARY_TOKENS`."""

    names: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str

    def id_of(self, name: str) -> int:
        """The id of a special token."""
        return ORDINARY_TOKENS + self.names.index(name)

    @property
    def roles(self) -> dict[str, str]:
        """What `special_tokens_map.json` holds."""
        bos = {"bos_token": self.bos} if self.bos else {}
        return {**bos, "eos_token": self.eos, "pad_token": self.pad}


# Ids 199998 to 200018 of the real tokenizer, in order. The reserved ones keep the names that hold their real ids.
HARMONY = SpecialTokens(
    names=(
        "<|startoftext|>",
        "<|endoftext|>",
        "<|reserved_200000|>",
        "<|reserved_200001|>",
        "<|return|>",
        "<|constrain|>",
        "<|reserved_200004|>",
        "<|channel|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        *(f"<|reserved_{n}|>" for n in (200009, 200010, 200011)),
        "<|call|>",
        *(f"<|reserved_{n}|>" for n in (200013, 200014, 200015, 200016, 200017)),
        "<|endofprompt|>",
    ),
    bos="<|startoftext|>",
    eos="<|return|>",
    pad="<|endoftext|>",
)

# Of Llama 3's 256 those that have a meaning, in order.
LLAMA_3 = SpecialTokens(
    names=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
)

CHATML = SpecialTokens(
    names=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos=None, eos="<|im_end|>", pad="<|endoftext|>"
)


def gpt_oss_files() -> dict[str, bytes]:
    """The tokenizer files of tiny/gpt-oss, with the official chat template."""
    return _files(HARMONY, _official_template("gptoss"))


def llama_files() -> dict[str, bytes]:
    """The tokenizer files of tiny/llama, whose chat template is ChatML."""
    return _files(CHATML, CHATML_TEMPLATE.encode())


def llama_3_files() -> dict[str, bytes]:
    """The tokenizer files of tiny/llama-3, with Llama 3.1's chat template."""
    return _files(LLAMA_3, _official_template("llama3_1"))


def _official_template(name: str) -> bytes:
    """A model's own chat template, read from the file that TRL ships."""
    # Found through its metadata: to import trl before unsloth would leave it unpatched.
    return Path(str(distribution("trl").locate_file(f"trl/chat_templates/{name}.jinja"))).read_bytes()


def _files(special: SpecialTokens, chat_template: bytes) -> dict[str, bytes]:
    settings = {
        **special.roles,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": _train(special).to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
        "special_tokens_map.json": json.dumps(special.roles, indent=2).encode(),
        "chat_template.jinja": chat_template,
    }


def _train(special: SpecialTokens) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(O200K_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ORDINARY_TOKENS,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special.names])
    return tokenizer


def _corpus() -> Iterator[str]:
    for row in rows.multilingual_thinking():
        yield from _HARMONY_WORDS
        for message in row["messages"]:
            yield message["content"]
            yield message["thinking"] or ""
    for row in rows.text():
        yield row["text"]
