"""What stock transformers holds for a config.json: the names and shapes that a merged model must have, all of them."""

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from gptoss_ft.errors import DataError
from gptoss_ft.model.repository import unfit_for_transformers

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StockModel:
    """A model as transformers builds it.

    `shapes` has every parameter and saved buffer by its name; `tied` leads from a name to the one whose values it
    shares; `transposed` names parameters [experts, in, out], the other 3-D ones being [experts, out, in]; `linear`
    names the weights that bitsandbytes quantizes when a 16-bit checkpoint is loaded in 4 bits through Unsloth.
    """

    architecture: str
    shapes: dict[str, Shape]
    tied: dict[str, str]
    transposed: frozenset[str]
    linear: frozenset[str]
    ignored: tuple[str, ...]

    def ignores(self, name: str) -> bool:
        """Whether transformers passes over a tensor of this name when it loads a checkpoint."""
        return any(re.search(pattern, name) for pattern in self.ignored)

    def experts_of(self, module: str) -> list[str]:
        """Names of the 3-D parameters of `module`."""
        return [name for name, shape in self.shapes.items() if len(shape) == 3 and name.rpartition(".")[0] == module]


def read_config(folder: Path) -> dict[str, Any]:
    """`folder`'s config.json. `DataError` where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds {type(config).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{folder} has no config.json that can be read: {error}", "Name the folder of a model."
        ) from None
    return config


def stock_model(folder: Path) -> StockModel:
    """What transformers builds from `folder`'s config.json, without its weights. `DataError` where it cannot."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    read_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except unfit_for_transformers() as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}/config.json is not one that transformers builds a model of: {reason}") from None
    modules = dict(model.named_modules())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return StockModel(
        architecture=type(model).__name__,
        shapes=shapes,
        tied=dict(model.all_tied_weights_keys),
        transposed=frozenset(
            name
            for name, shape in shapes.items()
            # What PEFT asks of a module, too (0.21.2, lora/layer.py, ParamWrapper.update_layer).
            if len(shape) == 3 and getattr(modules[name.rpartition(".")[0]], "is_transposed", False)
        ),
        linear=frozenset(_quantized_linear(model)),
        ignored=tuple(model._keys_to_ignore_on_load_unexpected or ()),
    )


def _quantized_linear(model: Any) -> Iterable[str]:
    from torch import nn
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = [*_unsloth_skips(), *(model._keep_in_fp32_modules or ())]
    for name, module in model.named_modules():
        # As transformers.integrations.bitsandbytes.replace_with_bnb_linear chooses them (5.17.0).
        if type(module) is nn.Linear and should_convert_module(name, skipped):
            yield f"{name}.weight"


def _unsloth_skips() -> list[str]:
    """Unsloth's list of modules that it keeps in 16 bits, read from its file: importing it changes transformers."""
    file = Path(str(distribution("unsloth_zoo").locate_file("unsloth_zoo/peft_utils.py")))
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SKIP_QUANTIZATION_MODULES":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError(f"{file} has no SKIP_QUANTIZATION_MODULES")
