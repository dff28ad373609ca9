"""Stock transformers and PEFT in a process that cannot import Unsloth: `python peft_reference.py FOLDER`.

FOLDER/cases.json: {name: {"base": folder, "lora": keyword arguments of LoraConfig}}. For each case this makes an
adapter with random matrices in FOLDER/name/adapter, and beside it merged.safetensors, the state dict of
`merge_and_unload`, and logits.safetensors of the adapter on its base for the ids 1..48: all in float32.
"""

# ruff: noqa: E402  # after Unsloth is blocked

import json
import sys
from pathlib import Path

sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None  # type: ignore[assignment]  # an import of it fails

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def make(folder: Path, base: str, lora: dict[str, object]) -> None:
    torch.manual_seed(5)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **lora)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        logits = model.eval()(torch.arange(1, 49)[None]).logits[0]
    model.save_pretrained(folder / "adapter")
    merged = model.merge_and_unload()
    save_file({name: tensor.clone() for name, tensor in merged.state_dict().items()}, folder / "merged.safetensors")
    save_file({"logits": logits.contiguous()}, folder / "logits.safetensors")


root = Path(sys.argv[1])
for name, case in json.loads((root / "cases.json").read_text()).items():
    (root / name).mkdir()
    make(root / name, case["base"], case["lora"])
