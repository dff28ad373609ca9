"""LoRA adapters on the base model, and proof that they are where the config asked for them."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftType
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper

from gptoss_ft.config import LoraSection, TrainingSection
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.hub_client import fetch_snapshot
from gptoss_ft.hub_errors import explained
from gptoss_ft.model.adapter_layout import to_layout_of, without_counterpart
from gptoss_ft.model.source_memory import sources_remembered
from gptoss_ft.runtime import Device

# What a model may call the modules that hold a projection: fused ones, and Unsloth's split experts.
HELD_IN = {
    "q_proj": ("qkv_proj",),
    "k_proj": ("qkv_proj",),
    "v_proj": ("qkv_proj",),
    "gate_proj": ("gate_up_proj", "gate_up_projs"),
    "up_proj": ("gate_up_proj", "gate_up_projs"),
    "down_proj": ("down_projs",),
}
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterFacts:
    """Counts of parameters: all of the model's, the trainable ones, and those of them that belong to experts; and
    whether weights are held in 4 bits."""

    total: int
    trainable: int
    expert: int
    in_4bit: bool

    @property
    def share(self) -> float:
        return self.trainable / self.total


def attach(model: Any, config: LoraSection, device: Device, training: TrainingSection) -> Any:
    """Put adapters on `model` and return it wrapped. `SettingError` when a target of the config got none."""
    from unsloth import FastLanguageModel

    parameters = config.target_parameters
    if parameters is None and device.kind == "cpu":
        # On a GPU Unsloth finds the experts itself; its CPU backend leaves them out (2026.10.9).
        parameters = _fused_experts(model, config.target_modules) or None
    if parameters and config.dropout > 0:
        raise SettingError(
            f"read {config.dropout}, but experts held as one parameter cannot have dropout",
            "Set lora.dropout: 0, or take gate_proj, up_proj and down_proj out of lora.target_modules.",
            key="lora.dropout",
        )
    options: dict[str, Any] = {"use_dora": True} if config.use_dora else {}
    try:
        with sources_remembered():
            adapted = FastLanguageModel.get_peft_model(
                model,
                r=config.r,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                bias=config.bias,
                target_modules=list(config.target_modules),
                target_parameters=parameters,
                use_rslora=config.use_rslora,
                modules_to_save=list(config.modules_to_save) if config.modules_to_save else None,
                use_gradient_checkpointing=training.gradient_checkpointing,
                random_state=training.seed,
                **options,
            )
    except (TypeError, ValueError) as error:
        # PEFT's and Unsloth's words for targets that the model does not have, and for combinations that it cannot do.
        raise SettingError(
            f"the adapter is refused: {' '.join(str(error).split())}",
            "Check lora.target_modules, lora.target_parameters and the options beside them.",
            key="lora.target_modules",
        ) from None
    _refuse_untouched(adapted, config)
    _refuse_not_portable(adapted, config)
    return adapted


def _fused_experts(model: Any, targets: Iterable[str]) -> list[str]:
    """Suffixes of the expert weights held as one 3-D parameter (experts, in, out) that `targets` ask for."""
    wanted = {name for target in targets if target in MLP_TARGETS for name in (target, *HELD_IN[target])}
    fused = {
        ".".join(name.split(".")[-3:])
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3 and name.rpartition(".")[2] in wanted
    }
    return sorted(fused)


def _refuse_untouched(model: Any, config: LoraSection) -> None:
    covered: set[str] = set()
    parameters: set[str] = set()
    saved_whole: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            # A fused parameter's wrapper knows the parameter's name, and two on one module are nested.
            path = [part for part in name.split(".") if part != "base_layer"]
            if (parameter := getattr(module, "parameter_name", None)) is not None:
                path.append(parameter)
            parameters.add(".".join(path))
            # gate_up_projs.5 is a module of a list.
            covered.add(next(part for part in reversed(path) if not part.isdigit()))
        elif isinstance(module, ModulesToSaveWrapper):
            saved_whole.add(name.rpartition(".")[2])
    untouched = [
        target
        for target in config.target_modules
        if not any(name in covered for name in (target, *HELD_IN.get(target, ())))
    ]
    if untouched:
        raise SettingError(
            f"no adapter on {', '.join(untouched)}: the model has no such module, or it cannot be trained; "
            f"adapters are on {', '.join(sorted(covered)) or 'nothing'}",
            "Take it out of lora.target_modules, or name the model's own modules.",
            key="lora.target_modules",
        )
    for parameter in config.target_parameters or ():
        if not any(f".{name}".endswith(f".{parameter}") for name in parameters):
            raise SettingError(
                f"no adapter on {parameter}", "Name parameters that the model has.", key="lora.target_parameters"
            )
    for name in config.modules_to_save or ():
        if name not in saved_whole:
            raise SettingError(f"the model has no module {name} to save", key="lora.modules_to_save")


def _refuse_not_portable(model: Any, config: LoraSection) -> None:
    """Before hours of training, not after: final_model is for stock PEFT, whose experts have no place for these."""
    trained = without_counterpart(name for name, weight in model.named_parameters() if weight.requires_grad)
    if trained:
        key, value = ("lora.use_dora", "false") if config.use_dora else ("lora.bias", "none")
        raise SettingError(
            f"{trained[0]} would be trained, which an adapter for the stock model cannot hold",
            f"Set {key}: {value}.",
            key,
        )


def check_existing(name: str, config: LoraSection) -> None:
    """Raise `SettingError` unless the adapter `name` was trained at the scale that the job would go on with, and
    `DataError` where it is none that can be gone on from."""
    folder = _adapter_folder(name)
    with explained(name, "model.adapter"):
        theirs = PeftConfig.from_pretrained(str(folder))
        content: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if theirs.peft_type != PeftType.LORA:
        raise DataError(
            f"{name} is an adapter of kind {theirs.peft_type.value}, not LORA", "Name a LoRA adapter.", "model.adapter"
        )
    if _is_grouped_by_expert(content):
        raise DataError(
            f"the experts of {name} are packed as Unsloth packed them before its version 2026.9.6, not as PEFT does",
            "Load and save it once with Unsloth 2026.9.6 or later, which repacks it.",
            key="model.adapter",
        )
    settings = {
        "lora.r": (theirs.r, config.r),
        "lora.alpha": (theirs.lora_alpha, config.alpha),
        "lora.use_rslora": (theirs.use_rslora, config.use_rslora),
        "lora.use_dora": (theirs.use_dora, config.use_dora),
    }
    for key, (value, wanted) in settings.items():
        if value != wanted:
            raise SettingError(
                f"read {wanted}, but the adapter {name} was trained with {value}", f"Set {key}: {value}.", key=key
            )


def _adapter_folder(name: str) -> Path:
    """The folder of the adapter `name`, fetched where it is a hub id. `DataError` where it is no adapter's, or its
    weights are not safetensors: PEFT would read a pickle."""
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        with explained(name, "model.adapter"):
            folder = fetch_snapshot(name, allow_patterns=[CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME])
    if not (folder / CONFIG_NAME).is_file():
        raise DataError(f"{name} is no adapter: it has no {CONFIG_NAME}", "Name an adapter.", key="model.adapter")
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise DataError(
            f"the adapter {name} has no {SAFETENSORS_WEIGHTS_NAME}, and a pickle (adapter_model.bin) is not read: "
            "it can run code",
            "Name an adapter that was saved as safetensors.",
            key="model.adapter",
        )
    return folder


def _is_grouped_by_expert(content: dict[str, Any]) -> bool:
    """Whether columns of the experts' B are not where PEFT looks for them (unsloth#6930). Unsloth has said so since
    2026.9.6; before, its files with `target_parameters` had that order and said nothing of it."""
    mapping = content.get("auto_mapping") or {}
    said = content.get("lora_B_layout") or mapping.get("lora_B_layout")
    detail = content.get("unsloth_fused_expert_lora") or mapping.get("unsloth_fused_expert_lora") or {}
    of_parameter = {entry.get("lora_B_layout") for entry in detail.get("parameters", {}).values()}
    if said or of_parameter:
        return "grouped_by_expert" in {said, *of_parameter}
    return bool(content.get("target_parameters") and mapping.get("unsloth_fixed"))


def load_existing(model: Any, name: str) -> None:
    """Load the weights of the adapter `name` (folder or hub id) into the adapters of `model`, which must match but for
    the layout of the experts."""
    from peft import load_peft_weights, set_peft_model_state_dict
    from peft.utils import get_peft_model_state_dict

    folder = _adapter_folder(name)
    with explained(name, "model.adapter"):
        weights = load_peft_weights(str(folder), device="cpu")
    own = get_peft_model_state_dict(model)
    weights = to_layout_of(weights, own)
    different = sorted(
        key for key in weights.keys() | own.keys()
        if key not in weights or key not in own or weights[key].shape != own[key].shape
    )  # fmt: skip
    if different:
        raise DataError(
            f"the adapter {name} does not fit: {len(different)} of {len(own)} tensors differ in name or shape, "
            f"first {different[0]}",
            "Set lora.r, lora.target_modules and lora.modules_to_save to what the adapter was trained with.",
            key="model.adapter",
        )
    set_peft_model_state_dict(model, weights)


def adapter_facts(model: Any) -> AdapterFacts:
    """Count parameters. 4-bit weights hold two to a byte: their true number is in the quantization state."""
    total = trainable = expert = 0
    in_4bit = False
    for name, parameter in model.named_parameters():
        count = _true_size(parameter)
        total += count
        in_4bit |= getattr(parameter, "quant_state", None) is not None
        if parameter.requires_grad:
            trainable += count
            expert += count if ".experts." in name else 0
    return AdapterFacts(total, trainable, expert, in_4bit)


def _true_size(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())
