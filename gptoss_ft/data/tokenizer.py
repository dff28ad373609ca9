"""The model's tokenizer: the one that came with the model, with its own chat template unless another is named."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gptoss_ft.errors import DataError
from gptoss_ft.hub_errors import explained


def load_tokenizer(name: str, revision: str | None, chat_template: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `name` (hub id or folder). `chat_template` is the path of a Jinja file that replaces
    its template. Raises `DataError` for files that cannot be read, `HubError` for the hub's own."""
    try:
        with explained(name, "model.name"):
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
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
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the chat template {chat_template} cannot be read: {error}",
                "Name a Jinja template file.",
                key="model.chat_template",
            ) from None
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
