"""Chat templates that come with the program, under short names, for models that have none or a bad one.

They are the models' own, read from the files that TRL ships.
"""

import os
import re
from difflib import get_close_matches
from importlib.metadata import distribution
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gptoss_ft.errors import DataError, SettingError

# Name → file in trl/chat_templates.
BUILT_IN = {
    "gemma-2": "gemma",
    "gemma-3": "gemma3",
    "gemma-4": "gemma4_v5",
    "gpt-oss": "gptoss",
    "llama-3": "llama3",
    "llama-3.1": "llama3_1",
    "llama-3.2": "llama3_2",
    "phi-3": "phi3",
    "phi-3.5": "phi3_5",
    "qwen-2.5": "qwen2_5",
    "qwen-3": "qwen3",
    "qwen-3-instruct": "qwen3_instruct_2507",
    "qwen-3.6": "qwen3_6",
}

_KEY = "model.chat_template"
# How the families of BUILT_IN write the tokens that open and close a turn.
_CONTROL_TOKEN = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>")


def chat_template_text(name_or_path: str) -> str:
    """The Jinja text of a built-in template, or of a file.

    A built-in name always means the built-in one, so that a config says the same in every folder; a file of that name
    is reached as `./NAME`. Raises `DataError` for what is neither, and for a file that cannot be read.
    """
    if name_or_path in BUILT_IN:
        # Found through its metadata: to import trl before unsloth would leave it unpatched.
        path = Path(str(distribution("trl").locate_file(f"trl/chat_templates/{BUILT_IN[name_or_path]}.jinja")))
        return path.read_text(encoding="utf-8")
    path = Path(os.path.expanduser(name_or_path))
    # os.path.exists, because pathlib's raises for a name that is too long to be one.
    if not os.path.exists(path):
        close = get_close_matches(name_or_path.lower(), BUILT_IN, n=1)
        suggestion = f"Did you mean {close[0]}? " if close else ""
        raise DataError(
            f"the chat template {name_or_path[:100]} cannot be read: "
            "there is no such file, and it is not a built-in one",
            f"{suggestion}Name a Jinja template file, or one of {', '.join(BUILT_IN)}.",
            key=_KEY,
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the chat template {name_or_path} cannot be read: {error}", "Name a Jinja template file.", key=_KEY
        ) from None


def check_control_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise `SettingError` unless every control token that the tokenizer's chat template, the built-in `name`, writes
    around a question and an answer is one token of its vocabulary."""
    question = [{"role": "user", "content": "Hi"}]
    answered = [*question, {"role": "assistant", "content": "Hello"}]
    # Llama 3's template raises where the tokenizer has no such token.
    bos = tokenizer.bos_token or ""
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True, bos_token=bos)
    text = f"{prompt}{tokenizer.apply_chat_template(answered, tokenize=False, bos_token=bos)}"
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    missing = [token for token in dict.fromkeys(_CONTROL_TOKEN.findall(text)) if token not in known]
    if missing:
        raise SettingError(
            f"the chat template {name} writes {', '.join(missing)}, which the tokenizer of "
            f"{tokenizer.name_or_path} does not have as {'a token' if len(missing) == 1 else 'tokens'}",
            "Name the template of the model's own family, or null for the model's own.",
            key=_KEY,
        )
