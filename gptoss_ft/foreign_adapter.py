"""The settings of an adapter that came without a job.yaml, from its adapter_config.json."""

import json
from pathlib import Path

from gptoss_ft.config import LoraSection
from gptoss_ft.errors import DataError

ADAPTER_CONFIG = "adapter_config.json"


def lora_of(folder: Path) -> LoraSection:
    """What `lora` would have to say for the adapter in `folder`. `DataError` where it cannot be used here."""
    try:
        content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, modules = content["peft_type"], content.get("target_modules") or []
        parameters = content.get("target_parameters") or []
        if kind != "LORA":
            raise DataError(f"{folder} holds a {kind} adapter", "Name a LoRA adapter.")
        if isinstance(modules, str):
            raise DataError(
                f"{folder}/{ADAPTER_CONFIG} names its modules by a pattern, so what it adapts cannot be told",
                f"Put the job.yaml of the job that made it into {folder}.",
            )
        names = [*modules]
        # Experts of every layer go by the names that every layout of them has.
        if set(parameters) == {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}:
            names, parameters = [*modules, "gate_proj", "up_proj", "down_proj"], []
        return LoraSection(
            r=content["r"],
            alpha=int(content["lora_alpha"]),
            bias=content.get("bias", "none"),
            target_modules=names,
            target_parameters=parameters or None,
            use_rslora=content.get("use_rslora", False),
            use_dora=content.get("use_dora", False),
            modules_to_save=content.get("modules_to_save"),
        )
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        # pydantic's ValidationError is a ValueError, and so is what json raises.
        reason = " ".join(str(error).split())
        raise DataError(
            f"{folder}/{ADAPTER_CONFIG} is not a LoRA adapter's that can be used here: {reason}",
            f"Put the job.yaml of the job that made it into {folder}.",
        ) from None
