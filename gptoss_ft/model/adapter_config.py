"""The adapter_config.json of a portable adapter: what PEFT 0.17 and later need, and nothing that a release rejects."""

from collections.abc import Iterable
from typing import Any

from peft.tuners.lora import LoraLayer

from gptoss_ft.config import ModelSection
from gptoss_ft.model.adapter_layout import fused_parameter
from gptoss_ft.model.repository import stock_name


def portable_config(model: Any, config: ModelSection) -> dict[str, Any]:
    """What adapter_config.json says of the adapter on `model`, for the stock model with its fused experts.

    Written by hand, because what PEFT and Unsloth write depends on their versions: patterns for module names, an
    `auto_mapping`, keys that other releases do not know. Names are the shortest that select what was trained.
    """
    live = model.peft_config["default"]
    modules, parameters = _adapted(model)
    base = stock_name(config)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": config.revision if base == config.name else None,
        "inference_mode": True,
        "r": live.r,
        "lora_alpha": live.lora_alpha,
        # PEFT refuses dropout beside target_parameters, and at inference there is none.
        "lora_dropout": 0.0 if parameters else live.lora_dropout,
        "bias": live.bias,
        # An empty list is none; null would be PEFT's own choice for the kind of model.
        "target_modules": _shortest(
            modules, _stock_names(name for name, _ in model.get_base_model().named_modules()), 1
        ),
        "target_parameters": _shortest(parameters, _stock_parameters(model), 3) or None,
        "modules_to_save": sorted(live.modules_to_save) if live.modules_to_save else None,
        "use_rslora": live.use_rslora,
        "use_dora": live.use_dora,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _adapted(model: Any) -> tuple[set[str], set[str]]:
    """Full stock names of the modules and of the parameters that have adapters."""
    modules: set[str] = set()
    parameters: set[str] = set()
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        stock = _stock_name(name)
        if stock != _unwrapped(name):
            parameters.add(stock)
        # A parameter's wrapper knows the parameter's name.
        elif (parameter := getattr(module, "parameter_name", None)) is not None:
            parameters.add(f"{stock}.{parameter}")
        else:
            modules.add(stock)
    return modules, parameters


def _shortest(chosen: set[str], everything: set[str], parts: int) -> list[str]:
    """Names that select, by their end, `chosen` out of `everything`: the last `parts` of a name where no other has the
    same, else the whole name."""

    def name_of(full: str) -> str:
        short = ".".join(full.split(".")[-parts:])
        alike = {name for name in everything if name == short or name.endswith(f".{short}")}
        return short if alike <= chosen else full

    return sorted({name_of(full) for full in chosen})


def _stock_parameters(model: Any) -> set[str]:
    names = {name for name, _ in model.get_base_model().named_parameters()}
    # A split expert's weight is a part of the stock parameter that its module is called after.
    return _stock_names(name.removesuffix(".weight") if ".experts." in name else name for name in names)


def _stock_names(names: Iterable[str]) -> set[str]:
    return {_stock_name(name) for name in names}


def _stock_name(name: str) -> str:
    """A module's or parameter's name in the stock model without adapters."""
    plain = _unwrapped(name)
    return fused_parameter(plain) or plain


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "base_layer")
