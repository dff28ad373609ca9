"""Proof that an adapter folder fits the stock model, in a process that cannot import Unsloth, on no device at all.

    python -m gptoss_ft.model.portable_check ADAPTER_FOLDER CONFIG_FOLDER

The stock model is built from CONFIG_FOLDER/config.json without weights, PEFT puts the adapter that ADAPTER_FOLDER
describes on it, and the names and shapes that it then has are compared with those in the file. Prints one JSON line.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gptoss_ft.errors import ExportError
from gptoss_ft.runtime import stock_environment

Shapes = dict[str, list[int]]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def check_portable(folder: Path, config_folder: Path) -> None:
    """Raise `ExportError` unless the adapter in `folder` is one that stock PEFT puts on the stock model that
    `config_folder`/config.json describes, tensor by tensor. Needs no network, weights or GPU; takes some seconds."""
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(folder), str(config_folder)],
        env=stock_environment(), capture_output=True, text=True,
    )  # fmt: skip
    if child.returncode != 0:
        reason = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise ExportError(f"the adapter is not one that stock PEFT accepts: {reason[0]}", _cure())
    found = json.loads(child.stdout.splitlines()[-1])
    differences = [f"{kind} {names[0]} and {len(names) - 1} more" for kind, names in found.items() if names]
    if differences:
        raise ExportError(f"the adapter is not one for the stock model: {'; '.join(differences)}", _cure())


def _cure() -> str:
    return "What was trained is in the newest checkpoint. Please report this with the job's config."


def compare(folder: Path, config_folder: Path) -> dict[str, list[str]]:
    """Names of tensors that the file lacks, has beside those expected, or has in another shape."""
    in_file, expected = _shapes_in_file(folder), _expected_shapes(folder, config_folder)
    return {
        "missing": sorted(expected.keys() - in_file.keys()),
        "unexpected": sorted(in_file.keys() - expected.keys()),
        "of another shape": sorted(
            name for name in in_file.keys() & expected.keys() if in_file[name] != expected[name]
        ),
    }  # fmt: skip


def _shapes_in_file(folder: Path) -> Shapes:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping


def _expected_shapes(folder: Path, config_folder: Path) -> Shapes:
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    adapter = PeftConfig.from_pretrained(str(folder))
    # PEFT asks the hub for the model of that name, to see whether its vocabulary was changed.
    adapter.base_model_name_or_path = None
    with torch.device("meta"):
        model = get_peft_model(_stock_model(config_folder), adapter)
    return {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}


def _stock_model(config_folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(config_folder, trust_remote_code=False)
    # That of a quantized upload; the stock model has the same modules without.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]


def main(folder: str, config_folder: str) -> None:
    """The child process."""
    # An import of either ends in an ImportError from here on.
    sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None  # type: ignore[assignment]  # what import looks for
    print(json.dumps(compare(Path(folder), Path(config_folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
