"""Reload a trained LoRA adapter in a fresh process, check that it is the one on disk, and generate from it.

    HF_HUB_OFFLINE=1 PYTHONPATH=. python benchmarks/check_final_model.py RUN/final_model

The folder is what a run leaves: a portable adapter, and the job.yaml that says which base model it belongs to and how
that is loaded. Prints one JSON line; a failed check ends with status 1.

Whether the adapter was really loaded is checked value by value, since PEFT only warns about an adapter tensor
that it found no module for, and generation then silently comes from the base model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROMPT = "Say hello in one short sentence."


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the adapter file on the CPU, by name."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def nonzero_lora_b(adapter: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Return how many LoRA B matrices have a value other than zero, and how many there are.

    B starts at zero, so an untrained one is still zero. Every token passes through every attention layer: an
    attention B that is zero, or any B that is not finite, means that training did not work, and raises
    ValueError. An expert that no token was routed to keeps its zeros.
    """
    matrices = {name: tensor for name, tensor in adapter.items() if ".lora_B." in name}
    broken = [name for name, tensor in matrices.items() if not bool(tensor.isfinite().all())]
    zero = [name for name, tensor in matrices.items() if not bool(tensor.any())]
    untrained = [name for name in zero if ".self_attn." in name]
    if broken or untrained or len(zero) == len(matrices):
        raise ValueError(
            f"{len(matrices)} LoRA B matrices: {len(broken)} not finite {broken[:3]}, {len(zero)} zero, "
            f"of which in attention {len(untrained)} {untrained[:3]}"
        )
    return len(matrices) - len(zero), len(matrices)


def unequal_tensors(adapter: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the adapter's tensors that the model lacks or holds with other values.

    `loaded` is the model's own adapter in the portable layout. The model may hold another dtype than the file; values
    are compared in the model's.
    """
    import torch

    def equal(name: str, saved: torch.Tensor) -> bool:
        held = loaded.get(name)
        return held is not None and torch.equal(held.detach().cpu(), saved.to(held.dtype))

    return [name for name, saved in adapter.items() if not equal(name, saved)]


def generate(model: Any, tokenizer: Any, prompt: str, tokens: int) -> tuple[int, str]:
    """Generate exactly `tokens` tokens greedily; return the prompt's length in tokens and the new text."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    prompt_tokens = int(inputs["input_ids"].shape[1])
    # The shortest length too: the count of tokens, and so the time, must not depend on a random end of turn.
    output = model.generate(**inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens)
    new_tokens = output[0, prompt_tokens:]
    if len(new_tokens) != tokens:
        raise ValueError(f"generated {len(new_tokens)} tokens, wanted {tokens}")
    return prompt_tokens, tokenizer.decode(new_tokens, skip_special_tokens=False)


def check(folder: Path, tokens: int, prompt: str, overrides: list[str]) -> dict[str, Any]:
    """Run every check and return what is printed; raises ValueError when one fails."""
    from rich.console import Console

    from gptoss_ft.subject import find_subject, in_memory

    adapter = read_adapter(folder)
    nonzero, total = nonzero_lora_b(adapter)

    started = time.perf_counter()
    subject = find_subject(str(folder.resolve()), None, overrides)
    with in_memory(subject, Console(quiet=True)) as ready:
        # Unsloth is imported: peft and transformers can be.
        from peft import get_peft_model_state_dict
        from unsloth import FastLanguageModel

        from gptoss_ft.model.adapter_layout import to_portable

        unequal = unequal_tensors(adapter, to_portable(get_peft_model_state_dict(ready.model)))
        if unequal:
            raise ValueError(f"{len(unequal)} of {len(adapter)} adapter tensors not loaded as saved: {unequal[:3]}")
        FastLanguageModel.for_inference(ready.model)
        loaded = time.perf_counter()
        prompt_tokens, text = generate(ready.model, ready.tokenizer, prompt, tokens)
    return {
        "adapter_tensors": len(adapter),
        "adapter_parameters": sum(tensor.numel() for tensor in adapter.values()),
        "lora_b": total,
        "nonzero_lora_b": nonzero,
        "load_seconds": round(loaded - started, 1),
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "seconds": round(time.perf_counter() - loaded, 1),
        "text": text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="adapter folder, for example RUN/final_model")
    parser.add_argument("--tokens", type=int, default=16, help="how many to generate")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a key of the job")
    options = parser.parse_args()
    try:
        report = check(options.folder, options.tokens, options.prompt, options.set)
    except ValueError as error:
        raise SystemExit(f"check_final_model: {options.folder}: {error}") from error
    print(json.dumps(report))


if __name__ == "__main__":
    main()
