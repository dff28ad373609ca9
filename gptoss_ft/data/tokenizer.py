"""The model's tokenizer: the one that came with the model, with its own chat template unless another is named."""

import copyreg
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gptoss_ft import tiny
from gptoss_ft.config import ModelSection
from gptoss_ft.data.chat_templates import BUILT_IN, chat_template_text, check_control_tokens
from gptoss_ft.errors import DataError
from gptoss_ft.hub_client import patiently
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import cache_folder


def load_job_tokenizer(config: ModelSection) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.name` itself, whatever repository its weights are loaded from: so it is the same with and
    without 4 bits, and where there are no weights. Raises what `load_tokenizer` does."""
    name = config.name
    if tiny.is_tiny(name):
        name = str(tiny.materialize(name, cache_folder()))
    elif name.startswith("~"):
        name = os.path.expanduser(name)
    return load_tokenizer(name, config.revision, config.chat_template)


def load_tokenizer(name: str, revision: str | None, chat_template: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `name` (hub id or folder). `chat_template` replaces its template: a built-in one by its
    name, or the path of a Jinja file.

    Raises `DataError` for files that cannot be read, `SettingError` for a built-in template that writes control tokens
    which the tokenizer lacks, `HubError` for the hub's own.
    """
    try:
        with explained(name, "model.name"), parsed_once():
            tokenizer = patiently(
                lambda: AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            )
    except Exception as error:
        # For a broken file tokenizers raises Exception itself, and transformers whatever its reading came upon.
        if type(error) is not Exception and not isinstance(
            error, AttributeError | LookupError | TypeError | ValueError
        ):
            raise
        raise DataError(
            f"{name} has no tokenizer that can be read (tokenizer.json): {type(error).__name__}: {_first_line(error)}",
            "Download the model again, or name one that is whole.",
            key="model.name",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise DataError(f"{name} has no fast tokenizer (tokenizer.json)", key="model.name")
    if chat_template is not None:
        tokenizer.chat_template = chat_template_text(chat_template)
        if chat_template in BUILT_IN:
            check_control_tokens(tokenizer, chat_template)
    return tokenizer


@contextmanager
def parsed_once() -> Iterator[None]:
    """Have transformers keep the tokenizer that it has read for itself: 5.17.0 copies it, by writing it out and parsing
    that anew, and lets go of the first. For gpt-oss's 200,000 words that takes as long as reading the file (1 s)."""
    # What `copy.deepcopy` takes for an object of this class; a string says that it is its own copy.
    copyreg.pickle(Tokenizer, lambda tokenizer: "itself")
    try:
        yield
    finally:
        copyreg.dispatch_table.pop(Tokenizer, None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
