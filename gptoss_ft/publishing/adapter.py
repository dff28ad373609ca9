"""final_model: the adapter, the tokenizer, the model's own chat template and a card that says how to use them."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.reporting.files import follow_umask
from gptoss_ft.reporting.output_folder import FINAL_MODEL


def save_final_model(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig, folder: Path) -> Path:
    """Write `folder`/final_model. It has its name only once it is whole."""
    final, partial = folder / FINAL_MODEL, folder / f".{FINAL_MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial), safe_serialization=True)
    tokenizer.save_pretrained(str(partial))
    write_job_file(job, partial)
    # In place of PEFT's, which is a form to fill in.
    (partial / "README.md").write_text(_card(job), encoding="utf-8")
    follow_umask(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def _card(job: JobConfig) -> str:
    data = ModelCardData(library_name="peft", pipeline_tag="text-generation", tags=["lora", "unsloth", "gptoss_ft"])
    name = Path(job.training.output_dir).name
    data_names = ", ".join(f"`{entry.prepared or entry.path}`" for entry in job.datasets if not entry.eval)
    text = f"""# {name}

A LoRA adapter (r {job.lora.r}, alpha {job.lora.alpha}) for `{job.model.name}`, trained with gptoss_ft on
{data_names}.

```python
from unsloth import FastLanguageModel

model, tokenizer = FastLanguageModel.from_pretrained(
    "final_model",  # this folder
    load_in_4bit={job.model.load_in_4bit},
    max_seq_length={job.model.max_seq_length},
)
FastLanguageModel.for_inference(model)
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
tokens = model.generate(**inputs.to(model.device), max_new_tokens=256)
print(tokenizer.decode(tokens[0]))
```
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
