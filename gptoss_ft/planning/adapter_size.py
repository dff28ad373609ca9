"""How many values a job trains, from the shapes of its model alone."""

import re
from collections.abc import Iterable

from gptoss_ft.config import LoraSection
from gptoss_ft.planning.shapes import Linear, ModelShapes

# Projections that a model may hold fused under another name.
FUSED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
WHOLE_MODULES = ("embed_tokens", "lm_head")


def trained_values(lora: LoraSection, shapes: ModelShapes) -> int:
    """Trainable parameters: A and B of every projection that gets an adapter, each expert having its own, and all
    values of the modules in `lora.modules_to_save` that are embedding or head."""
    linears = {**shapes.attention_linears, **shapes.mlp_linears}
    wanted = {_held_name(name, linears) for name in lora.target_modules}
    total = 0
    for layer in range(shapes.layers):
        of_layer = wanted | _of_parameters(lora.target_parameters or (), layer)
        for name, linear in linears.items():
            if name in of_layer:
                total += _pair(lora, linear) * (shapes.mlps if name in shapes.mlp_linears else 1)
    whole = sum(name in WHOLE_MODULES for name in lora.modules_to_save or ())
    return total + whole * shapes.vocabulary * shapes.hidden


def _held_name(target: str, linears: Iterable[str]) -> str:
    return target if target in linears else FUSED.get(target, target)


def _of_parameters(parameters: Iterable[str], layer: int) -> set[str]:
    """What `lora.target_parameters` (`mlp.experts.down_proj`, `7.mlp.experts.down_proj`) names in one layer."""
    found = set()
    for parameter in parameters:
        numbers = re.findall(r"(?:^|\.)(\d+)\.", parameter)
        if not numbers or int(numbers[-1]) == layer:
            found.add(parameter.rpartition(".")[2])
    return found


def _pair(lora: LoraSection, linear: Linear) -> int:
    """Values of A and B on one projection; DoRA adds a magnitude for each output."""
    inputs, outputs = linear
    return lora.r * (inputs + outputs) + (outputs if lora.use_dora else 0)
