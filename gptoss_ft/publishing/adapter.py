"""final_model: the adapter as any program of the field loads it, the tokenizer and the model's own chat template."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.model.portable import write_portable
from gptoss_ft.reporting.files import flush_file, flush_folder, follow_umask
from gptoss_ft.reporting.output_folder import FINAL_MODEL


def save_final_model(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig, folder: Path) -> Path:
    """Write `folder`/final_model. It has its name only once it is whole, on the disk and known to fit the stock
    model."""
    final, partial = folder / FINAL_MODEL, folder / f".{FINAL_MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_portable(model, job.model, partial)
    tokenizer.save_pretrained(str(partial))
    write_job_file(job, partial)
    follow_umask(partial)
    for file in partial.iterdir():
        flush_file(file)
    flush_folder(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    flush_folder(folder)
    return final
