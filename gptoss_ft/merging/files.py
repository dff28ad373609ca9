"""What a merged model's folder holds beside its weights: config, generation config, tokenizer and chat template."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_ft.merging.stock_model import read_config
from gptoss_ft.reporting.files import write_json

if TYPE_CHECKING:
    import torch

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip
# Of the weights that were read, not of those that are written; `dtype` is set anew, by transformers 4's name, too.
NOT_KEPT = ("quantization_config", "_name_or_path", "torch_dtype", "auto_map")


def write_model_files(
    folder: Path, base: Path, adapter: Path | None, architecture: str, dtype: "torch.dtype", untied: bool
) -> None:
    """Write them: the config is `base`'s, for stock transformers; the tokenizer is the adapter's where it has one."""
    config = {
        key: value for key, value in read_config(base).items() if key not in NOT_KEPT and not key.startswith("unsloth")
    }
    name = str(dtype).removeprefix("torch.")
    config |= {"architectures": [architecture], "dtype": name, "torch_dtype": name}
    if untied:
        config["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)
    if (base / GENERATION).is_file():
        write_json(folder / GENERATION, _valid_generation(json.loads((base / GENERATION).read_text(encoding="utf-8"))))
    source = adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else base
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            # Not its mode: a file of the hub's cache may be one that cannot be written.
            shutil.copyfile(source / file, folder / file)


def _valid_generation(content: dict[str, Any]) -> dict[str, Any]:
    """Settings of sampling without `do_sample` are what published ones lack most often; stock libraries refuse to save
    a model with them."""
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_dict(content).validate(strict=True)
    except ValueError:
        return {**content, "do_sample": True}
    return content
