"""What a folder with a whole model must hold so that stock transformers, and what builds on it, takes it as it is."""

import json
from pathlib import Path
from typing import Any


def config_problems(folder: Path) -> list[str]:
    """What is wrong with `folder`'s config.json, in words; looked at before the weights, which it decides about."""
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # What merged models are refused for most often: weights in 16 bits under a config that says they are quantized.
    problems = [f"config.json still holds {key}" for key in ("quantization_config", "auto_map") if key in config]
    names = config.get("architectures") or []
    unknown = [name for name in names if not hasattr(transformers, name)]
    if unknown or not names:
        problems.append(f"transformers knows no architecture {', '.join(unknown) or 'for a config that names none'}")
    return problems


def loading_problems(report: dict[str, Any]) -> list[str]:
    """What transformers' report of a loading (`output_loading_info`) says that a whole model's does not."""
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # A mismatched key comes with its two shapes.
        names = sorted(entry if isinstance(entry, str) else entry[0] for entry in report[kind])
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{kind.partition('_')[0]} tensors: {', '.join(names[:3])}{more}")
    return [*problems, *map(str, report["error_msgs"])]


def surroundings_problems(folder: Path, wants_template: bool) -> list[str]:
    """What is wrong with the tokenizer, its chat template and generation_config.json."""
    from transformers import AutoTokenizer, GenerationConfig

    problems = []
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if wants_template and not tokenizer.chat_template:
            problems.append("the tokenizer has no chat template")
    except Exception as error:  # tokenizers raises Exception itself
        problems.append(f"the tokenizer cannot be read: {type(error).__name__}: {error}")
    if (folder / "generation_config.json").is_file():
        try:
            GenerationConfig.from_pretrained(folder).validate(strict=True)
        except ValueError as error:
            problems.append(f"generation_config.json: {error}")
    return problems
