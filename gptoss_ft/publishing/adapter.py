"""final_model: the adapter, the tokenizer and the model's own chat template."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gptoss_ft.reporting.files import follow_umask
from gptoss_ft.reporting.output_folder import FINAL_MODEL


def save_final_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write `folder`/final_model. It has its name only once it is whole."""
    final, partial = folder / FINAL_MODEL, folder / f".{FINAL_MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial), safe_serialization=True)
    tokenizer.save_pretrained(str(partial))
    follow_umask(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final
