"""Logits of adapter folders on their base model by stock transformers and PEFT, in a process without Unsloth.

python stock_logits.py BASE_FOLDER IDS.pt LOGITS.pt ADAPTER_FOLDER…
"""

import subprocess
import sys
from pathlib import Path

import torch


def stock_logits(base: Path, adapters: list[Path], ids: torch.Tensor, scratch: Path) -> list[torch.Tensor]:
    """For each adapter, logits [batch, length, vocabulary] in float32 of `ids` [batch, length], by a fresh process."""
    from gptoss_ft.runtime import stock_environment

    torch.save(ids, scratch / "ids.pt")
    files = (scratch / "ids.pt", scratch / "logits.pt")
    command = [sys.executable, __file__, *map(str, (base, *files, *adapters))]
    subprocess.run(command, env=stock_environment(), check=True, capture_output=True, timeout=120)
    logits: list[torch.Tensor] = torch.load(scratch / "logits.pt")
    return logits


def main(base: str, ids: str, logits: str, *adapters: str) -> None:
    sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None  # type: ignore[assignment]  # no import finds them
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = []
    for adapter in adapters:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter).eval()
        with torch.no_grad():
            found.append(model(torch.load(ids)).logits)
    torch.save(found, logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
